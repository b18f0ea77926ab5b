"""Text to token ids and back, with the vocabulary that every Qwen3-Omni checkpoint shares.

Markers (`<|im_start|>`, `<tool_call>`, ...) have ids of their own that no text can be encoded into: whoever types
`<|im_end|>` is read as having typed that.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from omni_rt.engine.api import EngineError

FIRST_MARKER = 151643
_MARKERS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
)

MARKERS: Mapping[str, int] = {text: number for number, text in enumerate(_MARKERS, FIRST_MARKER)}

# Qwen's division of text into words, before byte pairs are merged (the tokenizer's published data, Apache-2.0).
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Encodes and decodes. Safe to share between sessions and threads."""

    def __init__(self, words: tokenizers.Tokenizer) -> None:
        """`words` knows the vocabulary and no marker. Raises EngineError for a vocabulary that is not Qwen3-Omni's."""
        vocabulary = words.get_vocab(with_added_tokens=False)
        byte_of = {sign: byte for byte, sign in _byte_signs().items()}
        try:
            pieces = {number: bytes(byte_of[sign] for sign in sign_text) for sign_text, number in vocabulary.items()}
        except KeyError as error:
            raise _wrong(f"its vocabulary holds {error}, which stands for no byte") from error
        if sorted(pieces) != list(range(FIRST_MARKER)):
            raise _wrong(f"its vocabulary has {len(pieces)} entries, a Qwen3-Omni one has ids 0 to {FIRST_MARKER - 1}")
        self._words = words
        self._pieces = [pieces[number] for number in range(FIRST_MARKER)] + [text.encode() for text in _MARKERS]

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a checkpoint folder: its tokenizer.json, else its vocab.json and merges.txt.

        Raises EngineError `tokenizer`.
        """
        whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
        if whole.is_file():
            return cls._from_json(whole)
        missing = [path.name for path in (vocabulary, merges) if not path.is_file()]
        if missing:
            raise EngineError(
                "tokenizer",
                f"{folder} has neither tokenizer.json nor {' and '.join(missing)}; {_COPY} into it",
            )
        try:
            ids = _word_ids(json.loads(vocabulary.read_text(encoding="utf-8")))
            lines = merges.read_text(encoding="utf-8").split("\n")
            pairs = [_pair(line) for line in lines if line.strip() and not line.startswith("#version")]
            return cls(_byte_pairs(ids, pairs))
        except EngineError as error:
            raise _bad_file(vocabulary, error) from error
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise _bad_file(f"{vocabulary} or {merges}", error) from error

    @classmethod
    def _from_json(cls, path: Path) -> Tokenizer:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            added = {token["content"]: token["id"] for token in content["added_tokens"]}
            content["added_tokens"] = []
            content["model"]["vocab"] = _word_ids(content["model"]["vocab"])
            # a template for special tokens would name tokens that are no longer added
            content["post_processor"] = None
            words = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises bare Exception
            raise _bad_file(path, error) from error
        for text, number in added.items():
            if MARKERS.get(text, number) != number:
                raise _bad_file(path, f"it gives {text} the id {number} instead of {MARKERS[text]}")
        try:
            return cls(words)
        except EngineError as error:
            raise _bad_file(path, error) from error

    @classmethod
    def from_ranks(cls, path: Path) -> Tokenizer:
        """From a ranks file: a line of base64 bytes and rank for each token. Takes about a second.

        Raises EngineError `tokenizer`.
        """
        try:
            ranks = dict(_rank(line) for line in path.read_bytes().splitlines() if line)
            signs = _byte_signs()
            ids = {_signs(token, signs): rank for token, rank in ranks.items()}
            merges = ((_signs(left, signs), _signs(right, signs)) for left, right in _merges(ranks))
            return cls(_byte_pairs(ids, list(merges)))
        except EngineError as error:
            raise _bad_file(path, error, _FETCH) from error
        except OSError as error:
            raise EngineError("tokenizer", f"cannot read {path}: {error.strerror}; {_FETCH}") from error
        except ValueError as error:
            raise _bad_file(path, error, _FETCH) from error

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, in which markers are text too; lone surrogates become question marks."""
        return self._words.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids

    def piece(self, token: int) -> bytes:
        """The UTF-8 bytes of one token, possibly a part of a character; none for the padding beyond the last marker."""
        return self._pieces[token] if token < len(self._pieces) else b""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, markers as they are written; U+FFFD stands for bytes that are no UTF-8."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        return TextStream(self)


class TextStream:
    """Decodes token by token; the texts of all pushes and of `finish`, joined, are the `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def pending(self) -> bool:
        """Whether the first bytes of a character wait for the others."""
        return bool(self._decoder.getstate()[0])

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        return self._decoder.decode(self._tokenizer.piece(token))

    def finish(self) -> str:
        """U+FFFD if a character was cut off, else nothing. The stream can then be used again."""
        rest = self._decoder.decode(b"", final=True)
        self.reset()
        return rest

    def reset(self) -> None:
        """Forget what is pending."""
        self._decoder.reset()


_COPY = "copy the tokenizer files of the released checkpoint"
_FETCH = "omni-rt doctor --fetch --all fetches the right one"


def _wrong(why: str) -> EngineError:
    return EngineError("tokenizer", why)


def _bad_file(path: Path | str, why: object, remedy: str = _COPY) -> EngineError:
    return EngineError("tokenizer", f"{path} is not a Qwen3-Omni tokenizer: {why}; {remedy}")


def _word_ids(vocabulary: Mapping[str, int]) -> dict[str, int]:
    return {text: number for text, number in vocabulary.items() if text not in MARKERS}


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split()
    return left, right


def _byte_pairs(ids: Mapping[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    words = tokenizers.Tokenizer(models.BPE(vocab=dict(ids), merges=merges))
    parts: list[Any] = [
        pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    words.normalizer = normalizers.NFC()
    words.pre_tokenizer = pre_tokenizers.Sequence(parts)
    words.decoder = decoders.ByteLevel()
    return words


def _byte_signs() -> dict[int, str]:
    """The printable character that byte-level vocabularies write for each byte: Latin-1's own where it is visible,
    else those from U+0100 on, in the order of the bytes."""
    visible = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    hidden = (byte for byte in range(256) if byte not in visible)
    return {byte: chr(byte) for byte in visible} | {byte: chr(0x100 + n) for n, byte in enumerate(hidden)}


def _signs(token: bytes, signs: Mapping[int, str]) -> str:
    return "".join(map(signs.__getitem__, token))


def _rank(line: bytes) -> tuple[bytes, int]:
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"line {line[:60]!r}: {error}") from error


def _merges(ranks: Mapping[bytes, int]) -> Iterable[tuple[bytes, bytes]]:
    """The pair that each token of several bytes was merged of: what the merges before its own leave of its bytes."""
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[at : at + 1] for at in range(len(token))]
        while len(parts) > 2:
            pairs = (ranks.get(left + right, rank) for left, right in pairwise(parts))
            lowest, at = min((pair, at) for at, pair in enumerate(pairs))
            if lowest >= rank:
                raise ValueError(f"{token!r} of rank {rank} is made of no two earlier tokens")
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]
