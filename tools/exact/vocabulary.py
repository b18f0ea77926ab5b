"""A tokenizer that needs no download."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from omni_rt.engine.qwen3_omni.tokenizer import FIRST_MARKER, Tokenizer

# Where the released vocabulary has the names of the roles, by which Hugging Face tells turns apart.
_ROLES = {"user": 872, "system": 8948, "assistant": 77091}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPACE = "\u0120"  # as byte-level vocabularies write it


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """A vocabulary that needs no download: bytes and roles at their released ids, words of four letters else."""
    merges = [(role[:at], role[at]) for role in _ROLES for at in range(1, len(role))]
    words = dict.fromkeys("".join(pair) for pair in merges)
    ids = {sign: number for number, sign in enumerate(sorted(ByteLevel.alphabet()))} | _ROLES
    free = iter(number for number in range(256, FIRST_MARKER) if number not in _ROLES.values())
    ids |= {word: next(free) for word in words if word not in ids}
    for number in free:
        places = np.unravel_index(number, (26,) * 4)
        ids[_SPACE + "".join(_LETTERS[place] for place in places)] = number
    with tempfile.TemporaryDirectory() as place:
        Path(place, "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        Path(place, "merges.txt").write_text("\n".join(map(" ".join, merges)), encoding="utf-8")
        return Tokenizer.from_folder(Path(place))
