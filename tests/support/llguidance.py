"""The grammar engine that llama.cpp has inside, asked directly: which bytes may come next under a grammar.

It is the very library that the local engine runs on; instead of a model, a test chooses the tokens.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Beside all bytes, some longer tokens, as vocabularies have them.
_LONGER = ('{"', '": ', '", "', '"}', "}}", "[[", "null", "true", "12", "00", "ab", " a", '":', "\\u", "é", "😀", ", ")
_EOS = 256 + len(_LONGER)
_TOKENS: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), *(text.encode() for text in _LONGER), b"\xff<eos>")
# When a text has become long, the first of these that may come is taken: what ends it soonest. Else chance goes on.
_ENDING = ("<eos>", "}", "]", '"', "n", "t", "f", ",", ":", " ")
_LONG = 200


class _TokenizerInit(ctypes.Structure):
    _fields_ = (
        ("vocab_size", ctypes.c_uint32),
        ("tok_eos", ctypes.c_uint32),
        ("token_lens", ctypes.c_void_p),
        ("token_bytes", ctypes.c_char_p),
        ("tokenizer_json", ctypes.c_char_p),
        ("tokenize_assumes_string", ctypes.c_bool),
        ("tokenize_fn", ctypes.c_void_p),
        ("greedy", ctypes.c_bool),
        ("tokenize_user_data", ctypes.c_void_p),
        ("slices", ctypes.c_void_p),
    )


class _Init(ctypes.Structure):
    """With room for limits; `llg_constraint_init_set_defaults` fills it."""

    _fields_ = (
        ("tokenizer", ctypes.c_void_p),
        ("log_buffer_level", ctypes.c_uint32),
        ("log_stderr_level", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 16),
    )


@cache
def _library() -> ctypes.CDLL:
    spec = find_spec("xllamacpp")
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(file))
    library.llg_new_tokenizer.restype = library.llg_new_matcher.restype = ctypes.c_void_p
    library.llg_matcher_get_error.restype = ctypes.c_char_p
    library.llg_matcher_get_mask_byte_size.restype = ctypes.c_size_t
    return library


@cache
def _init() -> _Init:
    lengths = (ctypes.c_uint32 * len(_TOKENS))(*map(len, _TOKENS))
    given = _TokenizerInit(len(_TOKENS), _EOS, ctypes.cast(lengths, ctypes.c_void_p), b"".join(_TOKENS), greedy=True)
    message = ctypes.create_string_buffer(1000)
    tokenizer = _library().llg_new_tokenizer(ctypes.byref(given), message, ctypes.c_size_t(len(message)))
    assert tokenizer, message.value
    init = _Init()
    _library().llg_constraint_init_set_defaults(ctypes.byref(init), ctypes.c_void_p(tokenizer))
    init.log_stderr_level = 0
    return init


class GrammarError(Exception):
    """The engine does not take a grammar, or has come to a place where nothing may follow."""


class Matcher:
    """A text that grows under a grammar in llguidance's form of Lark. Raises GrammarError for one it does not take."""

    def __init__(self, grammar: str) -> None:
        self._library = _library()
        made = self._library.llg_new_matcher(ctypes.byref(_init()), b"lark", grammar.encode())
        self._matcher = ctypes.c_void_p(made)
        size = self._library.llg_matcher_get_mask_byte_size(self._matcher) if made else 0
        self._mask = (ctypes.c_uint32 * (size // 4))()
        self.text = b""
        self._check()

    def __del__(self) -> None:
        self._library.llg_free_matcher(self._matcher)

    def _check(self) -> None:
        if message := self._library.llg_matcher_get_error(self._matcher):
            raise GrammarError(message.decode(errors="replace")[:2000])

    def allowed(self) -> list[int]:
        """The tokens that may come next."""
        size = ctypes.c_size_t(ctypes.sizeof(self._mask))
        self._library.llg_matcher_compute_mask_into(self._matcher, self._mask, size)
        self._check()
        return [token for token in range(len(_TOKENS)) if self._mask[token // 32] >> token % 32 & 1]

    def take(self, token: int) -> None:
        self._library.llg_matcher_consume_token(self._matcher, ctypes.c_uint32(token))
        self._check()
        self.text += b"" if token == _EOS else _TOKENS[token]

    def takes(self, text: str) -> bool:
        """Whether this may be the whole text."""
        for byte in text.encode():
            if byte not in self.allowed():
                return False
            self.take(byte)
        return _EOS in self.allowed()


def choose(grammar: str, seed: int, most: int = 4000) -> str:
    """A text under the grammar by chance. Raises GrammarError when there is none, or it does not end."""
    matcher, chance = Matcher(grammar), random.Random(seed)
    for step in range(most):
        allowed = matcher.allowed()
        if not allowed:
            raise GrammarError(f"nothing may follow {matcher.text!r}")
        token = chance.choice(allowed)
        within_text = len(allowed) > 40
        if step > _LONG and within_text:
            token = next((one for one in (ord('"'), chance.choice([token, ord("a")])) if one in allowed), token)
        elif step > _LONG and chance.random() < 0.8:
            named = [_EOS if text == "<eos>" else text.encode()[0] for text in _ENDING]
            token = next((one for one in named if one in allowed), token)
        elif chance.random() < 0.3:
            ending = [one for one in (*b'"}],', _EOS) if one in allowed]
            token = chance.choice(ending or [token])
        if token == _EOS:
            return matcher.text.decode()
        matcher.take(token)
    raise GrammarError(f"no end after {most} tokens: {matcher.text[-300:]!r}")
