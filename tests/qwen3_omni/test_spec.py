from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from omni_rt.engine.qwen3_omni.spec import OmniSpec, RopeSpec, SpecError
from tools.exact.draw import draw


@pytest.fixture
def config() -> dict[str, Any]:
    file = resources.files("omni_rt.engine.qwen3_omni") / "presets" / "30b-a3b.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def test_the_released_numbers(config: dict[str, Any]) -> None:
    spec = OmniSpec.from_config(config)
    assert spec.text.kv_bytes_per_token == 96 * 1024
    assert (spec.text.layers, spec.text.experts, spec.text.top_k, spec.text.shared) == (48, 128, 8, 0)
    assert spec.text.rope == RopeSpec(1e6, (24, 20, 20))
    assert (spec.audio.chunk_frames, spec.audio.window_frames) == (100, 800)
    assert spec.vision.deepstack == (8, 16, 24)
    assert spec.talker is not None
    assert (spec.talker.accept_layer, spec.talker.decoder.top_k, spec.talker.decoder.shared) == (24, 6, 768)
    assert spec.talker.predictor.rope == RopeSpec(1e6)
    assert set(spec.talker.voices) == {"ethan", "chelsie", "aiden"}
    assert spec.code2wav is not None
    assert spec.code2wav.head_dim == 64
    assert spec.code2wav.rope_theta == 1e4


def test_both_layouts_of_the_rotary_keys_are_read(config: dict[str, Any]) -> None:
    old = OmniSpec.from_config(config)
    for table in (config["thinker_config"]["text_config"], config["talker_config"]["text_config"]):
        table["rope_parameters"] = {**table.pop("rope_scaling"), "rope_theta": table.pop("rope_theta")}
    predictor = config["talker_config"]["code_predictor_config"]
    predictor["rope_parameters"] = {"rope_type": "default", "rope_theta": predictor.pop("rope_theta")}
    assert OmniSpec.from_config(config) == old


@pytest.mark.parametrize("seed", [0, 1])
def test_what_transformers_writes_is_what_it_was_given(seed: int, tmp_path: Path) -> None:
    drawn = draw(seed)
    drawn.config.save_pretrained(tmp_path)
    assert OmniSpec.from_folder(tmp_path) == drawn.spec
    text, config = drawn.spec.text, drawn.config.thinker_config.text_config
    assert (text.hidden, text.layers, text.experts) == (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_experts,
    )
    assert text.rope.sections == tuple(config.rope_parameters["mrope_section"])
    assert drawn.spec.talker is not None
    assert drawn.spec.talker.decoder.experts == drawn.config.talker_config.text_config.num_experts


@pytest.mark.parametrize("change", [{"enable_audio_output": False}, {"talker_config": None}])
def test_a_model_that_only_writes(config: dict[str, Any], change: dict[str, Any]) -> None:
    config |= change
    if config["talker_config"] is None:
        del config["talker_config"], config["enable_audio_output"]
    spec = OmniSpec.from_config(config)
    assert spec.talker is None
    assert spec.code2wav is None


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("model_type",), "qwen2_5_omni", "qwen2_5_omni"),
        (("thinker_config", "text_config", "head_dim"), "128", "text_config.head_dim"),
        (("thinker_config", "audio_config", "n_window"), None, "audio_config.n_window"),
        (("thinker_config", "text_config", "rope_theta"), None, "text_config.rope_theta"),
        (("thinker_config", "text_config", "rope_scaling"), {"mrope_section": [24, 20, 21]}, "mrope_section"),
        (("thinker_config", "text_config", "rope_scaling"), {"rope_type": "yarn"}, "yarn"),
        (("talker_config", "speaker_id"), {}, "speaker_id"),
        (("talker_config", "accept_hidden_layer"), 49, "accept_hidden_layer"),
        (("code2wav_config", "upsample_rates"), 8, "upsample_rates"),
        (("thinker_config",), [], "thinker_config"),
    ],
)
def test_a_wrong_key_is_named(config: dict[str, Any], path: tuple[str, ...], value: object, named: str) -> None:
    table = config
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    with pytest.raises(SpecError, match=named):
        OmniSpec.from_config(config)


def test_a_folder_without_a_readable_config(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="checkpoint folder"):
        OmniSpec.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match="not valid JSON"):
        OmniSpec.from_folder(tmp_path)
