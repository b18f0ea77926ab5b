"""The thinker: tokens and features of all media in, a hidden state and the next token's logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omni_rt.engine.qwen3_omni.audio_encoder import AudioEncoder
from omni_rt.engine.qwen3_omni.decoder import Decoder, Deepstack, Span
from omni_rt.engine.qwen3_omni.layers import linear
from omni_rt.engine.qwen3_omni.spec import DecoderSpec, OmniSpec
from omni_rt.engine.qwen3_omni.vision_encoder import VisionEncoder

__all__ = ["LanguageModel", "Thinker", "ThinkerModel", "ThinkerPass"]


@dataclass(frozen=True, slots=True)
class ThinkerPass:
    """`hidden` [n, hidden] goes to the logits; `accepted` [n, hidden] to the talker, where the checkpoint has one."""

    hidden: Tensor
    accepted: Tensor | None


class LanguageModel(Decoder):
    """The decoder with the embedding table of its tokens."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__(spec)
        # empty, not drawn: a table of real size takes seconds to fill and is loaded anyway
        self.embed_tokens = nn.Embedding(spec.vocab, spec.hidden, _weight=torch.empty(spec.vocab, spec.hidden))
        self.requires_grad_(False)


class ThinkerModel(nn.Module):
    """The language model and the two encoders that feed it."""

    def __init__(self, spec: OmniSpec) -> None:
        super().__init__()
        self.audio_tower = AudioEncoder(spec.audio)
        self.visual = VisionEncoder(spec.vision)
        self.language_model = LanguageModel(spec.text)


class Thinker(nn.Module):
    """Weights only; a session's state is its KVCache and its PositionCounter."""

    def __init__(self, spec: OmniSpec) -> None:
        super().__init__()
        self.model = ThinkerModel(spec)
        self.lm_head = linear(spec.text.hidden, spec.text.vocab)
        self.accept_layer = None if spec.talker is None else spec.talker.accept_layer
        self.requires_grad_(False)

    def embed(self, ids: Tensor) -> Tensor:
        """int64 [n] -> [n, hidden]."""
        out: Tensor = self.model.language_model.embed_tokens(ids)
        return out

    def forward(
        self, rows: Tensor, positions: Tensor, spans: Sequence[Span], deepstack: Deepstack | None = None
    ) -> ThinkerPass:
        """As `Decoder.forward`: rows [n, hidden], positions float32 [3, n]. Raises CacheFull with nothing changed."""
        passed = self.model.language_model(rows, positions, spans, deepstack=deepstack, capture=self.accept_layer)
        return ThinkerPass(hidden=passed.hidden, accepted=passed.captured)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden] -> float32 [n, vocab]."""
        out: Tensor = self.lm_head(hidden)
        return out.float()
