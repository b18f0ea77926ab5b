"""The talker on the kernels: it listens to what users said, and makes a frame of every reply, with its sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.attention import Span
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.eight_bit import EightBit
from omni_rt.engine.qwen3_omni.fast_code2wav import FastCode2Wav, SoundState
from omni_rt.engine.qwen3_omni.fast_decoder import FastDecoder
from omni_rt.engine.qwen3_omni.fast_predictor import FastPredictor, draws
from omni_rt.engine.qwen3_omni.graphs import Graphs
from omni_rt.engine.qwen3_omni.kernels.draw import draw
from omni_rt.engine.qwen3_omni.kernels.fetch import fetch
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.passes import BLOCK, Bucket, PassMemory, to_host
from omni_rt.engine.qwen3_omni.requests import Frame, Line, Listening, Made
from omni_rt.engine.qwen3_omni.sampler import SamplingParams
from omni_rt.engine.qwen3_omni.talker import PREFIX_ROWS

# Where a talker's row comes from: the projected embedding of a token, the projected output of the thinker's layer, a
# row that depends on the weights alone, none.
_TEXT, _MEDIA, _FIXED = 0, 1, 2
_GROUPS = 16


@dataclass(frozen=True, slots=True)
class Heard:
    """Rows for the talker's cache: of a chunk that begins at row `start` of the thinker's pass, and the beginning of a
    line; either may be missing."""

    listening: Listening | None
    start: int
    line: Line | None

    @property
    def rows(self) -> int:
        return (len(self.listening.rows) if self.listening else 0) + (PREFIX_ROWS if self.line else 0)

    def reserve(self) -> None:
        """Raises CacheFull, with nothing changed."""
        if self.listening is not None:
            self.listening.cache.truncate(self.listening.known)
            self.listening.cache.reserve(self.rows)
        elif self.line is not None:
            self.line.cache.truncate(self.line.rows)
            self.line.cache.reserve(self.rows)


class FastTalker:
    """`slots` replies have a place at a time, `batches` are the sizes of steps, ascending."""

    def __init__(
        self,
        omni: Omni,
        pool: KVPool,
        graphs: Graphs,
        backend: Backend,
        *,
        slots: int,
        batches: Sequence[int],
        rows: Sequence[int],
        talking: SamplingParams,
        predicting: SamplingParams,
        embedded: Tensor,
        accepted: Tensor,
        eight_bit: EightBit,
    ) -> None:
        """`embedded` and `accepted` [n, thinker's hidden] are where the thinker's passes leave theirs."""
        talker, code2wav = omni.talker, omni.code2wav
        assert talker is not None
        assert code2wav is not None
        self._talker, self._code2wav, self._graphs = talker, code2wav, graphs
        self._embed = omni.thinker.model.language_model.embed_tokens.weight
        self._decoder = FastDecoder(talker.model, pool, backend, eight_bit)
        self._predictor = FastPredictor(talker.code_predictor, most=max(batches), eight_bit=eight_bit)
        device = omni.device
        self._device = device
        fixed = talker.fixed_rows(omni.thinker.embed)
        self._voices = {name: number * PREFIX_ROWS for number, name in enumerate(fixed.prefixes)}
        self._prefix = fixed.prefix
        self._fixed = torch.cat(list(fixed.prefixes.values()))
        self._over = torch.stack((fixed.eos, fixed.pad))
        self._embedded, self._accepted = embedded, accepted

        self._sums = torch.zeros(slots + 1, talker.model.spec.hidden, device=device)
        self._seen = torch.zeros(slots + 1, talker.vocab, device=device, dtype=torch.int8)
        self._sound = SoundState.of(code2wav.state(slots + 1))
        self._render = FastCode2Wav(code2wav)
        self._scratch = slots
        self._free = list(reversed(range(slots)))
        self._banned = talker._suppressed().to(torch.int8)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)

        self._batches, most = list(batches), max(batches)
        self._codes = torch.zeros(most, _GROUPS, dtype=torch.int64, device=device)
        self._out = torch.zeros(most, code2wav.samples_per_frame + 1, dtype=torch.int16, device=device)
        self._out_host = torch.zeros(self._out.shape, dtype=torch.int16, pin_memory=device.type == "cuda")
        self._tail = torch.zeros(1, code2wav.lookahead, dtype=torch.int16, device=device)
        uniforms = [f"uniform{n}" for n in range(_GROUPS)]
        fields = ("kind", "token", "first", "slot", *uniforms)
        room: dict[str, Any] = {"sequences": most, "device": device, "tables": backend.tables}
        self._frame_memory = PassMemory(pool, most=most, fields=fields, floats=uniforms, staged=True, **room)
        self._listen_buckets = [Bucket(n, BLOCK, most) for n in rows]
        self._listen_memory = PassMemory(pool, most=max(rows), fields=("kind", "source"), **room)
        for bucket in self._listen_buckets:
            graphs.add(("listen", bucket.rows), self._listening(bucket))
        for batch in self._batches:
            frame = self._frame(batch, talking, predicting)
            graphs.add(("talk", batch), frame[0])
            graphs.add(("sound", batch), frame[1])
        graphs.add("reset", self._reset)
        graphs.add("flush", self._flush)

    # -- listening

    @property
    def most_rows(self) -> int:
        return self._listen_buckets[-1].rows

    def listen(self, heard: Sequence[Heard]) -> None:
        """Rows whose room is reserved; lines begin."""
        rows = sum(each.rows for each in heard)
        bucket = next(bucket for bucket in self._listen_buckets if bucket.rows >= rows)
        kinds: list[int] = []
        sources: list[int] = []
        spans: list[Span] = []
        positions: list[np.ndarray] = []
        for each in heard:
            listening, line = each.listening, each.line
            if listening is not None:
                media = set(listening.media)
                kinds += [_MEDIA if n in media else _TEXT for n in range(len(listening.rows))]
                sources += [each.start + row for row in listening.rows]
                positions.append(listening.positions)
            if line is not None:
                first = self._voices[line.voice.lower()]
                kinds += [_FIXED] * PREFIX_ROWS
                sources += range(first, first + PREFIX_ROWS)
                positions.append(_steps(line.position, PREFIX_ROWS))
            cache = listening.cache if listening is not None else line.cache if line is not None else None
            assert cache is not None
            spans.append(Span(cache, each.rows))
        fields = {"kind": kinds, "source": sources}
        self._listen_memory.write(bucket, spans, np.concatenate(positions, axis=1), fields)
        self._graphs.run(("listen", bucket.rows))
        for span in spans:
            span.cache.commit(span.rows)
        for each in heard:
            if each.line is not None:
                self._slot.fill_(_slot_of(each.line))
                self._graphs.run("reset")

    def _listening(self, bucket: Bucket) -> Callable[[], None]:
        given = self._listen_memory.view(bucket)
        kind, source = given.fields["kind"], given.fields["source"]

        def of(table: Tensor) -> Tensor:
            return table.index_select(0, source.clamp(max=len(table) - 1))

        def step() -> None:
            text = self._talker.text_projection(of(self._embedded))
            media = self._talker.hidden_projection(of(self._accepted))
            rows = torch.where((kind == _MEDIA)[:, None], media, text)
            rows = torch.where((kind == _FIXED)[:, None], of(self._fixed), rows)
            self._decoder(rows.float(), bucket, given)

        return step

    # -- lines

    def open(self, line: Line) -> None:
        """A place for a line. Raises EngineError `busy`, or `unknown_voice`."""
        self._prefix(line.voice)
        if not self._free:
            raise EngineError("busy", "no more replies can be spoken at a time; try again later")
        line.state = self._free.pop()

    def release(self, line: Line) -> None:
        if isinstance(line.state, int):
            self._free.append(line.state)
            line.state = None
            line.cache.truncate(min(line.rows, line.cache.length))

    # -- frames

    def frames(self, frames: Sequence[Frame]) -> list[Made]:
        """One frame of each line, whose caches have room for a row."""
        count = len(frames)
        batch = next(size for size in self._batches if size >= count)
        bucket = Bucket(batch, 1, batch)
        fields: dict[str, list[float]] = {
            "kind": [0 if f.token is not None else 1 if f.over == "eos" else 2 for f in frames],
            "token": [f.token or 0 for f in frames],
            "first": [f.line.frames == 0 for f in frames],
            "slot": [*(_slot_of(f.line) for f in frames), *[self._scratch] * (batch - count)],
        }
        uniform = zip(*(frame.uniform.tolist() for frame in frames), strict=True)
        fields |= {f"uniform{n}": list(of) for n, of in enumerate(uniform)}
        lines = [frame.line for frame in frames]
        # the row of frame k lies k rows behind the prefix
        steps = [_steps(line.position + PREFIX_ROWS + line.frames, 1) for line in lines]
        spans = [Span(line.cache, 1) for line in lines]
        self._frame_memory.write(bucket, spans, np.concatenate(steps, axis=1), fields)
        self._graphs.run(("talk", batch))
        self._frame_memory.launched()
        self._graphs.run(("sound", batch))
        out = to_host(self._out[:count], self._out_host[:count]).numpy()
        made: list[Made] = []
        for line, samples in zip(lines, out, strict=True):
            line.cache.commit(1)
            if samples[-1]:
                made.append(Made(None, ended=True))
                continue
            skipped = 0 if line.frames else self._code2wav.lookahead
            line.frames += 1
            made.append(Made(samples[skipped:-1].copy(), ended=False))
        return made

    def flush(self, line: Line) -> np.ndarray:
        """The last samples, int16."""
        self._slot.fill_(_slot_of(line))
        self._graphs.run("flush")
        tail: np.ndarray = self._tail[0].cpu().numpy()
        return tail

    def codes(self, count: int) -> Tensor:
        """Those of the last step's first `count` frames, int64 [count, 16]."""
        return self._codes[:count].clone()

    def _frame(
        self, batch: int, talking: SamplingParams, predicting: SamplingParams
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        bucket = Bucket(batch, 1, batch)
        given, staged = self._frame_memory.view(bucket), self._frame_memory.staging(bucket)
        talker = self._talker
        kind, token, first, slot = (given.fields[name] for name in ("kind", "token", "first", "slot"))
        # the sixteen fields lie behind one another
        start = given.fields["uniform0"]
        uniform = torch.as_strided(start, (batch, _GROUPS), (1, batch), start.storage_offset())
        codes = self._codes[:batch]
        rows, residuals = draws(talking, batch, self._device), draws(predicting, batch, self._device)
        bos = talker.model.codec_embedding.weight[talker.codec.bos].float()

        def talk() -> None:
            if staged is not None:
                fetch(staged[0], self._frame_memory.numbers, staged[1])
            text = talker.text_projection(self._embed.index_select(0, token))
            over = self._over.index_select(0, (kind - 1).clamp(min=0))
            text = torch.where((kind == 0)[:, None], text, over).float()
            at = slot.long()
            x = text + torch.where((first == 1)[:, None], bos, self._sums.index_select(0, at))
            hidden, _ = self._decoder(x, bucket, given)
            logits = F.linear(hidden, talker.codec_head.weight)
            embedded, total = torch.empty_like(x), torch.empty_like(x)
            draw(
                logits, rows, uniform, 0, codes, talker.model.codec_embedding.weight, embedded, total,
                seen=self._seen.index_select(0, at), suppressed=self._banned,
            )  # fmt: skip
            self._seen.index_put_((at, codes[:, 0]), torch.ones_like(self._seen[:1, 0]))
            self._predictor.predict(hidden, embedded, total, codes, residuals, uniform)
            self._sums.index_copy_(0, at, total)

        def sound() -> None:
            ended = codes[:, 0] == talker.codec.eos
            at = torch.where(ended, self._scratch, slot.long())
            samples = self._render(torch.where(ended[:, None], 0, codes), self._sound, at)
            self._out[:batch, :-1] = (samples * 32767.0).round().to(torch.int16)
            self._out[:batch, -1] = ended.to(torch.int16)

        return talk, sound

    def _reset(self) -> None:
        self._seen.index_fill_(0, self._slot, 0)
        self._sound.reset(self._slot)

    def _flush(self) -> None:
        tail = self._code2wav.flush(self._sound.row(self._slot))
        self._tail.copy_((tail * 32767.0).round().to(torch.int16))


def _slot_of(line: Line) -> int:
    assert isinstance(line.state, int)
    return line.state


def _steps(position: float, count: int) -> np.ndarray:
    """Positions float32 [3, count] of rows that are one step each, on all axes alike."""
    places = np.float32(position) + np.arange(count, dtype=np.float32)
    return np.broadcast_to(places, (3, count))
