"""The model files on this machine: one folder, each file used only after its SHA-256 was seen to be right."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from omni_rt.models.manifest import ModelFile, find, is_gguf_path

_BLOCK = 1 << 20


class ModelMissing(Exception):
    """A model file is not there or not what it should be; the message says how to get it."""


class State(Enum):
    PRESENT = "present"
    MISSING = "missing"
    WRONG = "not the right file"


@dataclass(frozen=True, slots=True)
class _Record:
    """That a file of this hash was seen; void when the file's size or modification time differ."""

    sha256: str
    bytes: int
    mtime_ns: int


class ModelStore:
    """Looks model files up in `root`. A full hash is taken when a file is fetched, when it appears without a record
    (put there by hand) and when asked for; otherwise its size and modification time are compared with the record."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """The verified file of a manifest name or hub: spec. Raises ModelMissing and UnknownModel."""
        model = find(name)
        state = self.check(model)
        if state is not State.PRESENT:
            raise ModelMissing(self.explain(model, state))
        return self.target(model)

    def chat_model(self, spec: str) -> Path:
        """The file that `local.chat_model` means: manifest name, path of a .gguf, hub:OWNER/REPO/FILE.gguf.

        Raises ModelMissing and UnknownModel.
        """
        if not is_gguf_path(spec):
            return self.path(spec)
        path = Path(spec).expanduser()
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise ModelMissing(f"local.chat_model: cannot read {path.absolute()}: {error.strerror}") from error
        if magic != b"GGUF":
            raise ModelMissing(f"local.chat_model: {path.absolute()} is not a GGUF file")
        return path

    def target(self, model: ModelFile) -> Path:
        """Where the file of `model` belongs."""
        return self.root / model.file

    def check(self, model: ModelFile, rehash: bool = False) -> State:
        """Whether the file is there and right; `rehash` reads it all even if a record says so."""
        path = self.target(model)
        try:
            stat = path.stat()
        except OSError:
            return State.MISSING
        if model.bytes and stat.st_size != model.bytes:
            return State.WRONG
        record = self._record(model)
        if record is not None and (record.bytes, record.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            if model.sha256 not in ("", record.sha256):
                return State.WRONG
            if not rehash:
                return State.PRESENT
        digest = sha256_of(path)
        known = model.sha256 or (record.sha256 if record else "")
        if known and digest != known:
            if record is not None:
                self._remember(model, replace(record, mtime_ns=-1))
            return State.WRONG
        self._remember(model, _Record(digest, stat.st_size, stat.st_mtime_ns))
        return State.PRESENT

    def adopt(self, model: ModelFile, source: Path, digest: str) -> None:
        """Move a fetched file whose SHA-256 was just found to be `digest` into place, atomically."""
        path = self.target(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        stat = source.stat()
        source.replace(path)
        self._remember(model, _Record(digest, stat.st_size, stat.st_mtime_ns))

    def explain(self, model: ModelFile, state: State = State.MISSING) -> str:
        """What is wrong with a file and both ways to get it."""
        return "\n".join(
            (
                f"model {model.name} ({model.size_text}) is {state.value}",
                "  to fetch it: omni-rt doctor --fetch",
                *(f"  {line}" for line in self.by_hand(model)),
            )
        )

    def by_hand(self, model: ModelFile) -> list[str]:
        """Lines that say where to put the file, what it must be, and where its bytes can be had."""
        lines = [f"by hand: put the file at {self.target(model)}"]
        if model.sha256:
            lines.append(f"  it must have {model.size_text} and sha256 {model.sha256}")
        if model.hub:
            lines.append(f"  it is {model.hub} on the model hub")
        if len(model.parts) == 1:
            lines.append(f"  it is {model.parts[0].member} inside the registry package {model.parts[0].wheel}")
        elif model.parts:
            first, last = model.parts[0], model.parts[-1]
            lines.append(f"  it is {first.member} to {last.member}, joined in order,")
            lines.append(f"    inside the {len(model.parts)} registry packages {first.wheel} to {last.wheel}")
        return lines

    def _record_path(self, model: ModelFile) -> Path:
        return self.root / ".verified" / f"{model.file}.json"

    def _record(self, model: ModelFile) -> _Record | None:
        try:
            return _Record(**json.loads(self._record_path(model).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _remember(self, model: ModelFile, record: _Record) -> None:
        path = self._record_path(model)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        # a cache that cannot be written (a read-only image) still serves; its files are hashed at every start
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(
                json.dumps({"sha256": record.sha256, "bytes": record.bytes, "mtime_ns": record.mtime_ns}),
                encoding="utf-8",
            )
            fresh.replace(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
