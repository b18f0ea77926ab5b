"""The manifest is sound, and the store gives out nothing that is not what the manifest says."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from omni_rt.config import Settings, validate
from omni_rt.models.manifest import (
    ASR,
    CHAT_SMALL,
    EYES,
    HEARING,
    MANIFEST,
    QWEN_TOKENIZER,
    ModelFile,
    UnknownModel,
    find,
    needed,
)
from omni_rt.models.store import ModelMissing, ModelStore, State
from tests.support.wheelhouse import sha256

DATA = b"GGUF" + b"weights" * 1000
MODEL = ModelFile("tiny", "test", "MIT", "tiny.gguf", len(DATA), sha256(DATA))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setitem(MANIFEST, MODEL.name, MODEL)
    return ModelStore(tmp_path)


@pytest.mark.parametrize("model", MANIFEST.values(), ids=MANIFEST)
def test_every_entry_of_the_manifest_is_complete(model: ModelFile) -> None:
    assert find(model.name) is model
    assert model.licence
    assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
    assert model.parts
    assert sum(part.bytes for part in model.parts) == model.bytes
    assert len({(part.wheel, part.member) for part in model.parts}) == len(model.parts)
    assert all(re.fullmatch(r"[0-9a-f]{64}", part.sha256) for part in model.parts)
    if len(model.parts) == 1:
        assert model.parts[0].sha256 == model.sha256


def test_no_two_entries_share_a_file() -> None:
    assert set(Counter(model.file for model in MANIFEST.values()).values()) == {1}


def test_parts_are_numbered_in_order() -> None:
    for model in MANIFEST.values():
        if len(model.parts) > 1:
            numbers = [int(re.findall(r"\d+", part.member)[-1]) for part in model.parts]
            assert numbers == list(range(1, len(model.parts) + 1))
            assert [int(re.findall(r"\d+", part.wheel.package)[-1]) for part in model.parts] == numbers


def test_what_settings_need() -> None:
    everything = Settings()
    assert needed(everything) == (everything.local.chat_model, *ASR, *HEARING, *EYES)
    blind = validate({"local": {"eyes": False, "chat_model": CHAT_SMALL}})
    assert needed(blind) == (CHAT_SMALL, *ASR, *HEARING)
    own = validate({"local": {"chat_model": "models/own.gguf"}})
    assert needed(own) == (*ASR, *HEARING, *EYES)
    hub = validate({"local": {"chat_model": "hub:owner/repo/some/file.gguf"}})
    assert needed(hub)[0] == "hub:owner/repo/some/file.gguf"
    assert needed(validate({"engine": {"kind": "qwen3_omni"}})) == HEARING
    witnessed = validate({"engine": {"kind": "qwen3_omni", "witness": "local"}, "local": {"chat_model": CHAT_SMALL}})
    assert needed(witnessed) == (CHAT_SMALL, *ASR, *HEARING)


def test_the_tokenizer_for_random_weights_is_in_no_set_that_settings_need() -> None:
    assert find(QWEN_TOKENIZER).file == "qwen.tiktoken"
    for settings in (Settings(), validate({"engine": {"kind": "qwen3_omni"}})):
        assert QWEN_TOKENIZER not in needed(settings)


def test_a_missing_file_is_explained(store: ModelStore) -> None:
    with pytest.raises(ModelMissing) as raised:
        store.path("tiny")
    text = str(raised.value)
    assert "model tiny (7,004 bytes) is missing" in text
    assert "omni-rt doctor --fetch" in text
    assert f"put the file at {store.root / 'tiny.gguf'}" in text
    assert f"sha256 {MODEL.sha256}" in text


def test_a_file_put_there_by_hand_is_hashed_once(store: ModelStore) -> None:
    path = store.root / "tiny.gguf"
    path.write_bytes(DATA)
    assert store.path("tiny") == path
    stat = path.stat()
    path.write_bytes(b"x" * len(DATA))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.path("tiny") == path, "size and time are as recorded, so the bytes are not read at each start"
    assert store.check(MODEL, rehash=True) is State.WRONG
    assert store.check(MODEL) is State.WRONG, "what was once seen to be wrong is not taken on trust again"


@pytest.mark.parametrize("wrong", [DATA[:-1], b"x" * len(DATA), b""])
def test_a_wrong_file_is_refused(store: ModelStore, wrong: bytes) -> None:
    (store.root / "tiny.gguf").write_bytes(wrong)
    with pytest.raises(ModelMissing, match="not the right file"):
        store.path("tiny")


def test_a_file_that_changed_is_read_again(store: ModelStore) -> None:
    path = store.root / "tiny.gguf"
    path.write_bytes(DATA)
    store.path("tiny")
    path.write_bytes(b"x" * len(DATA))
    os.utime(path, ns=(0, 0))
    with pytest.raises(ModelMissing, match="not the right file"):
        store.path("tiny")
    path.write_bytes(DATA)
    os.utime(path, ns=(5, 5))
    assert store.path("tiny") == path


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"sha256": 1}', '{"sha256": "00", "bytes": 7004, "mtime_ns": 1, "x": 2}']
)
def test_a_spoilt_record_only_costs_a_hash(store: ModelStore, record: str) -> None:
    (store.root / "tiny.gguf").write_bytes(DATA)
    place = store.root / ".verified" / "tiny.gguf.json"
    place.parent.mkdir()
    place.write_text(record)
    assert store.path("tiny") == store.root / "tiny.gguf"


def test_a_cache_that_cannot_be_written_still_serves(store: ModelStore) -> None:
    (store.root / "tiny.gguf").write_bytes(DATA)
    (store.root / ".verified").write_text("a file where the folder should be")
    assert store.path("tiny") == store.root / "tiny.gguf"


def test_a_chat_model_may_be_any_gguf(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    own = store.root / "own.gguf"
    own.write_bytes(DATA)
    assert store.chat_model(str(own)) == own
    monkeypatch.setenv("HOME", str(store.root))
    assert store.chat_model("~/own.gguf") == own
    (store.root / "tiny.gguf").write_bytes(DATA)
    assert store.chat_model("tiny") == store.root / "tiny.gguf"
    with pytest.raises(ModelMissing, match=r"cannot read .*gone\.gguf: No such file"):
        store.chat_model(str(store.root / "gone.gguf"))
    own.write_bytes(b"PK\3\4")
    with pytest.raises(ModelMissing, match="is not a GGUF file"):
        store.chat_model(str(own))
    with pytest.raises(ModelMissing, match=r"hub:owner/repo/x\.gguf .* is missing"):
        store.chat_model("hub:owner/repo/x.gguf")


@pytest.mark.parametrize(
    "name", ["", "nonsense", "hub:", "hub:owner/x.gguf", "hub:o/r/x.bin", "hub:o/../../x.gguf", "hub:o/r/../x.gguf"]
)
def test_an_unknown_name_lists_the_known_ones(store: ModelStore, name: str) -> None:
    with pytest.raises(UnknownModel, match=rf"no model {re.escape(repr(name))}.*{CHAT_SMALL}.*hub:OWNER/REPO/FILE"):
        store.path(name)


def test_the_models_page_is_in_step_with_the_manifest() -> None:
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    for model in MANIFEST.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{model.name}` |"))
        hub = f"`{model.hub.file}` of `{model.hub.repo}`" if model.hub else "–"
        assert f"| {model.licence} | {model.bytes:,} | {hub} | `{model.parts[0].wheel}`" in row
        assert f"`{model.parts[-1].wheel}`" in row
        assert f"\n{model.sha256}  {model.file}\n" in page
