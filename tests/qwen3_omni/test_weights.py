from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni import checkpoint as checkpoint_module
from omni_rt.engine.qwen3_omni import weights as weights_module
from omni_rt.engine.qwen3_omni.model import Omni, load, loading_bar
from omni_rt.engine.qwen3_omni.random_weights import RandomSource, fill_randomly
from omni_rt.engine.qwen3_omni.spec import OmniSpec
from omni_rt.engine.qwen3_omni.weights import name_in_memory, released_name
from tools.exact import loading as exact
from tools.exact.draw import draw
from tools.exact.lines import failures


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """Of a drawn model, with vocabularies so small that folders of it are cheap to copy."""
    content: dict[str, Any] = json.loads(draw(0).config.to_json_string())
    content["thinker_config"]["text_config"]["vocab_size"] = 320
    content["talker_config"]["text_config"]["vocab_size"] = 256
    content["talker_config"]["code_predictor_config"]["vocab_size"] = 64
    content["code2wav_config"]["codebook_size"] = 64
    return content


@pytest.fixture(scope="module")
def whole(config: dict[str, Any]) -> Omni:
    model = Omni(OmniSpec.from_config(config))
    fill_randomly(model, seed=1)
    return model


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], whole: Omni) -> Path:
    released = dict(exact.released_layout(dict(whole.named_parameters())))
    shards = [number % 3 for number in range(len(released))]
    return exact.write(tmp_path_factory.mktemp("weights") / "whole", json.dumps(config), released, shards)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "checkpoint"))


def from_folder(folder: Path, dtype: torch.dtype = torch.float32) -> Omni:
    return load(str(folder), device="cpu", dtype=dtype)


def refused(folder: Path) -> EngineError:
    with pytest.raises(EngineError) as caught:
        from_folder(folder)
    return caught.value


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a folder, and its index with them."""
    tensors = {name: tensor for path in shards(folder) for name, tensor in load_file(path).items()}
    change(tensors)
    for path in [*shards(folder), folder / "model.safetensors.index.json"]:
        path.unlink()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("seed", [0, 1])
def test_saved_and_released_folders_load(seed: int) -> None:
    assert failures(exact.lines(seed)) == []


def test_a_loaded_model_computes_what_it_should(folder: Path, whole: Omni) -> None:
    """What is computed rather than trained must be right too in a model that was built without memory."""
    model = from_folder(folder)
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(128, 100, generator=generator)
    patches = torch.randn(4 * 6, 1536, generator=generator)
    codes = torch.randint(0, 64, (1, 16, 3), generator=generator)
    assert model.code2wav is not None
    assert whole.code2wav is not None
    with torch.inference_mode():
        ours = [
            model.code2wav.step(codes, model.code2wav.state()),
            model.thinker.model.visual.encode(patches, [(4, 6)]).tokens,
            model.thinker.model.audio_tower.encode_window(mel, pad_tail=False),
        ]
        theirs = [
            whole.code2wav.step(codes, whole.code2wav.state()),
            whole.thinker.model.visual.encode(patches, [(4, 6)]).tokens,
            whole.thinker.model.audio_tower.encode_window(mel, pad_tail=False),
        ]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not [tensor for tensor in tensors_of(model) if tensor.is_meta]


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and whatever tensors modules keep as plain attributes."""
    for module in model.modules():
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        for value in vars(module).values():
            inner = vars(value).values() if hasattr(value, "__dict__") else [value]
            yield from (each for each in inner if isinstance(each, Tensor))


def test_the_dtype_asked_for(folder: Path, whole: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "_STAGING", 1024)  # so that tensors pass in pieces
    wanted = dict(whole.named_parameters())
    model = from_folder(folder, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, wanted[name].to(torch.bfloat16)), name
        assert not tensor.requires_grad


def test_without_a_talker(folder: Path, config: dict[str, Any]) -> None:
    """The speech weights of a whole checkpoint are left where they are; a thinker's own checkpoint has none."""
    (folder / "config.json").write_text(json.dumps({**config, "enable_audio_output": False}), encoding="utf-8")
    model = from_folder(folder)
    assert model.talker is None
    assert model.code2wav is None

    def keep_thinker(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if not name.startswith("thinker.")]:
            del tensors[name]

    rewrite(folder, keep_thinker)
    silent = {key: value for key, value in config.items() if key in ("model_type", "thinker_config") or "_id" in key}
    (folder / "config.json").write_text(json.dumps(silent), encoding="utf-8")
    again = from_folder(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_thinker_saved_alone(folder: Path, tmp_path: Path) -> None:
    drawn = draw(0)
    drawn.reference.thinker.save_pretrained(tmp_path / "alone")
    ours, wanted = from_folder(tmp_path / "alone"), dict(drawn.reference.thinker.named_parameters())
    assert ours.talker is None
    assert ours.spec.tokens == drawn.spec.tokens
    assert {name for name, _ in ours.thinker.named_parameters()} == wanted.keys()
    for name, tensor in ours.thinker.named_parameters():
        assert torch.equal(tensor, wanted[name]), name


def test_names() -> None:
    for stored, memory in (
        ("thinker.visual.pos_embed.weight", "thinker.model.visual.pos_embed.weight"),
        ("thinker.model.norm.weight", "thinker.model.language_model.norm.weight"),
        ("thinker.lm_head.weight", "thinker.lm_head.weight"),
        ("talker.model.norm.weight", "talker.model.norm.weight"),
    ):
        assert name_in_memory(stored) == memory
        assert name_in_memory(memory) == memory
        assert released_name(memory) == stored
    assert name_in_memory("audio_tower.proj1.bias") == "thinker.model.audio_tower.proj1.bias"


def test_no_folder(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere")
    assert error.code == "weights_missing"
    assert "nowhere" in str(error)
    assert "random:tiny" in str(error)


def test_no_config_and_a_wrong_one(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    assert refused(folder).code == "bad_config"
    assert "llama" in str(refused(folder))
    (folder / "config.json").write_text("[", encoding="utf-8")
    assert refused(folder).code == "weights_damaged"
    (folder / "config.json").unlink()
    assert refused(folder).code == "weights_missing"
    assert "config.json" in str(refused(folder))


def test_no_weights_at_all(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    error = refused(folder)
    assert error.code == "weights_missing"
    assert "model.safetensors.index.json" in str(error)


def test_a_missing_shard(folder: Path) -> None:
    shards(folder)[1].unlink()
    error = refused(folder)
    assert error.code == "weights_missing"
    assert "model-00002-of-00003.safetensors" in str(error)
    assert "1 of 3" in str(error)


def test_a_shard_cut_short(folder: Path) -> None:
    path = shards(folder)[2]
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 1)
    error = refused(folder)
    assert error.code == "weights_damaged"
    assert path.name in str(error)
    assert f"{size - 1:,}" in str(error)
    assert f"{size:,}" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"<!DOCTYPE html><title>Not found</title>",
        (20).to_bytes(8, "little") + b"{" * 30,
        (14).to_bytes(8, "little") + b'{"a":{"b":1}} ',
        (2).to_bytes(8, "little") + b"[]",
        (54).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}',
        (58).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-99,-95]}}',
    ],
)
def test_a_shard_that_is_none(folder: Path, content: bytes) -> None:
    shards(folder)[0].write_bytes(content)
    error = refused(folder)
    assert error.code == "weights_damaged"
    assert shards(folder)[0].name in str(error)


def test_an_index_that_does_not_fit(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    one, other = (shard.name for shard in shards(folder)[:2])
    name = next(name for name, shard in index["weight_map"].items() if shard == one)
    index["weight_map"][name] = other
    path.write_text(json.dumps(index), encoding="utf-8")
    assert refused(folder).code == "weights_damaged"
    assert name in str(refused(folder))
    path.write_text('{"weight_map": {}}', encoding="utf-8")
    assert refused(folder).code == "weights_damaged"


def test_a_tensor_that_is_missing_or_unknown(folder: Path) -> None:
    lost = "thinker.model.layers.1.mlp.experts.2.up_proj.weight"

    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["thinker.model.layers.1.mlp.experts.2.upper.weight"] = tensors.pop(lost)

    rewrite(folder, rename)
    error = refused(folder)
    assert error.code == "weights_mismatch"
    assert f"{lost} missing" in str(error)
    assert "experts.2.upper.weight in the files unknown" in str(error)


def test_tables_in_the_files_are_left_there(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"thinker.model.rotary_emb.inv_freq": torch.ones(4)}))
    from_folder(folder)


def test_a_tensor_that_is_there_twice(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["thinker.lm_head.weight"] + 1}))
    assert refused(folder).code == "weights_mismatch"
    assert "one and the same" in str(refused(folder))


def test_experts_both_whole_and_in_pieces(folder: Path, whole: Omni) -> None:
    stacked = "talker.model.layers.0.mlp.experts.down_proj"
    rewrite(folder, lambda tensors: tensors.update({stacked: whole.get_parameter(stacked).clone()}))
    assert refused(folder).code == "weights_mismatch"
    assert "both whole and in pieces" in str(refused(folder))


def test_a_wrong_shape(folder: Path, whole: Omni) -> None:
    name = "talker.model.layers.0.mlp.experts.1.gate_proj.weight"
    rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(3, 5)}))
    error = refused(folder)
    assert error.code == "weights_mismatch"
    spec = whole.spec.talker
    assert spec is not None
    assert name in str(error)
    assert "[3, 5]" in str(error)
    assert f"[{spec.decoder.mlp}, {spec.decoder.hidden}]" in str(error)


def test_quantised_weights(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"thinker.lm_head.weight": torch.zeros(4, dtype=torch.int8)}))
    assert refused(folder).code == "weights_mismatch"
    assert "quantised" in str(refused(folder))


def test_a_disk_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.FileIO):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_module.io, "FileIO", Failing)
    error = refused(folder)
    assert error.code == "weights_unreadable"
    assert "Input/output error" in str(error)


def test_a_file_that_shrinks_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shrunk(io.FileIO):
        def readinto(self, buffer: object) -> int:
            return 0

    monkeypatch.setattr(checkpoint_module.io, "FileIO", Shrunk)
    assert refused(folder).code == "weights_damaged"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_too_little_memory_is_told_in_bytes(
    folder: Path, whole: Omni, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    needed = sum(parameter.numel() for parameter in whole.parameters()) * dtype.itemsize
    monkeypatch.setattr(weights_module, "available_memory", lambda: needed)
    from_folder(folder, dtype)
    monkeypatch.setattr(weights_module, "available_memory", lambda: needed - 1)
    with pytest.raises(EngineError) as caught:
        from_folder(folder, dtype)
    assert caught.value.code == "too_little_memory"
    assert f"{needed:,}" in str(caught.value)
    assert f"{needed - 1:,}" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu() -> None:
    with pytest.raises(EngineError) as caught:
        load("random:tiny", device="cuda", dtype=torch.bfloat16)
    assert caught.value.code == "no_device"


def test_random_weights_follow_from_the_seed(config: dict[str, Any], whole: Omni) -> None:
    same, other = Omni(whole.spec), Omni(whole.spec)
    fill_randomly(same, seed=1)
    fill_randomly(other, seed=2)
    for (name, a), b, c in zip(whole.named_parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all()
        assert a.dim() < 2 or not torch.equal(a, c), name
    silent = Omni(dataclasses.replace(whole.spec, talker=None, code2wav=None))
    fill_randomly(silent, seed=1)
    assert torch.equal(silent.thinker.lm_head.weight, whole.thinker.lm_head.weight)


def test_random_weights_give_sound_that_is_neither_silent_nor_clipped() -> None:
    told: list[tuple[int, int]] = []
    model = load("random:tiny", device="cpu", dtype=torch.float32, progress=lambda *at: told.append(at))
    assert model.code2wav is not None
    codes = torch.randint(0, 2048, (1, 16, 25), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        sound = model.code2wav.step(codes, model.code2wav.state())
    assert sound.std() > 1e-3
    assert (sound.abs() >= 1).float().mean() < 0.05
    assert told[-1][0] == told[-1][1] == sum(parameter.nbytes for parameter in model.parameters())


def test_a_random_source() -> None:
    assert RandomSource.parse("random:tiny") == RandomSource("tiny", 0)
    assert RandomSource.parse("random:30b-a3b:12") == RandomSource("30b-a3b", 12)
    assert RandomSource.parse("weights/random:tiny") is None


@pytest.mark.parametrize("source", ["random:", "random:huge", "random:tiny:", "random:tiny:-1", "random:tiny:1:2"])
def test_a_wrong_random_source(source: str) -> None:
    with pytest.raises(EngineError) as caught:
        load(source, device="cpu", dtype=torch.float32)
    assert caught.value.code == "unknown_weights"
    assert "random:30b-a3b[:SEED]" in str(caught.value)


def test_the_released_shapes() -> None:
    """Count and sum of all names and shapes of the released model in transformers 5."""
    source = RandomSource.parse("random:30b-a3b")
    assert source is not None
    with torch.device("meta"):
        model = Omni(source.spec())
    named = sorted(f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == 35_259_818_545
    assert hashlib.sha256("\n".join(named).encode()).hexdigest() == RELEASED_SHAPES


RELEASED_SHAPES = "5828b985fdc27a67c472de46bc443d90c4df9209c0879eac8bd2877daa1d98aa"


def test_progress_and_the_bar(folder: Path, whole: Omni) -> None:
    out, told = Terminal(), []
    with loading_bar(out) as bar:

        def progress(done: int, total: int) -> None:
            told.append((done, total))
            bar(done, total)

        load(str(folder), device="cpu", dtype=torch.float32, progress=progress)
        waited = time.monotonic() + 20
        while "loading weights" not in out.getvalue() and time.monotonic() < waited:
            time.sleep(0.02)
    total = sum(parameter.nbytes for parameter in whole.parameters())
    assert told == sorted(told)
    assert told[-1] == (total, total)
    assert f"loading weights: {total / 1e6:.0f} of {total / 1e6:.0f} MB (100 %)" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K"), "the line is wiped at the end"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
