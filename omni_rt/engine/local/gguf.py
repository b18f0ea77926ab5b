"""What a GGUF model file says about itself, and the memory that serving it takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from omni_rt.engine.api import EngineError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 1 << 24

# Buffers for computing, the interpreter and the small models.
_BESIDE = 300 * 2**20


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`context_tokens` is what the model was trained for; `token_bytes` is its cache's size per token."""

    bytes: int
    context_tokens: int
    token_bytes: int

    def memory(self, tokens: int) -> int:
        """Bytes that serving with a cache of `tokens` takes; weights are repacked for the processor when loaded."""
        return self.bytes + self.token_bytes * tokens + _BESIDE


def read_facts(path: Path) -> ModelFacts:
    """Raises EngineError when `path` is no GGUF file of a chat model."""
    try:
        with path.open("rb") as file:
            values = _read_values(file)
        arch = values["general.architecture"]
        heads = values[f"{arch}.attention.head_count"]
        head = values[f"{arch}.embedding_length"] // heads
        key = values.get(f"{arch}.attention.key_length", head) + values.get(f"{arch}.attention.value_length", head)
        kv_heads = values.get(f"{arch}.attention.head_count_kv", heads)
        token_bytes = 2 * values[f"{arch}.block_count"] * kv_heads * key
        return ModelFacts(path.stat().st_size, values[f"{arch}.context_length"], token_bytes)
    except (OSError, KeyError, ValueError, TypeError, struct.error) as error:
        raise EngineError(
            "bad_chat_model", f"{path} is not a GGUF chat model that can be read ({error!r}); fetch it again"
        ) from error


def _read_values(file: BinaryIO) -> dict[str, Any]:
    """The metadata before the vocabulary; arrays are left out."""
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    _, _, count = _unpack(file, "IQQ")
    values: dict[str, Any] = {}
    for _ in range(count):
        name = _string(file)
        if name.startswith("tokenizer.") and "general.architecture" in values:
            break
        (kind,) = _unpack(file, "I")
        values[name] = _value(file, kind)
    return values


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, length = _unpack(file, "IQ")
        for _ in range(length):
            _value(file, inner)
        return None
    return _unpack(file, _NUMBERS[kind])[0]


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > _LONGEST_STRING:
        raise ValueError(f"a string of {length} bytes")
    return file.read(length).decode(errors="replace")


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))
