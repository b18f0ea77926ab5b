"""The tokenizer gives Qwen3's ids, from each kind of file, and reads markers only where they are meant."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.tokenizer import FIRST_MARKER, MARKERS, Tokenizer
from omni_rt.models.manifest import QWEN_TOKENIZER
from tests.qwen3_omni.qwen_tokenizer import tokenizer
from tests.support.speech import model

pytestmark = pytest.mark.models

# checked against the tokenizer.json published with Qwen3 and against tiktoken
KNOWN = {
    "Hello, world!": [9707, 11, 1879, 0],
    "你好,世界。": [108386, 11, 99489, 1773],
    "こんにちは": [89015],
    "It's 2026-11-21.": [2132, 594, 220, 17, 15, 17, 21, 12, 16, 16, 12, 17, 16, 13],
    "  two  spaces\n\n\tx": [220, 1378, 220, 12621, 271, 10225],
    "😀👍🏽": [141334, 144349, 145375],
    "for i in range(10):\r\n    print(i)": [1958, 600, 304, 2088, 7, 16, 15, 5783, 262, 1173, 1956, 8],
    "Grüße aus Köln": [6464, 2391, 23455, 9421, 141377],
    "user": [872],
    "system": [8948],
    "assistant": [77091],
    "\n": [198],
    "<|im_end|>": [27, 91, 318, 6213, 91, 29],
    "<tool_call>": [27, 14172, 13429, 29],
    "": [],
}
TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from(" \n\t's09.<|>é中😀")), max_size=60
)


@pytest.mark.parametrize("text", KNOWN)
def test_known_ids(text: str) -> None:
    assert tokenizer().encode(text) == KNOWN[text]
    assert tokenizer().decode(KNOWN[text]) == text


@given(TEXTS)
@settings(max_examples=100)
def test_text_comes_back_composed(text: str) -> None:
    ids = tokenizer().encode(text)
    assert tokenizer().decode(ids) == unicodedata.normalize("NFC", text)
    assert all(token < FIRST_MARKER for token in ids)


def test_equal_letters_have_equal_ids() -> None:
    assert tokenizer().encode("e\u0301") == tokenizer().encode("é")


def test_half_a_surrogate_pair_is_a_question_mark() -> None:
    assert tokenizer().encode("a\ud800b") == tokenizer().encode("a?b")


def test_markers_are_those_of_the_released_model() -> None:
    assert list(MARKERS.values()) == list(range(151643, 151676))
    known = {"<|im_start|>": 151644, "<|im_end|>": 151645, "<|vision_start|>": 151652, "<|image_pad|>": 151655}
    known |= {"<tool_call>": 151657, "</think>": 151668, "<|audio_start|>": 151669, "<|audio_pad|>": 151675}
    assert {text: MARKERS[text] for text in known} == known


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_in_text_is_text(marker: str) -> None:
    ids = tokenizer().encode(f"say {marker} now")
    assert MARKERS[marker] not in ids
    assert tokenizer().decode(ids) == f"say {marker} now"
    assert tokenizer().decode([MARKERS[marker]]) == marker


def test_ids_beyond_the_markers_are_empty() -> None:
    assert tokenizer().decode([9707, 151676, 152063]) == "Hello"


@given(st.lists(st.integers(0, 152_063), max_size=20))
@settings(max_examples=100)
def test_a_stream_gives_what_decoding_the_whole_gives(ids: list[int]) -> None:
    stream = tokenizer().stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer().decode(ids)


@given(TEXTS)
@settings(max_examples=50)
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    stream = tokenizer().stream()
    shown = ""
    for token in tokenizer().encode(text.replace("\ufffd", "")):
        shown += stream.push(token)
        assert "\ufffd" not in shown
    assert not stream.pending


def test_a_stream_can_be_used_again() -> None:
    first = tokenizer().encode("𒀀")[0]
    stream = tokenizer().stream()
    assert stream.push(first) == ""
    assert stream.pending
    stream.reset()
    assert stream.push(KNOWN["user"][0]) == "user"
    assert stream.push(first) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(KNOWN["user"][0]) + stream.finish() == "user"


@pytest.fixture(scope="module")
def parts() -> dict[str, object]:
    """The parts of a tokenizer.json, made of the ranks."""
    return json.loads(tokenizer()._words.to_str())  # type: ignore[no-any-return]


def write_json(folder: Path, parts: dict[str, object], added: dict[str, int]) -> None:
    tokens = [{"id": number, "content": text, "special": True} for text, number in added.items()]
    (folder / "tokenizer.json").write_text(json.dumps({**parts, "added_tokens": tokens}))


def test_from_a_folder_with_tokenizer_json(tmp_path: Path, parts: dict[str, object]) -> None:
    write_json(tmp_path, parts, dict(MARKERS))
    loaded = Tokenizer.from_folder(tmp_path)
    assert {text: loaded.encode(text) for text in KNOWN} == KNOWN


def test_from_a_folder_with_vocabulary_and_merges(tmp_path: Path, parts: dict[str, object]) -> None:
    bpe = parts["model"]
    assert isinstance(bpe, dict)
    (tmp_path / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, bpe["merges"])) + "\n")
    loaded = Tokenizer.from_folder(tmp_path)
    assert {text: loaded.encode(text) for text in KNOWN} == KNOWN
    (tmp_path / "merges.txt").write_text("a b c\n")
    with pytest.raises(EngineError, match=r"merges\.txt is not a Qwen3-Omni tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_another_models_markers_are_refused(tmp_path: Path, parts: dict[str, object]) -> None:
    write_json(tmp_path, parts, {"<|im_end|>": 7})
    with pytest.raises(EngineError, match=r"gives <\|im_end\|> the id 7 instead of 151645"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"added_tokens": [], "model": {"vocab": {}}}'])
def test_a_broken_tokenizer_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(EngineError, match=r"tokenizer\.json is not .*; copy the tokenizer files") as raised:
        Tokenizer.from_folder(tmp_path)
    assert raised.value.code == "tokenizer"


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"neither tokenizer\.json nor vocab\.json and merges\.txt; copy"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(EngineError, match=r"cannot read .*ranks: No such file.*doctor --fetch --all"):
        Tokenizer.from_ranks(tmp_path / "ranks")


BYTES = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"what is this"], "line"),
        ([b"a!! 1"], "line"),
        ([b"IQ== x"], "line"),
        (BYTES, "has 256 entries"),
        ([*BYTES, base64.b64encode(b"abc") + b" 256"], "no two earlier tokens"),
    ],
)
def test_a_broken_ranks_file_is_named(tmp_path: Path, lines: list[bytes], why: str) -> None:
    path = tmp_path / "ranks"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(EngineError, match=rf"ranks is not .*{why}.*doctor --fetch --all"):
        Tokenizer.from_ranks(path)


def test_a_cut_ranks_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranks"
    path.write_bytes(b"\n".join(model(QWEN_TOKENIZER).read_bytes().splitlines()[:5000]))
    with pytest.raises(EngineError, match="has 5000 entries"):
        Tokenizer.from_ranks(path)
