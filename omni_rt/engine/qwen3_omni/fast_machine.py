"""The machine on kernels and CUDA graphs: requests of many sessions are one graph of a size that was captured before.

Everything a step needs is taken to the device at once and what it gives is taken back at once; within a step the host
does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import EngineError, Pcm
from omni_rt.engine.qwen3_omni.attention import Span
from omni_rt.engine.qwen3_omni.backends.backend import Backend
from omni_rt.engine.qwen3_omni.backends.triton import Triton
from omni_rt.engine.qwen3_omni.eight_bit import NOTHING, EightBit, for_many, for_one, held, hold_experts
from omni_rt.engine.qwen3_omni.fast_decoder import FastDecoder
from omni_rt.engine.qwen3_omni.fast_talker import FastTalker, Heard
from omni_rt.engine.qwen3_omni.graphs import Graphs
from omni_rt.engine.qwen3_omni.kernels.choose import Wanted, choose
from omni_rt.engine.qwen3_omni.kernels.fetch import fetch
from omni_rt.engine.qwen3_omni.kernels.vector import empty, product
from omni_rt.engine.qwen3_omni.kv_cache import KVPool
from omni_rt.engine.qwen3_omni.layers import numbers
from omni_rt.engine.qwen3_omni.machine import TOKEN_SETS, all_or_nothing, suppressed, thinker_params
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.passes import BLOCK, Bucket, PassMemory, upload_into
from omni_rt.engine.qwen3_omni.quantised import Quantised
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Frame, Line, Read, Request, Result
from omni_rt.engine.qwen3_omni.sampler import (
    PREDICTOR,
    TALKER,
    THINKER,
    SamplingParams,
)

BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROWS = (16, 32, 64, 128, 256, 512)
_WANTED = ("temperature", "greedy", "uniform", "allowed")
_FLOATS = ("temperature", "uniform")


class FastMachine:
    """Shares the weights of `omni`, which must be on a CUDA device in bfloat16 to be fast. `pool` and `talker_pool` are
    those of the sessions' caches; `backend` attends over them, the Triton kernel where none is given."""

    def __init__(
        self,
        omni: Omni,
        pool: KVPool,
        talker_pool: KVPool | None,
        *,
        backend: Backend | None = None,
        lines: int = 64,
        batches: Sequence[int] = BATCHES,
        rows: Sequence[int] = ROWS,
        audio_window_s: int = 2,
        talking: SamplingParams = TALKER,
        predicting: SamplingParams = PREDICTOR,
        eight_bit: EightBit = NOTHING,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Captures all graphs; `progress` hears what is done. `eight_bit` changes the weights of `omni` itself."""
        device, spec = omni.device, omni.spec
        if eight_bit.experts:
            hold_experts(omni)
        thinker, most = omni.thinker, max(*rows, *batches)
        backend = backend or Triton()
        self._omni, self._device = omni, device
        self._graphs = Graphs(device)
        self._accept = thinker.accept_layer
        self._decoder = FastDecoder(thinker.model.language_model, pool, backend, eight_bit)
        self._embed = thinker.model.language_model.embed_tokens.weight
        self._head = held(thinker.lm_head.weight, eight_bit.head)
        dtype, width, vocab = self._embed.dtype, spec.text.hidden, spec.text.vocab
        self._features = torch.zeros(most, width, device=device, dtype=dtype)
        self._deepstack = torch.zeros(len(spec.vision.deepstack), most, width, device=device, dtype=dtype)
        self._embedded, self._accepted, self._hidden = (
            torch.zeros(most, width, device=device, dtype=dtype) for _ in range(3)
        )
        self._batches, self._most_rows = list(batches), max(rows)
        self._buckets = [Bucket(n, 1, n) for n in batches], [Bucket(n, BLOCK, max(batches)) for n in rows]
        self._memory = PassMemory(
            pool,
            most=most,
            sequences=max(batches),
            fields=("token", "given", *_WANTED),
            floats=_FLOATS,
            device=device,
            tables=backend.tables,
            staged=True,
        )
        for bucket in (*self._buckets[0], *self._buckets[1]):
            self._graphs.add(("read", bucket), partial(self._read_step, bucket))

        self._choosing = torch.zeros(max(batches), width, device=device, dtype=dtype)
        self._choice = torch.zeros(len(_WANTED) * max(batches), device=device, dtype=torch.int32)
        # the GPU writes there itself
        self._tokens = torch.zeros(max(batches), dtype=torch.int64, pin_memory=device.type == "cuda")
        self._chosen: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        masks = suppressed(vocab)
        self._banned = torch.stack([masks[name] for name in TOKEN_SETS]).to(device)
        for batch in self._batches:
            of = zip(_WANTED, self._choice[: len(_WANTED) * batch].view(len(_WANTED), batch), strict=True)
            wanted = [each.view(torch.float32) if name in _FLOATS else each for name, each in of]
            self._graphs.add(("choose", batch), partial(self._choose_step, self._choosing[:batch], wanted))
        self._talker: FastTalker | None = None
        if omni.talker is not None and talker_pool is not None:
            self._talker = FastTalker(
                omni, talker_pool, self._graphs, backend, slots=lines, batches=batches, rows=[*rows, 2 * max(rows)],
                talking=talking, predicting=predicting, embedded=self._embedded, accepted=self._accepted,
                eight_bit=eight_bit,
            )  # fmt: skip

        self._add_audio(audio_window_s * omni.spec.audio.chunk_frames)
        self._graphs.capture(progress)

    @property
    def graphs(self) -> int:
        """How many were captured."""
        return len(self._graphs)

    def run(self, requests: Sequence[Request]) -> list[Result]:
        reads = [request for request in requests if isinstance(request, Read)]
        frames = [request for request in requests if isinstance(request, Frame)]
        assert not (reads and frames)
        if frames:
            return self._frames(frames)
        results: list[Result] = []
        taken: list[tuple[Chunk, Tensor]] = []
        with all_or_nothing(reads, self.release):
            for part in self._parts(reads):
                results += self._read(part, taken)
        for chunk, hidden in taken:
            chunk.taken(hidden)
        return results

    def flush(self, line: Line) -> Pcm:
        assert self._talker is not None
        tail: Pcm = self._talker.flush(line)
        return tail

    def release(self, line: Line) -> None:
        if self._talker is not None:
            self._talker.release(line)

    def _add_audio(self, frames: int) -> None:
        """A step for every number of tokens that a window of up to `frames` mel frames can have."""
        encoder = self._omni.thinker.model.audio_tower
        spec = encoder.spec
        most = encoder.tokens(frames)
        mel = torch.zeros(1, spec.mel_bins, frames, device=self._device, dtype=self._embed.dtype)
        out = torch.zeros(1, most, spec.output, device=self._device, dtype=self._embed.dtype)

        def encode(count: int, whole: int, given: Tensor) -> Tensor:
            mel[..., :whole].copy_(given)
            self._graphs.run(("audio", count))
            return out[:, :count].clone()

        for count in range(1, most + 1):
            whole = -(-count // encoder.tokens(spec.chunk_frames)) * spec.chunk_frames

            def step(count: int = count, whole: int = whole) -> None:
                out[:, :count] = encoder.encode(mel[..., :whole], count)

            self._graphs.add(("audio", count), step)
            encoder.captured[count] = partial(encode, count, whole)

    # -- reading

    def _parts(self, reads: Sequence[Read]) -> list[list[Read]]:
        """In passes that are not too large."""
        parts: list[list[Read]] = []
        rows = 0
        for read in reads:
            if read.rows > self._most_rows:
                raise ValueError(f"a pass has {self._most_rows} rows at most, not {read.rows}")
            rows += read.rows
            if not parts or rows > self._most_rows or len(parts[-1]) == self._batches[-1]:
                parts.append([])
                rows = read.rows
            parts[-1].append(read)
        return parts

    def _read(self, reads: Sequence[Read], taken: list[tuple[Chunk, Tensor]]) -> list[Result]:
        results: list[Result] = [None] * len(reads)
        hidden: dict[int, Tensor] = {n: read.hidden for n, read in enumerate(reads) if read.hidden is not None}
        passing: list[int] = []
        heard: list[Heard] = []
        start = 0
        for n, read in enumerate(reads):
            try:
                each = self._room(read, start)
            except EngineError as error:
                results[n] = error
                hidden.pop(n, None)
                continue
            if each is not None:
                heard.append(each)
            if read.chunk is not None:
                passing.append(n)
                start += read.rows
        chunks = [chunk for n in passing if (chunk := reads[n].chunk) is not None]
        choosing = [n for n in (*hidden, *passing) if reads[n].choice is not None]
        # a token's pass chooses the next one as well
        at_once = set(choosing) <= set(passing) and all(Read(chunk).decoding for chunk in chunks)
        last = self._pass(chunks, [reads[n].choice for n in passing]) if chunks else []
        hidden.update(zip(passing, last, strict=True))
        if choosing:
            if at_once:
                choosing = passing
            else:
                self._choose([hidden[n] for n in choosing], [reads[n].choice for n in choosing])
        if heard and self._talker is not None:  # meanwhile the tokens are on their way to the host
            self._listen(heard)
        if choosing and self._chosen is not None:
            self._chosen.synchronize()
        for n, token in zip(choosing, self._tokens.tolist(), strict=False):
            if reads[n].choice is not None:
                results[n] = token
        taken += zip(chunks, last, strict=True)
        return results

    def _room(self, read: Read, start: int) -> Heard | None:
        """Room for a request, which begins at row `start` of the pass. Raises EngineError, with nothing changed."""
        heard = None
        if self._talker is not None and (read.line is not None or (read.chunk and read.chunk.listening)):
            heard = Heard(read.chunk.listening if read.chunk else None, start, read.line)
            heard.reserve()
        if read.chunk is not None:
            read.chunk.cache.reserve(len(read.chunk))
        if read.line is not None and self._talker is not None:
            self._talker.open(read.line)
        return heard

    def _pass(self, chunks: Sequence[Chunk], choices: Sequence[Choice | None]) -> list[Tensor]:
        """The last hidden state of each chunk; of passes of one row each, a token according to its choice too."""
        if all(Read(chunk).decoding for chunk in chunks):
            return self._token_pass(chunks, choices)
        rows = sum(map(len, chunks))
        bucket = next(bucket for bucket in self._buckets[1] if bucket.rows >= rows)
        starts = np.cumsum([0, *map(len, chunks)]).tolist()
        given = np.zeros(rows, np.int32)
        for chunk, start in zip(chunks, starts, strict=False):
            if chunk.features is not None:
                places = [start + row for row in chunk.at]
                given[places] = 1
                self._features.index_copy_(0, numbers(places, self._device), chunk.features.to(self._features.dtype))
        seen = [
            numbers([start + row for row in chunk.visual], self._device)
            for chunk, start in zip(chunks, starts, strict=False)
            if chunk.deepstack is not None
        ]
        stacks = [chunk.deepstack for chunk in chunks if chunk.deepstack is not None]
        for at, stack in zip(seen, stacks, strict=True):
            self._deepstack.index_copy_(1, at, stack.to(self._deepstack.dtype))
        spans = [Span(chunk.cache, len(chunk)) for chunk in chunks]
        positions = np.concatenate([chunk.positions for chunk in chunks], axis=1)
        tokens = [token for chunk in chunks for token in chunk.ids]
        self._memory.write(bucket, spans, positions, {"token": tokens, "given": given})
        self._graphs.run(("read", bucket))
        for at in seen:
            self._deepstack.index_fill_(1, at, 0)
        for span in spans:
            span.cache.commit(span.rows)
        last = numbers([end - 1 for end in starts[1:]], self._device)
        return list(self._hidden.index_select(0, last))

    def _token_pass(self, chunks: Sequence[Chunk], choices: Sequence[Choice | None]) -> list[Tensor]:
        rows = len(chunks)
        bucket = next(bucket for bucket in self._buckets[0] if bucket.rows >= rows)
        positions = [chunk.positions for chunk in chunks]
        self._memory.write(
            bucket,
            [Span(chunk.cache, 1) for chunk in chunks],
            np.concatenate(positions, axis=1) if rows > 1 else positions[0],
            {"token": [token for chunk in chunks for token in chunk.ids], **_wanted(choices, rows)},
        )
        self._graphs.run(("read", bucket))
        self._memory.launched()
        if self._chosen is not None:
            self._chosen.record()
        for chunk in chunks:
            chunk.cache.commit(1)
        return list(self._hidden[:rows].clone())

    def _read_step(self, bucket: Bucket) -> None:
        n = bucket.rows
        if (staged := self._memory.staging(bucket)) is not None:
            fetch(staged[0], self._memory.numbers, staged[1])
        given = self._memory.view(bucket)
        embedded = self._embed.index_select(0, given.fields["token"])
        if bucket.block == 1:
            hidden, _ = self._decoder(embedded.float(), bucket, given)
            self._hidden[:n] = hidden
            self._choose_step(hidden, [given.fields[name] for name in _WANTED])
            return
        self._embedded[:n] = embedded
        rows = torch.where((given.fields["given"] == 1)[:, None], self._features[:n], embedded)
        hidden, accepted = self._decoder(
            rows.float(), bucket, given, deepstack=self._deepstack[:, :n], capture=self._accept
        )
        self._hidden[:n] = hidden
        if accepted is not None:
            self._accepted[:n] = accepted

    def _listen(self, heard: Sequence[Heard]) -> None:
        assert self._talker is not None
        together: list[Heard] = []
        rows = 0
        for each in heard:
            if rows + each.rows > self._talker.most_rows:
                self._talker.listen(together)
                together, rows = [], 0
            together.append(each)
            rows += each.rows
        self._talker.listen(together)

    # -- choosing

    def _choose(self, hidden: Sequence[Tensor], choices: Sequence[Choice | None]) -> None:
        count = len(hidden)
        batch = next(size for size in self._batches if size >= count)
        torch.stack(list(hidden), out=self._choosing[:count])
        packed = np.zeros((len(_WANTED), batch), np.int32)
        for row, (name, values) in zip(packed, _wanted(choices, batch).items(), strict=True):
            (row.view(np.float32) if name in _FLOATS else row)[:] = values
        upload_into(self._choice, packed.ravel())
        self._graphs.run(("choose", batch))
        if self._chosen is not None:
            self._chosen.record()

    def _choose_step(self, hidden: Tensor, wanted: Sequence[Tensor]) -> None:
        """Leaves a token for each row; `wanted` are those of `_WANTED`."""
        batch, head = len(hidden), for_one(self._head)
        if batch == 1 and isinstance(head, Quantised):
            logits = product(hidden, head, out=empty(hidden, len(head)))
        else:
            logits = torch.nn.functional.linear(hidden, for_many(self._head))
        tail = 1 - THINKER.top_p if THINKER.top_p < 1 else -1.0
        choose(logits, Wanted(*wanted), self._banned, self._tokens[:batch], top_k=THINKER.top_k, tail=tail)

    # -- speaking

    def _frames(self, frames: Sequence[Frame]) -> list[Result]:
        assert self._talker is not None
        results: list[Result] = [None] * len(frames)
        ready: list[int] = []
        for n, frame in enumerate(frames):
            try:
                frame.line.cache.reserve(1)
                ready.append(n)
            except EngineError as error:
                results[n] = error
        if ready:
            for n, made in zip(ready, self._talker.frames([frames[n] for n in ready]), strict=True):
                results[n] = made
        return results


def _wanted(choices: Sequence[Choice | None], rows: int) -> dict[str, list[float]]:
    """`_WANTED` of a pass of so many rows; rows without a choice draw at 1.0."""
    wanted: dict[str, list[float]] = {
        "temperature": [1.0] * rows,
        "greedy": [0] * rows,
        "uniform": [0.0] * rows,
        "allowed": [0] * rows,
    }
    for n, choice in enumerate(choices):
        if choice is not None:
            temperature = thinker_params(choice).temperature
            wanted["temperature"][n] = temperature or 1.0
            wanted["greedy"][n] = temperature == 0
            wanted["uniform"][n] = choice.uniform
            wanted["allowed"][n] = TOKEN_SETS.index(choice.allowed)
    return wanted
