"""The shapes and token ids of a Qwen3-Omni checkpoint, read from its config.json.

Both layouts of that file are understood: the released one (`rope_theta`, `rope_scaling`) and the one transformers 5
writes (`rope_parameters`). Class defaults of transformers are never relied on, since several of them differ from every
released model: a missing key is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SpecError(Exception):
    """The configuration lacks a key or holds an impossible value; the message names the key."""


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding; `sections` (of frequencies for time, height, width) is empty for one-dimensional positions."""

    theta: float
    sections: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A causal transformer with grouped-query attention, per-head q/k norm, and a mixture-of-experts or dense MLP.

    `experts` 0 means a dense MLP of width `mlp`; otherwise `mlp` is the width of one expert and `shared` that of the
    gated shared expert (0: none).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    mlp: int
    rope: RopeSpec
    eps: float
    context: int
    experts: int = 0
    top_k: int = 0
    normalise_top_k: bool = True
    shared: int = 0

    @property
    def kv_bytes_per_token(self) -> int:
        """At two bytes a number."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class AudioSpec:
    """The audio encoder: 128-band log-mel in, 13 tokens a second of width `output` out.

    `chunk_frames` mel frames (1 s) pass the convolutions together; attention spans `window_frames` mel frames (8 s).
    """

    mel_bins: int
    d_model: int
    layers: int
    heads: int
    ffn: int
    conv_channels: int
    output: int
    max_positions: int
    chunk_frames: int
    window_frames: int


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision encoder: patches of `patch` x `patch` pixels, `merge` x `merge` of them to a token."""

    depth: int
    hidden: int
    heads: int
    mlp: int
    patch: int
    temporal_patch: int
    merge: int
    channels: int
    grid_positions: int
    deepstack: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True)
class TextTokens:
    """Ids of the thinker's special tokens."""

    im_start: int
    im_end: int
    system: int
    user: int
    assistant: int
    newline: int
    audio_start: int
    audio_end: int
    audio: int
    image: int
    video: int
    vision_start: int
    vision_end: int
    tts_pad: int
    tts_bos: int
    tts_eos: int


@dataclass(frozen=True, slots=True)
class CodecTokens:
    """Ids of the talker's special codes."""

    bos: int
    eos: int
    pad: int
    nothink: int
    think_bos: int
    think_eos: int


@dataclass(frozen=True, slots=True)
class TalkerSpec:
    """The talker and its code predictor; `accept_layer` thinker layers lie below the hidden state it takes.

    `projection` is the inner width of the two projections from the thinker's width to the talker's.
    """

    decoder: DecoderSpec
    predictor: DecoderSpec
    thinker_hidden: int
    projection: int
    accept_layer: int
    code_groups: int
    codec: CodecTokens
    voices: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Code2WavSpec:
    """Codes in, 24 kHz samples out: transformer, two upsampling blocks, four decoder blocks."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    window: int
    eps: float
    rope_theta: float
    codebook: int
    quantizers: int
    decoder_dim: int
    upsample_rates: tuple[int, ...]
    upsampling_ratios: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class OmniSpec:
    """A whole checkpoint. `talker` and `code2wav` are None in one that only writes (Thinking, Captioner)."""

    text: DecoderSpec
    audio: AudioSpec
    vision: VisionSpec
    tokens: TextTokens
    positions_per_second: int
    talker: TalkerSpec | None
    code2wav: Code2WavSpec | None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> OmniSpec:
        """From the content of config.json. Raises SpecError."""
        root = _Table("config", config)
        kind = root.get("model_type", "")
        if kind != "qwen3_omni_moe":
            raise SpecError(f"config.json describes a {kind or 'model without model_type'!r}, not 'qwen3_omni_moe'")
        thinker = root.table("thinker_config")
        speaks = bool(root.get("enable_audio_output", "talker_config" in config)) and "talker_config" in config
        text = _decoder(thinker.table("text_config"), moe=True)
        talker = _talker(root.table("talker_config")) if speaks else None
        if talker is not None and talker.accept_layer > text.layers:
            raise SpecError(
                f"talker_config.accept_hidden_layer is {talker.accept_layer}, the thinker has {text.layers}"
            )
        return cls(
            text=text,
            audio=_audio(thinker.table("audio_config")),
            vision=_vision(thinker.table("vision_config")),
            tokens=_tokens(root, thinker),
            positions_per_second=thinker.whole("position_id_per_seconds"),
            talker=talker,
            code2wav=_code2wav(root.table("code2wav_config")) if speaks else None,
        )

    @classmethod
    def from_folder(cls, folder: Path) -> OmniSpec:
        """From a checkpoint folder's config.json. Raises SpecError."""
        path = folder / "config.json"
        try:
            return cls.from_config(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise SpecError(f"cannot read {path}: {error.strerror}; is it a checkpoint folder?") from error
        except ValueError as error:
            raise SpecError(f"{path} is not valid JSON: {error}") from error


class _Table:
    """A table of the configuration that knows its name."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self._values = values

    def get(self, key: str, default: Any) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def need(self, key: str) -> Any:
        if key not in self:
            raise SpecError(f"{self.name}.{key} is missing from config.json")
        return self._values[key]

    def table(self, key: str) -> _Table:
        value = self.need(key)
        if not isinstance(value, Mapping):
            raise SpecError(f"{self.name}.{key} of config.json must be a table, not {value!r}")
        return _Table(key, value)

    def whole(self, key: str) -> int:
        value = self.need(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise SpecError(f"{self.name}.{key} of config.json must be a whole number, not {value!r}")
        return value

    def number(self, key: str) -> float:
        value = self.need(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise SpecError(f"{self.name}.{key} of config.json must be a number, not {value!r}")
        return float(value)

    def wholes(self, key: str) -> tuple[int, ...]:
        value = self.need(key)
        if not isinstance(value, list | tuple) or not all(isinstance(each, int) for each in value):
            raise SpecError(f"{self.name}.{key} of config.json must be a list of whole numbers, not {value!r}")
        return tuple(value)


def _rope(table: _Table, head_dim: int) -> RopeSpec:
    parameters = table.get("rope_parameters", None) or table.get("rope_scaling", None) or {}
    theta = parameters.get("rope_theta", table.get("rope_theta", None))
    if theta is None:
        raise SpecError(f"{table.name}.rope_theta is missing from config.json")
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        raise SpecError(f"{table.name}: rope type {kind!r} is not supported, only 'default'")
    sections = tuple(parameters.get("mrope_section", ()))
    if sections and sum(sections) != head_dim // 2:
        raise SpecError(f"{table.name}: mrope_section {sections} does not add up to half of head_dim {head_dim}")
    return RopeSpec(theta=float(theta), sections=sections)


def _decoder(table: _Table, *, moe: bool) -> DecoderSpec:
    heads, hidden = table.whole("num_attention_heads"), table.whole("hidden_size")
    head_dim = table.whole("head_dim") if "head_dim" in table else hidden // heads
    return DecoderSpec(
        hidden=hidden,
        layers=table.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=table.whole("num_key_value_heads"),
        head_dim=head_dim,
        vocab=table.whole("vocab_size"),
        mlp=table.whole("moe_intermediate_size" if moe else "intermediate_size"),
        rope=_rope(table, head_dim),
        eps=table.number("rms_norm_eps"),
        context=table.whole("max_position_embeddings"),
        experts=table.whole("num_local_experts" if "num_local_experts" in table else "num_experts") if moe else 0,
        top_k=table.whole("num_experts_per_tok") if moe else 0,
        normalise_top_k=bool(table.get("norm_topk_prob", True)),
        shared=table.get("shared_expert_intermediate_size", 0) if moe else 0,
    )


def _audio(table: _Table) -> AudioSpec:
    return AudioSpec(
        mel_bins=table.whole("num_mel_bins"),
        d_model=table.whole("d_model"),
        layers=table.whole("encoder_layers"),
        heads=table.whole("encoder_attention_heads"),
        ffn=table.whole("encoder_ffn_dim"),
        conv_channels=table.whole("downsample_hidden_size"),
        output=table.whole("output_dim"),
        max_positions=table.whole("max_source_positions"),
        chunk_frames=2 * table.whole("n_window"),
        window_frames=table.whole("n_window_infer"),
    )


def _vision(table: _Table) -> VisionSpec:
    return VisionSpec(
        depth=table.whole("depth"),
        hidden=table.whole("hidden_size"),
        heads=table.whole("num_heads"),
        mlp=table.whole("intermediate_size"),
        patch=table.whole("patch_size"),
        temporal_patch=table.whole("temporal_patch_size"),
        merge=table.whole("spatial_merge_size"),
        channels=table.whole("in_channels"),
        grid_positions=table.whole("num_position_embeddings"),
        deepstack=table.wholes("deepstack_visual_indexes"),
        output=table.whole("out_hidden_size"),
    )


def _tokens(root: _Table, thinker: _Table) -> TextTokens:
    return TextTokens(
        im_start=root.whole("im_start_token_id"),
        im_end=root.whole("im_end_token_id"),
        system=root.whole("system_token_id"),
        user=root.whole("user_token_id"),
        assistant=root.whole("assistant_token_id"),
        newline=root.get("newline_token_id", 198),
        audio_start=thinker.whole("audio_start_token_id"),
        audio_end=thinker.get("audio_end_token_id", 151670),
        audio=thinker.whole("audio_token_id"),
        image=thinker.whole("image_token_id"),
        video=thinker.whole("video_token_id"),
        vision_start=thinker.whole("vision_start_token_id"),
        vision_end=thinker.get("vision_end_token_id", 151653),
        tts_pad=root.whole("tts_pad_token_id"),
        tts_bos=root.whole("tts_bos_token_id"),
        tts_eos=root.whole("tts_eos_token_id"),
    )


def _talker(table: _Table) -> TalkerSpec:
    text = table.table("text_config")
    voices = table.need("speaker_id")
    if not isinstance(voices, Mapping) or not voices:
        raise SpecError("talker_config.speaker_id of config.json must name at least one voice")
    return TalkerSpec(
        decoder=_decoder(text, moe=True),
        predictor=_decoder(table.table("code_predictor_config"), moe=False),
        thinker_hidden=table.whole("thinker_hidden_size"),
        projection=text.whole("intermediate_size"),
        accept_layer=table.whole("accept_hidden_layer"),
        code_groups=table.whole("num_code_groups"),
        codec=CodecTokens(
            bos=table.whole("codec_bos_id"),
            eos=table.whole("codec_eos_token_id"),
            pad=table.whole("codec_pad_id"),
            nothink=table.whole("codec_nothink_id"),
            think_bos=table.whole("codec_think_bos_id"),
            think_eos=table.whole("codec_think_eos_id"),
        ),
        voices={str(name): int(code) for name, code in voices.items()},
    )


def _code2wav(table: _Table) -> Code2WavSpec:
    return Code2WavSpec(
        hidden=table.whole("hidden_size"),
        layers=table.whole("num_hidden_layers"),
        heads=table.whole("num_attention_heads"),
        kv_heads=table.whole("num_key_value_heads"),
        mlp=table.whole("intermediate_size"),
        window=table.whole("sliding_window"),
        eps=table.number("rms_norm_eps"),
        rope_theta=_rope(table, 0).theta,
        codebook=table.whole("codebook_size"),
        quantizers=table.whole("num_quantizers"),
        decoder_dim=table.whole("decoder_dim"),
        upsample_rates=table.wholes("upsample_rates"),
        upsampling_ratios=table.wholes("upsampling_ratios"),
    )
