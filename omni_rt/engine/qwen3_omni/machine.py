"""What computes the requests of sessions, several in one pass. `PlainMachine` does it in plain PyTorch, anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import EngineError, Pcm
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.sdpa import Sdpa
from omni_rt.engine.qwen3_omni.code2wav import Code2WavState
from omni_rt.engine.qwen3_omni.decoder import Deepstack, Span
from omni_rt.engine.qwen3_omni.layers import numbers, upload
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Frame, Line, Made, Read, Request, Result
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER, THINKER, SamplingParams, SamplingRows, choose
from omni_rt.engine.qwen3_omni.talker import Talker, TalkerState
from omni_rt.engine.qwen3_omni.thinker import Thinker
from omni_rt.engine.qwen3_omni.tokenizer import MARKERS

TOKEN_SETS = ("any", "reply", "reply_with_tools")
"""What `Choice.allowed` may name: everything; what a reply can hold; the same with tool calls."""


def suppressed(vocab: int) -> dict[str, Tensor]:
    """bool [vocab] for each of `TOKEN_SETS`: a reply cannot hold markers of turns, media and speech, nor padding."""
    nothing = torch.zeros(vocab, dtype=torch.bool)
    reply = torch.ones(vocab, dtype=torch.bool)
    reply[: min(MARKERS.values())] = False
    reply[[MARKERS[name] for name in ("<|im_end|>", "<think>", "</think>")]] = False
    tools = reply.clone()
    tools[[MARKERS[name] for name in ("<tool_call>", "</tool_call>")]] = False
    return {"any": nothing, "reply": reply, "reply_with_tools": tools}


class Machine(Protocol):
    """Runs on one thread. A line is its caller's until `release`."""

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """Requests of one kind, all reads or all frames, in one pass. Raises what fails them all; reads are then as if
        they had not been asked for."""

    def flush(self, line: Line) -> Pcm:
        """The last samples of a line that is over."""

    def release(self, line: Line) -> None:
        """The line is over; the cache is the session's again. Twice is no error."""


@dataclass(slots=True)
class _PlainLine:
    talker: TalkerState
    sound: Code2WavState


class PlainMachine:
    """The modules as they are; `backend`, PyTorch's attention where none is given, becomes that of their decoders."""

    def __init__(
        self,
        omni: Omni,
        *,
        backend: Backend | None = None,
        talking: SamplingParams = TALKER,
        predicting: SamplingParams = PREDICTOR,
    ) -> None:
        self._omni = omni
        backend = backend or Sdpa()
        omni.thinker.model.language_model.backend = backend
        if omni.talker is not None:
            omni.talker.model.backend = backend
        self._fixed = omni.talker.fixed_rows(omni.thinker.embed) if omni.talker is not None else None
        self._device = omni.device
        self._talking = talking
        self._predicting = predicting
        self._suppressed = {name: mask.to(self._device) for name, mask in suppressed(omni.spec.text.vocab).items()}

    def run(self, requests: Sequence[Request]) -> list[Result]:
        reads = [request for request in requests if isinstance(request, Read)]
        frames = [request for request in requests if isinstance(request, Frame)]
        assert not (reads and frames)
        if not reads:
            return self._frames(frames)
        with all_or_nothing(reads, self.release):
            results, taken = self._read(reads)
        for chunk, hidden in taken:
            chunk.taken(hidden)
        return results

    # -- the thinker

    def _read(self, reads: Sequence[Read]) -> tuple[list[Result], list[tuple[Chunk, Tensor]]]:
        results: list[Result] = [None] * len(reads)
        hidden: dict[int, Tensor] = {n: read.hidden for n, read in enumerate(reads) if read.hidden is not None}
        passing: list[tuple[int, Chunk]] = []
        for n, read in enumerate(reads):
            if read.chunk is not None:
                try:
                    reserve(read.chunk)
                    passing.append((n, read.chunk))
                except EngineError as error:
                    results[n] = error
        last: list[Tensor] = []
        if passing:
            last = read_chunks(self._omni.thinker, self._omni.talker, [chunk for _, chunk in passing])
            hidden.update(zip((n for n, _ in passing), last, strict=True))
        for n, read in enumerate(reads):
            if read.line is not None and n in hidden:
                try:
                    self._begin(read.line)
                except EngineError as error:
                    results[n] = error
                    del hidden[n]
        choosing = [(n, read.choice) for n, read in enumerate(reads) if read.choice is not None and n in hidden]
        if choosing:
            tokens = self._choose(torch.stack([hidden[n] for n, _ in choosing]), [choice for _, choice in choosing])
            for (n, _), token in zip(choosing, tokens, strict=True):
                results[n] = token
        return results, list(zip((chunk for _, chunk in passing), last, strict=True))

    def _choose(self, hidden: Tensor, choices: Sequence[Choice]) -> list[int]:
        logits = self._omni.thinker.logits(hidden)
        rows = SamplingRows.of([thinker_params(choice) for choice in choices], self._device)
        uniform = torch.tensor([choice.uniform for choice in choices], device=self._device)
        banned = torch.stack([self._suppressed[choice.allowed] for choice in choices])
        tokens: list[int] = choose(logits, rows, uniform, suppressed=banned).tolist()
        return tokens

    # -- the talker

    def _frames(self, frames: Sequence[Frame]) -> list[Result]:
        talker, code2wav = self._omni.talker, self._omni.code2wav
        assert talker is not None
        assert code2wav is not None
        results: list[Result] = [None] * len(frames)
        ready: list[tuple[int, _PlainLine]] = []
        for n, frame in enumerate(frames):
            assert isinstance(frame.line.state, _PlainLine)
            try:
                frame.line.cache.reserve(1)
                ready.append((n, frame.line.state))
            except EngineError as error:
                results[n] = error
        if not ready:
            return results
        states = [state.talker for _, state in ready]
        text = torch.stack([self._text(frames[n], state.talker) for n, state in ready])
        uniform = torch.stack([frames[n].uniform for n, _ in ready]).to(self._device)
        count = len(ready)
        rows = [SamplingRows.of([params] * count, self._device) for params in (self._talking, self._predicting)]
        codes = talker.frames(states, text, rows[0], rows[1], uniform)
        for (n, state), frame in zip(ready, codes.tolist(), strict=True):
            if talker.ended(frame):
                results[n] = Made(None, ended=True)
                continue
            sound = code2wav.step(torch.tensor(frame, device=self._device)[None, :, None], state.sound)
            frames[n].line.frames += 1
            results[n] = Made(pcm(sound[0]), ended=False)
        return results

    def _begin(self, line: Line) -> None:
        talker, code2wav = self._omni.talker, self._omni.code2wav
        assert talker is not None
        assert code2wav is not None
        assert self._fixed is not None
        state = _PlainLine(talker.start(line.cache, line.rows, line.position), code2wav.state())
        talker.prefill([state.talker], [self._fixed.prefix(line.voice)])
        line.state = state

    def _text(self, frame: Frame, state: TalkerState) -> Tensor:
        talker, fixed = self._omni.talker, self._fixed
        assert talker is not None
        assert fixed is not None
        if frame.token is None:
            return fixed.eos if frame.over == "eos" else fixed.pad
        embedded = self._omni.thinker.embed(numbers([frame.token], self._device))[0]
        return talker.text_rows(embedded) if state.frames else talker.first_row(embedded)

    def flush(self, line: Line) -> Pcm:
        assert isinstance(line.state, _PlainLine)
        assert self._omni.code2wav is not None
        return pcm(self._omni.code2wav.flush(line.state.sound)[0])

    def release(self, line: Line) -> None:
        if line.state is not None:
            line.state = None
            line.cache.truncate(min(line.rows, line.cache.length))


@contextmanager
def all_or_nothing(reads: Sequence[Read], release: Callable[[Line], None]) -> Iterator[None]:
    """If the block raises, the caches of these reads hold what they held before, and their lines are not begun."""
    chunks = [read.chunk for read in reads if read.chunk is not None]
    listening = [chunk.listening for chunk in chunks if chunk.listening is not None]
    before = [(chunk.cache, chunk.cache.length) for chunk in chunks]
    before += [(each.cache, min(each.known, each.cache.length)) for each in listening]
    try:
        yield
    except Exception:
        for read in reads:
            if read.line is not None:
                release(read.line)
        for cache, length in before:
            cache.truncate(length)
        raise


def read_chunks(thinker: Thinker, talker: Talker | None, chunks: Sequence[Chunk]) -> list[Tensor]:
    """All chunks in one pass: the last hidden state of each, which `Chunk.taken` is still to hear of. After a failure
    all caches are as they were."""
    device = thinker.lm_head.weight.device
    embedded = thinker.embed(numbers([token for chunk in chunks for token in chunk.ids], device))
    rows, starts = embedded, np.cumsum([0, *map(len, chunks)]).tolist()
    features = [chunk.features for chunk in chunks if chunk.features is not None]
    if features:
        at = [start + row for chunk, start in zip(chunks, starts, strict=False) for row in chunk.at]
        rows = embedded.index_copy(0, numbers(at, device), torch.cat(features).to(embedded.dtype))
    deepstack = None
    values = [chunk.deepstack for chunk in chunks if chunk.deepstack is not None]
    if values:
        visual = [start + row for chunk, start in zip(chunks, starts, strict=False) for row in chunk.visual]
        deepstack = Deepstack(numbers(visual, device), torch.cat(values, dim=1))
    positions = upload(np.concatenate([chunk.positions for chunk in chunks], axis=1), device)
    before = [chunk.cache.length for chunk in chunks]
    try:
        passed = thinker(rows, positions, [Span(chunk.cache, len(chunk)) for chunk in chunks], deepstack=deepstack)
        for chunk, start in zip(chunks, starts, strict=False):
            _listen(talker, chunk, start, embedded, passed.accepted)
    except Exception:
        for chunk, length in zip(chunks, before, strict=True):
            chunk.cache.truncate(length)
            if chunk.listening is not None:
                chunk.listening.cache.truncate(chunk.listening.known)
        raise
    last = [passed.hidden[end - 1] for end in starts[1:]]
    return last


def _listen(talker: Talker | None, chunk: Chunk, start: int, embedded: Tensor, accepted: Tensor | None) -> None:
    listening = chunk.listening
    if listening is None or talker is None or accepted is None:
        return
    listening.cache.truncate(listening.known)
    shown = numbers([start + row for row in listening.rows], embedded.device)
    positions = upload(listening.positions, embedded.device)
    of = embedded.index_select(0, shown), accepted.index_select(0, shown)
    talker.listen(listening.cache, *of, listening.media, positions)


def thinker_params(choice: Choice) -> SamplingParams:
    """The released parameters of the thinker at a choice's temperature."""
    return SamplingParams(choice.temperature, THINKER.top_k, THINKER.top_p)


def reserve(chunk: Chunk) -> None:
    """Room for a chunk in both caches. Raises CacheFull, with nothing changed."""
    listening = chunk.listening
    if listening is not None:
        listening.cache.truncate(listening.known)
        listening.cache.reserve(len(listening.rows))
    chunk.cache.reserve(len(chunk))


def pcm(samples: Tensor) -> Pcm:
    """Float sound [m] as int16 on the host."""
    made: Pcm = (samples * 32767.0).round().to(torch.int16).cpu().numpy()
    return made
