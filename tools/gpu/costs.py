"""What each step of the engine costs, and the same steps of Hugging Face's.

Milliseconds from the call to the end of all its work on the device, the host's own time included.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from omni_rt.client.report import Row
from omni_rt.engine.qwen3_omni import pictures, pieces
from omni_rt.engine.qwen3_omni.audio_stream import AudioStream
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.decoder import Deepstack, Span
from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.layers import upload
from omni_rt.engine.qwen3_omni.mel import RATE
from omni_rt.engine.qwen3_omni.pieces import Piece
from omni_rt.engine.qwen3_omni.positions import PositionCounter
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER, THINKER, SamplingRows, choose, noise
from tools.gpu.models import Pair, Prompt
from tools.gpu.spoken import VOICE, silent

Work = Callable[[], Any]


@dataclass(slots=True)
class Clock:
    """Times work on a device; `waits` says where the host waited for the device within it."""

    device: torch.device
    n: int
    rows: list[Row] = field(default_factory=list)
    waits: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, name: str, work: Work, *, after: Work = lambda: None, n: int | None = None) -> None:
        """`after` puts things back; its time does not count."""
        for _ in range(3):
            work()
            after()
        taken = []
        for _ in range(n or self.n):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            taken.append((time.perf_counter() - start) * 1e3)
            after()
        self.record(Row.of(name, "ms", taken))
        if self.device.type == "cuda":
            with _watched() as places:
                work()
            after()
            self.waits[name] = places

    def value(self, name: str, unit: str, value: float, n: int = 1) -> None:
        self.record(Row(name, unit, n, value=value))

    def record(self, row: Row) -> None:
        self.rows.append(row)
        figure = row.value if row.p50 is None else f"{row.p50:.3f} (p95 {row.p95:.3f})"
        print(f"  {row.name}: {figure} {row.unit}", flush=True)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def _watched() -> Iterator[list[str]]:
    """File and line of every operation for which the host waits."""
    places: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for each in heard:
        if "called a synchronizing" in str(each.message):
            places.append(f"{Path(each.filename).name}:{each.lineno}")


@dataclass(slots=True)
class Session:
    """Caches with `context` tokens in the thinker and as many rows in the talker, and what a step on them needs."""

    pair: Pair
    context: int
    cache: KVCache = field(init=False)
    talker_cache: KVCache = field(init=False)

    def __post_init__(self) -> None:
        pair, room = self.pair, self.context + 1024
        assert pair.spec.talker is not None
        shape: dict[str, Any] = {"tokens": room, "device": pair.device, "dtype": pair.dtype}
        self.cache = KVPool(pair.spec.text, **shape).new()
        self.talker_cache = KVPool(pair.spec.talker.decoder, **shape).new()
        while self.cache.length < self.context:
            n = min(512, self.context - self.cache.length)
            self.talk(*self.think(self.words(n)))

    def words(self, n: int) -> Tensor:
        ids = torch.randint(1000, min(140_000, self.pair.spec.text.vocab), (n,), device=self.pair.device)
        return self.pair.ours.thinker.embed(ids)

    def positions(self, cache: KVCache, n: int) -> Tensor:
        places = np.tile(np.arange(cache.length, cache.length + n, dtype=np.float32), (3, 1))
        return upload(places, self.pair.device)

    def think(
        self, rows: Tensor, positions: Tensor | None = None, deepstack: Deepstack | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The rows, what the talker accepts of them, and the logits of the last."""
        thinker = self.pair.ours.thinker
        places = self.positions(self.cache, len(rows)) if positions is None else positions
        passed = thinker(rows, places, [Span(self.cache, len(rows))], deepstack)
        assert passed.accepted is not None
        return rows, passed.accepted, thinker.logits(passed.hidden[-1:])

    def talk(self, rows: Tensor, accepted: Tensor, _: Tensor | None = None) -> None:
        """The rows are shown to the talker as media."""
        assert self.pair.ours.talker is not None
        places = self.positions(self.talker_cache, len(rows))
        self.pair.ours.talker.listen(self.talker_cache, rows, accepted, range(len(rows)), places)

    def back(self) -> None:
        self.cache.truncate(self.context)
        self.talker_cache.truncate(self.context)


def ours(pair: Pair, clock: Clock, context: int, grid: tuple[int, int]) -> None:
    """Every step of the engine behind `context` tokens."""
    session = Session(pair, context)
    _heard(pair, clock, session)
    _written(pair, clock, session)
    _seen(pair, clock, session, grid)
    _forked(clock, session)
    _spoken(pair, clock, session)
    _sounded(pair, clock)
    _in_context(pair, clock, context)


def _heard(pair: Pair, clock: Clock, session: Session) -> None:
    tower = pair.ours.thinker.model.audio_tower
    mel = torch.randn(pair.spec.audio.mel_bins, pair.spec.audio.chunk_frames) / 2  # on the host, as a stream has it
    tokens = tower.encode_window(mel, True)
    _, accepted, _ = session.think(tokens)
    session.back()

    def block() -> None:
        session.talk(*session.think(tower.encode_window(mel, True)))

    suffix = torch.cat([tokens, session.words(6)])
    second = np.random.default_rng(0).normal(0, 3000, RATE).astype(np.int16)
    stream = AudioStream(tower)

    def listen() -> None:
        stream.append(second)
        stream.update()

    clock("audio_1s_spectrogram_and_encode", listen)
    clock("audio_1s_encode", lambda: tower.encode_window(mel, True))
    clock(f"audio_1s_thinker_{len(tokens)}_rows", lambda: session.think(tokens), after=session.back)
    clock(f"audio_1s_talker_{len(tokens)}_rows", lambda: session.talk(tokens, accepted), after=session.back)
    clock("audio_1s_whole", block, after=session.back)
    clock(f"audio_and_suffix_thinker_{len(suffix)}_rows", lambda: session.think(suffix), after=session.back)


def _written(pair: Pair, clock: Clock, session: Session) -> None:
    thinker, device = pair.ours.thinker, pair.device
    how, generator = SamplingRows.of([THINKER], device), torch.Generator(device).manual_seed(1)
    token = torch.tensor([1000], device=device)

    def step() -> None:
        _, _, logits = session.think(thinker.embed(token))
        token.copy_(choose(logits, how, noise(generator, 1)))

    clock("thinker_token", step)  # the cache grows, as in life: no length comes twice
    session.back()


def _seen(pair: Pair, clock: Clock, session: Session, grid: tuple[int, int]) -> None:
    visual, spec = pair.ours.thinker.model.visual, pair.spec.vision
    size = (grid[0] * spec.patch, grid[1] * spec.patch)
    name = f"{size[1]}x{size[0]}"
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    values = torch.from_numpy(pictures.patches([rgb], size, spec).values)
    seen = visual.encode(values, [grid])
    counter = PositionCounter(pair.spec.positions_per_second)
    counter.text(session.context)
    positions = upload(counter.image(grid[0] // spec.merge, grid[1] // spec.merge), pair.device)
    deepstack = Deepstack(torch.arange(len(seen.tokens), device=pair.device), seen.deepstack)
    clock(f"picture_{name}_patches_on_host", lambda: pictures.patches([rgb], size, spec))
    clock(f"picture_{name}_encode", lambda: visual.encode(values, [grid]))
    clock(
        f"picture_{name}_thinker_{len(seen.tokens)}_rows",
        lambda: session.think(seen.tokens, positions, deepstack),
        after=session.back,
    )


def _forked(clock: Clock, session: Session) -> None:
    """A transcript's fork: the cache shared, its torn last page copied at the first row."""
    forks: list[KVCache] = []

    def fork() -> None:
        forks.append(session.cache.fork())
        forks[-1].truncate(session.context - 5)
        forks[-1].reserve(1)

    def close() -> None:
        forks.pop().close()

    clock("transcript_fork_and_torn_page", fork, after=close)
    rows = session.words(19)

    def begin() -> None:
        fork()
        positions = session.positions(forks[-1], len(rows))
        session.pair.ours.thinker(rows, positions, [Span(forks[-1], len(rows))])

    clock("transcript_fork_and_19_rows", begin, after=close)


def _spoken(pair: Pair, clock: Clock, session: Session) -> None:
    talker, device = pair.ours.talker, pair.device
    assert talker is not None
    fixed = talker.fixed_rows(pair.ours.thinker.embed)
    prefix = fixed.prefix(VOICE)
    how = [SamplingRows.of([params], device) for params in (TALKER, PREDICTOR)]
    generator = torch.Generator(device).manual_seed(1)
    state = talker.start(session.talker_cache, session.context, float(session.context))

    def again() -> None:
        nonlocal state
        state = talker.start(session.talker_cache, session.context, float(session.context))

    clock("talker_prefix_8_rows", lambda: talker.prefill([state], [prefix]), after=again)
    talker.prefill([state], [prefix])

    def frame() -> Tensor:
        return talker.frames([state], fixed.pad[None], how[0], how[1], noise(generator, 16)[None])

    clock("talker_frame_with_predictor_and_sampling", frame)
    assert pair.ours.code2wav is not None
    decoder, sound = pair.ours.code2wav, pair.ours.code2wav.state()

    def audible() -> None:
        codes = frame()
        codes[0].tolist()
        (decoder.step(codes[:, :, None].clamp(max=decoder.spec.codebook - 1), sound)[0] * 32767).to(torch.int16).cpu()

    clock("frame_80ms_from_text_row_to_samples_on_host", audible)
    hidden = torch.randn(1, pair.spec.talker.decoder.hidden, device=device, dtype=pair.dtype)  # type: ignore[union-attr]
    code = torch.tensor([7], device=device)
    numbers = noise(generator, 15)[None]
    clock("predictor_alone", lambda: talker.code_predictor.predict(hidden, code, hidden, how[1], numbers))


def _sounded(pair: Pair, clock: Clock) -> None:
    decoder = pair.ours.code2wav
    assert decoder is not None
    codes = torch.randint(0, decoder.spec.codebook, (1, decoder.spec.quantizers, 1), device=pair.device)
    state = decoder.state()
    clock("code2wav_first_frame", lambda: decoder.step(codes, state), after=state.reset)
    decoder.step(codes, state)
    clock("code2wav_later_frame", lambda: decoder.step(codes, state))
    clock.value(
        "code2wav_state", "bytes", sum(t.nbytes for t in (state.frames, state.keys, state.values, *state.columns))
    )


def _in_context(pair: Pair, clock: Clock, rows: int) -> None:
    """The same by the engine's own bookkeeping, which feeds both models and reads tokens back to the host."""
    thinker, talker, device = pair.ours.thinker, pair.ours.talker, pair.device
    assert pair.spec.talker is not None
    shape: dict[str, Any] = {"tokens": rows + 1024, "device": device, "dtype": pair.dtype}
    caches = (KVPool(spec, **shape).new() for spec in (pair.spec.text, pair.spec.talker.decoder))
    context = Context(thinker, next(caches), talker, next(caches))
    user, answer = Turn("user"), Turn("assistant")
    context.turns += [user, answer]

    def put(turn: Turn, piece: Piece) -> None:
        turn.pieces.append(piece)
        context.changed()
        while context.missing:
            context.advance(512)

    def drop(turn: Turn) -> None:
        turn.pieces.pop()
        context.changed()
        _ = context.missing

    words = np.random.default_rng(2).integers(1000, 140_000, rows)
    put(user, pieces.text([int(word) for word in words]))
    features = thinker.model.audio_tower.encode_window(torch.randn(pair.spec.audio.mel_bins, 100), True)
    sound = pieces.audio(pair.spec.tokens.audio, features)
    clock(f"context_audio_{len(sound)}_rows_both_models", lambda: put(user, sound), after=lambda: drop(user))
    how, generator = SamplingRows.of([THINKER], device), torch.Generator(device).manual_seed(1)

    def token() -> None:
        put(answer, pieces.text((1000,)))
        int(choose(thinker.logits(context.last_hidden()[None]), how, noise(generator, 1)))

    clock("context_token_read_by_host", token, after=lambda: drop(answer))


def theirs(pair: Pair, clock: Clock, context: int, prompt: Prompt, n: int) -> None:
    """The same of Hugging Face's, where one call does it."""
    device, model = pair.device, pair.language_model
    mel = torch.randn(pair.spec.audio.mel_bins, pair.spec.audio.chunk_frames, device=device) / 2
    lengths = torch.tensor([mel.shape[1]], device=device)
    clock("hf_audio_1s_encode", lambda: pair.audio_tower(mel, feature_lens=lengths), n=n)
    ids = torch.randint(1000, min(140_000, pair.spec.text.vocab), (1, context), device=device)
    cache = DynamicCache(config=model.config)
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    places = torch.full((3, 1, 1), float(context), device=device)

    def token() -> None:
        out = model(
            inputs_embeds=model.embed_tokens(ids[:, :1]), position_ids=places, past_key_values=cache, use_cache=True
        )
        pair.theirs.thinker.lm_head(out.last_hidden_state)

    clock("hf_thinker_token", token, after=lambda: cache.crop(-1), n=n)
    codes = torch.randint(0, 2048, (1, pair.spec.code2wav.quantizers, 1), device=device)  # type: ignore[union-attr]
    clock("hf_code2wav_one_frame", lambda: pair.theirs.code2wav(codes), n=n)
    short, long, runs = 2, 10, 3
    frames = []
    for _ in range(runs + 1):
        times = [_generate(pair, prompt, count) for count in (short, long)]
        frames.append((times[1] - times[0]) / (long - short))
    clock.record(Row.of("hf_talker_frame_with_predictor_and_sampling", "ms", frames[1:]))


def _generate(pair: Pair, prompt: Prompt, frames: int) -> float:
    """Milliseconds of a reply of two tokens and so many frames."""
    inputs = prompt.inputs(pair.device)
    if pair.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    with silent(pair):
        pair.theirs.generate(
            **inputs,
            return_audio=True,
            speaker=VOICE,
            thinker_max_new_tokens=2,
            thinker_eos_token_id=None,
            thinker_do_sample=False,
            talker_max_new_tokens=frames + 1,
            talker_min_new_tokens=frames + 1,
        )
    if pair.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def memory(pair: Pair, clock: Clock) -> None:
    thinker, talker = pair.ours.thinker, pair.ours.talker
    assert talker is not None
    assert pair.ours.code2wav is not None
    assert pair.spec.talker is not None
    parts = {
        "thinker_text": (thinker.model.language_model, thinker.lm_head),
        "audio_encoder": (thinker.model.audio_tower,),
        "vision_encoder": (thinker.model.visual,),
        "talker": (talker,),
        "code2wav": (pair.ours.code2wav,),
        "all": (pair.ours,),
    }
    for name, modules in parts.items():
        weights = [weight for module in modules for weight in module.parameters()]
        clock.value(f"weights_{name}", "bytes", sum(weight.nbytes for weight in weights), len(weights))
    for name, spec in (("thinker", pair.spec.text), ("talker", pair.spec.talker.decoder)):
        clock.value(f"{name}_cache", "bytes a token", spec.kv_bytes_per_token * pair.dtype.itemsize // 2)
    if pair.device.type == "cuda":
        clock.value("allocated", "bytes", torch.cuda.memory_allocated())
        clock.value("most_allocated_while_timing", "bytes", torch.cuda.max_memory_allocated())


def copying(clock: Clock) -> None:
    """The device's own speed, to judge the rest by."""
    source = torch.randint(0, 255, (1 << 31,), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    clock("copy_of_2_GiB", lambda: target.copy_(source))
    median = clock.rows[-1].p50
    assert median is not None
    clock.value("copy_bandwidth", "TB/s", round(2 * source.numel() / median / 1e9, 3), clock.n)
