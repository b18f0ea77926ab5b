"""The talker: what the user said and the text of the answer in, frames of sixteen codes (80 ms of speech) out.

Its sequence is the rows of all user turns (`listen`), eight rows that no answer changes (`prefill`), and then one row
for each frame (`frames`): the sum of the frame before's sixteen embeddings plus one row of text. The first of these
rows carries the answer's first token, the following the next ones, then the end-of-text row once, then padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.code_predictor import CodePredictor
from omni_rt.engine.qwen3_omni.decoder import Decoder, Span
from omni_rt.engine.qwen3_omni.kv_cache import KVCache
from omni_rt.engine.qwen3_omni.layers import linear, upload
from omni_rt.engine.qwen3_omni.sampler import SamplingRows, choose
from omni_rt.engine.qwen3_omni.spec import CodecTokens, OmniSpec, TalkerSpec, TextTokens

PREFIX_ROWS = 8
# The top of the codec vocabulary holds control codes, of which only the end of speech may be drawn.
_CONTROL_CODES = 1024
_NEVER = torch.iinfo(torch.int32).max


@dataclass(frozen=True, slots=True)
class FixedRows:
    """Rows that depend on the weights alone: made once, used by every reply.

    `prefixes` [8, hidden] by the voice's name in lower case; `eos` [hidden] is the text row after the last token,
    `pad` [hidden] every text row after that.
    """

    prefixes: Mapping[str, Tensor]
    eos: Tensor
    pad: Tensor

    def prefix(self, voice: str) -> Tensor:
        """[8, hidden] of a voice, its name in any case. Raises EngineError `unknown_voice`."""
        rows = self.prefixes.get(voice.lower())
        if rows is None:
            names = ", ".join(sorted(name.capitalize() for name in self.prefixes))
            raise EngineError("unknown_voice", f"there is no voice {voice!r}; there are: {names}")
        return rows


@dataclass(slots=True, eq=False)
class TalkerState:
    """One spoken reply behind the first `rows` rows of `cache` (all user turns'); `position` is where it begins.

    The cache is the session's and outlives the reply: truncated to `rows` it is ready for what the user says next.
    `sums` holds every frame's sum of embeddings [hidden]; `first_frame` int32 [vocab] the frame in which a code was
    first drawn as the first of its frame.
    """

    cache: KVCache
    rows: int
    position: float
    first_frame: Tensor
    sums: list[Tensor] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames made so far."""
        return len(self.sums)

    def keep(self, frames: int) -> None:
        """Forgets all but the first `frames` frames; the time does not depend on how many are kept.

        Raises ValueError when there are not so many, or the cache holds less than these frames' rows.
        """
        if not 0 <= frames <= self.frames:
            raise ValueError(f"cannot keep {frames} of {self.frames} frames")
        self.cache.truncate(self.rows + PREFIX_ROWS + frames)
        del self.sums[frames:]
        self.first_frame = self.first_frame.masked_fill(self.first_frame >= frames, _NEVER)

    def positions(self, count: int) -> NDArray[np.float32]:
        """float32 [3, count] of the next rows; in a reply every row is one step, on all axes alike."""
        first = self.cache.length - self.rows
        places = np.float32(self.position) + np.arange(first, first + count, dtype=np.float32)
        return np.broadcast_to(places, (3, count))


class ResizeMLP(nn.Module):
    """From the thinker's width to the talker's: linear, silu, linear, with biases."""

    def __init__(self, spec: TalkerSpec) -> None:
        super().__init__()
        self.linear_fc1 = linear(spec.thinker_hidden, spec.projection, bias=True)
        self.linear_fc2 = linear(spec.projection, spec.decoder.hidden, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """[..., thinker's hidden] -> [..., talker's hidden]."""
        out: Tensor = self.linear_fc2(F.silu(self.linear_fc1(x)))
        return out


class TalkerModel(Decoder):
    """The decoder with the embedding table of first codes and control codes."""

    def __init__(self, spec: TalkerSpec) -> None:
        super().__init__(spec.decoder)
        self.codec_embedding = nn.Embedding(spec.decoder.vocab, spec.decoder.hidden)


class Talker(nn.Module):
    """Weights only; a session's state is its KVCache, a reply's its TalkerState."""

    def __init__(self, spec: OmniSpec) -> None:
        super().__init__()
        if spec.talker is None:
            raise ValueError("this checkpoint has no talker")
        self.text_tokens: TextTokens = spec.tokens
        self.codec: CodecTokens = spec.talker.codec
        self.voices: Mapping[str, int] = {name.lower(): code for name, code in spec.talker.voices.items()}
        self.vocab = spec.talker.decoder.vocab
        self.model = TalkerModel(spec.talker)
        self.text_projection = ResizeMLP(spec.talker)
        self.hidden_projection = ResizeMLP(spec.talker)
        self.codec_head = linear(spec.talker.decoder.hidden, self.vocab)
        self.code_predictor = CodePredictor(spec.talker)
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.codec_head.weight.device

    # -- rows

    def user_rows(self, embedded: Tensor, accepted: Tensor, media: Sequence[int]) -> Tensor:
        """Rows of user turns, [n, hidden]: markers and text by their embedding, media by what the thinker made of them.

        embedded [n, thinker's hidden] is the thinker's input without features, accepted [n, thinker's hidden] the
        output of its first `accept_layer` layers; `media` are the rows that stand for audio, images and videos.
        """
        rows = self.text_rows(embedded)
        if media:
            at = upload(np.asarray(media, dtype=np.int64), rows.device)
            rows = rows.index_copy(0, at, self.hidden_projection(accepted.index_select(0, at)))
        return rows

    def text_rows(self, embedded: Tensor) -> Tensor:
        """Embedded tokens of the answer [..., thinker's hidden] -> text rows [..., hidden]."""
        out: Tensor = self.text_projection(embedded)
        return out

    def first_row(self, embedded: Tensor) -> Tensor:
        """The answer's first token [..., thinker's hidden] -> the row of the first frame [..., hidden]."""
        return self.text_rows(embedded) + self.model.codec_embedding.weight[self.codec.bos]

    def fixed_rows(self, embed: Callable[[Tensor], Tensor]) -> FixedRows:
        """To be made once the weights are loaded. `embed` is the thinker's: int64 [n] -> [n, thinker's hidden]."""
        tokens, codec = self.text_tokens, self.codec
        text = [tokens.im_start, tokens.assistant, tokens.newline, tokens.tts_pad, tokens.tts_bos, tokens.tts_eos]
        start, assistant, newline, pad, bos, eos = self.text_rows(embed(torch.tensor(text, device=self.device)))
        prefixes = {}
        for name, voice in self.voices.items():
            codes = torch.tensor(
                [codec.nothink, codec.think_bos, codec.think_eos, voice, codec.pad], device=self.device
            )
            control = self.model.codec_embedding(codes)
            prefixes[name] = torch.cat(
                (torch.stack((start, assistant, newline)), torch.stack((pad, pad, pad, pad, bos)) + control)
            )
        return FixedRows(prefixes=prefixes, eos=eos, pad=pad)

    # -- passes

    def listen(
        self, cache: KVCache, embedded: Tensor, accepted: Tensor, media: Sequence[int], positions: Tensor
    ) -> None:
        """Appends rows of a user turn to a session's cache, in any chunking; arguments as in `user_rows`.

        positions float32 [3, n], counted over user turns only (audio in video counts as plain text here). The cache
        must hold nothing of a reply any more. Raises CacheFull with nothing changed.
        """
        rows = self.user_rows(embedded, accepted, media)
        self.model(rows, positions, [Span(cache, len(rows))])

    def start(self, cache: KVCache, rows: int, position: float) -> TalkerState:
        """A reply behind the first `rows` rows of a cache; whatever the cache holds beyond them is forgotten."""
        cache.truncate(rows)
        never = torch.full((self.vocab,), _NEVER, dtype=torch.int32, device=self.device)
        return TalkerState(cache=cache, rows=rows, position=position, first_frame=never)

    def prefill(self, states: Sequence[TalkerState], prefixes: Sequence[Tensor]) -> None:
        """The eight rows before the first token, of several replies in one pass; prefixes [8, hidden] each.

        Raises CacheFull with nothing changed.
        """
        if any(state.cache.length != state.rows for state in states):
            raise ValueError("a reply's prefix comes right behind the user's rows")
        positions = np.concatenate([state.positions(PREFIX_ROWS) for state in states], axis=1)
        spans = [Span(state.cache, PREFIX_ROWS) for state in states]
        self.model(torch.cat(list(prefixes)), upload(positions, self.device), spans)

    def frames(
        self,
        states: Sequence[TalkerState],
        text: Tensor,
        codes: SamplingRows,
        residuals: SamplingRows,
        uniform: Tensor,
    ) -> Tensor:
        """The next frame of each of B replies, in one pass: int64 [B, 16].

        text [B, hidden]: for a reply's first frame its `first_row`, later the text row of the next token, `eos` once
        after the last, then `pad`. `codes` and `residuals` say how to draw the first code and the other fifteen,
        uniform float32 [B, 16] in [0, 1) are the numbers to draw with. A frame whose first code is the codec's `eos`
        (see `ended`) is no sound: the reply is over. Raises CacheFull with nothing changed.
        """
        if any(state.cache.length != state.rows + PREFIX_ROWS + state.frames for state in states):
            raise ValueError("a frame comes right behind the prefix or the frame before")
        rows = torch.stack(
            [state.sums[-1] + row if state.sums else row for state, row in zip(states, text, strict=True)]
        )
        positions = np.concatenate([state.positions(1) for state in states], axis=1)
        spans = [Span(state.cache, 1) for state in states]
        hidden = self.model(rows, upload(positions, self.device), spans).hidden
        first_frame = torch.stack([state.first_frame for state in states])
        code = choose(
            self.codec_head(hidden), codes, uniform[:, 0], seen=first_frame != _NEVER, suppressed=self._suppressed()
        )
        embedded = self.model.codec_embedding(code)
        frame, sums = self.code_predictor.predict(hidden, code, embedded, residuals, uniform[:, 1:])
        numbers = upload(np.array([[state.frames] for state in states], dtype=np.int32), self.device)
        drawn = code[:, None]
        first_frame = first_frame.scatter(1, drawn, torch.minimum(first_frame.gather(1, drawn), numbers))
        for number, state in enumerate(states):
            state.first_frame = first_frame[number]
            state.sums.append(sums[number])
        return frame

    def ended(self, frame: Sequence[int]) -> bool:
        """Whether a frame's codes, on the host, say that the reply is over."""
        return frame[0] == self.codec.eos

    def _suppressed(self) -> Tensor:
        """bool [vocab]: the control codes but the end of speech."""
        numbers = torch.arange(self.vocab, device=self.device)
        return (numbers >= self.vocab - _CONTROL_CODES) & (numbers != self.codec.eos)
