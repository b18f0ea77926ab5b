"""A checkpoint folder: its config.json and the tensors in its safetensors files, found and read with named errors.

The files are read with plain system calls rather than mapped into memory, so that a failing disk is an error and not
the end of the process.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.spec import OmniSpec, SpecError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_HEADER_LIMIT = 100_000_000
_STAGING = 64 * 2**20
# a thinker saved by itself has no root table; these are the tokenizer's, equal in every release
_THINKER_ALONE = {
    "model_type": "qwen3_omni_moe",
    "enable_audio_output": False,
    "im_start_token_id": 151644,
    "im_end_token_id": 151645,
    "system_token_id": 8948,
    "user_token_id": 872,
    "assistant_token_id": 77091,
    "tts_pad_token_id": 151671,
    "tts_bos_token_id": 151672,
    "tts_eos_token_id": 151673,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: `size` bytes from `offset` on. `dtype` is the file's word for it, such as BF16."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def read_spec(folder: Path) -> OmniSpec:
    """Of a folder with the config.json of a whole model, or of a thinker saved alone. Raises EngineError."""
    if not folder.is_dir():
        raise EngineError(
            "weights_missing",
            f"there is no folder {folder}; give a downloaded checkpoint's folder, or random:30b-a3b or random:tiny",
        )
    config = _read_json(folder / "config.json")
    if config.get("model_type") == "qwen3_omni_moe_thinker":
        config = {**_THINKER_ALONE, "thinker_config": config}
    try:
        return OmniSpec.from_config(config)
    except SpecError as error:
        raise EngineError("bad_config", f"{folder}: {error}") from error


def read_headers(folder: Path) -> list[Stored]:
    """All tensors of the folder's safetensors files, none of them read yet.

    Raises EngineError: `weights_missing` for a file that is not there, `weights_damaged` for one that is cut short or
    no safetensors file, `weights_unreadable` when the disk fails.
    """
    stored: dict[str, Stored] = {}
    index = _shards(folder)
    for path in sorted({folder / shard for shard in index.values()} or {folder / _SINGLE}):
        for tensor in _read_header(path):
            if tensor.name in stored:
                raise EngineError(
                    "weights_damaged",
                    f"{tensor.name} is both in {stored[tensor.name].path} and in {path}; download the folder again",
                )
            stored[tensor.name] = tensor
    for name, shard in index.items():
        if name not in stored or stored[name].path.name != shard:
            raise EngineError(
                "weights_damaged",
                f"{folder / shard} lacks {name}, which {_INDEX} says is there; download both files again",
            )
    return list(stored.values())


class Reader:
    """Copies tensors of files to where they belong, converting the dtype; holds one file open and one buffer."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._path: Path | None = None
        self._file: io.FileIO | None = None
        self._staging: Tensor | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def copy(self, stored: Stored, target: Tensor) -> None:
        """Fill `target` (contiguous, of the stored shape). Raises EngineError."""
        dtype = _DTYPES[stored.dtype]
        try:
            file = self._open(stored)
            file.seek(stored.offset)
            if target.device.type == "cpu" and target.dtype == dtype:
                self._read(file, stored, target.view(-1).view(torch.uint8))
                return
            staging, flat = self._buffer(), target.view(-1)
            for start in range(0, stored.size, len(staging)):
                part = staging[: min(len(staging), stored.size - start)]
                self._read(file, stored, part)
                first = start // dtype.itemsize
                flat[first : first + len(part) // dtype.itemsize].copy_(part.view(dtype))
        except OSError as error:
            raise _unreadable(stored.path, error) from error

    def _open(self, stored: Stored) -> io.FileIO:
        if self._file is None or self._path != stored.path:
            if self._file is not None:
                self._file.close()
            self._file = io.FileIO(stored.path)
            self._path = stored.path
        return self._file

    def _buffer(self) -> Tensor:
        if self._staging is None:
            self._staging = torch.empty(_STAGING, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        return self._staging

    def _read(self, file: io.FileIO, stored: Stored, target: Tensor) -> None:
        view = target.numpy().data
        done = 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise EngineError("weights_damaged", f"{stored.path} ends within {stored.name}; download it again")
            done += count


def _shards(folder: Path) -> dict[str, str]:
    """Which file each tensor is in; empty for a folder with one file."""
    path = folder / _INDEX
    if not path.exists():
        if (folder / _SINGLE).exists():
            return {}
        raise EngineError(
            "weights_missing", f"{folder} has neither {_INDEX} nor {_SINGLE}; download the whole checkpoint"
        )
    index = _read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise EngineError("weights_damaged", f"{path} has no table weight_map of file names; download it again")
    missing = sorted(shard for shard in set(index.values()) if not (folder / shard).exists())
    if missing:
        raise EngineError(
            "weights_missing",
            f"{folder} lacks {few(missing)}, {len(missing)} of {len(set(index.values()))} weight files; "
            "download what is missing",
        )
    return index


def _read_header(path: Path) -> list[Stored]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            end = path.stat().st_size
            if not 2 <= length <= min(_HEADER_LIMIT, end - 8):
                raise _damaged(path, "its header does not fit into it")
            header = json.loads(file.read(length))
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise _damaged(path, f"its header is not JSON ({error})") from error
    tensors = []
    try:
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            dtype, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if first < 0 or (dtype in _DTYPES and last - first != math.prod(shape) * _DTYPES[dtype].itemsize):
                raise _damaged(path, f"{name} of shape {list(shape)} takes {last - first} bytes in it")
            tensors.append(Stored(name, path, dtype, shape, 8 + length + first, last - first))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header is malformed ({error!r})") from error
    needed = max((each.offset + each.size for each in tensors), default=0)
    if needed > end:
        raise _damaged(path, f"it is {end:,} bytes long and should be {needed:,}")
    for each in tensors:
        if each.dtype not in _DTYPES:
            raise EngineError(
                "weights_mismatch",
                f"{each.name} in {path} is {each.dtype}; quantised weights are not supported, take the bf16 release",
            )
    return tensors


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EngineError(
            "weights_missing", f"{path.parent} has no {path.name}; is it the folder of a checkpoint?"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is no JSON object")
    return content


def few(names: list[str]) -> str:
    """The first of many names."""
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")


def _damaged(path: Path, reason: str) -> EngineError:
    return EngineError("weights_damaged", f"{path} is damaged: {reason}; download it again")


def _unreadable(path: Path, error: OSError) -> EngineError:
    return EngineError("weights_unreadable", f"{path} cannot be read ({error.strerror}); check the disk and its rights")
