"""Model files from their makers' repositories on the model hub; a closed network is found out once and quickly."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omni_rt.models.manifest import HubFile, ModelFile, SourceError
from omni_rt.models.store import sha256_of

T = TypeVar("T")

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Hub:
    """One run's view of the hub: after the first failure to reach it, every later request is refused at once."""

    def __init__(self, timeout_s: float, endpoint: str | None = None) -> None:
        self._timeout_s = timeout_s
        self._endpoint = endpoint
        self._asking = threading.Lock()
        self._closed = ""

    def fetch(self, model: ModelFile, folder: Path, free_bytes: int) -> tuple[Path, str]:
        """Download the file of `model` into `folder`, going on where an earlier download broke off.

        Returns its path and its SHA-256, which is the manifest's or, without one, what the hub announced. Raises
        SourceError, before anything is downloaded if the hub has other bytes or more of them than `free_bytes`.
        """
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if model.hub is None:
            raise SourceError("not on the model hub")
        disable_progress_bars()
        size, announced = self._metadata(model.hub)
        expected = model.sha256 or announced
        if announced and announced != expected:
            raise SourceError(f"model hub: {model.hub} has other bytes (sha256 {announced})")
        if size > free_bytes:
            raise SourceError(f"model hub: {model.hub} takes {size:,} bytes and there are {free_bytes:,} free")
        digest = ""
        for _ in range(2):
            try:
                path = Path(
                    huggingface_hub.hf_hub_download(
                        model.hub.repo,
                        model.hub.file,
                        local_dir=folder,
                        endpoint=self._endpoint,
                        etag_timeout=self._timeout_s,
                    )
                )
            except Exception as error:  # the library raises what its HTTP client, the disk and its own checks raise
                raise SourceError(f"model hub: {model.hub}: {_first_line(error)}") from error
            digest = sha256_of(path)
            if digest == (expected or digest):
                return path, digest
            path.unlink()
        raise SourceError(f"model hub: {model.hub} came damaged twice: it has sha256 {digest} instead of {expected}")

    def _metadata(self, file: HubFile) -> tuple[int, str]:
        """Size in bytes (0: not told) and SHA-256 ('': not told) of a file."""
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError

        url = huggingface_hub.hf_hub_url(file.repo, file.file, endpoint=self._endpoint)
        with self._asking:
            if self._closed:
                raise SourceError(self._closed)
            try:
                told = _within(
                    self._timeout_s,
                    lambda: huggingface_hub.get_hf_file_metadata(url, timeout=self._timeout_s, endpoint=self._endpoint),
                )
            except HfHubHTTPError as error:
                raise SourceError(f"model hub: {file}: {_first_line(error)}") from error
            except Exception as error:  # whatever the HTTP client and the resolver raise
                self._closed = f"the model hub cannot be reached ({_first_line(error)})"
                raise SourceError(self._closed) from error
        etag = told.etag or ""
        return told.size or 0, etag if _SHA256.fullmatch(etag) else ""


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, or TimeoutError. Name resolution has no timeout of its own, so the thread is abandoned."""
    results: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(call())
        except Exception as error:
            results.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
