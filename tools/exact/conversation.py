"""A conversation of five turns that was rolled back, interrupted and forked, against the same one made afresh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import AudioDelta, Chunk, Pcm, ReplyEnd, RespondOptions, SessionSettings
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.kv_cache import KVCache
from omni_rt.engine.qwen3_omni.reply import Reply
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER
from tools.exact import mel, whole
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line
from tools.exact.talker import Speaker, spied, step
from tools.exact.vision import picture

BOUND = 1e-3
TURNS = 5
_ANSWER = 8
_FRAMES = 12


@torch.inference_mode()
def lines(seed: int) -> list[Line]:
    """What is said, shown, written and answered, where it is cut and in what steps it is worked on: from the seed."""
    drawn = draw(seed)
    return whole.decided(drawn, lambda attempt: _compared(drawn, drawn.rng(f"conversation {attempt}")))


def _compared(drawn: Draw, rng: np.random.Generator) -> list[Line]:
    talk = Talk(drawn, settings(drawn, rng), rng)
    for _ in talk.course():
        pass
    context, parts = talk.conversation.context, talk.parts
    fresh = parts.new_context()
    fresh.turns = list(context.turns)
    fresh.changed()
    whole.fill(fresh)
    assert context.talker_cache is not None
    assert fresh.talker_cache is not None
    thinker, talker = _apart(context.cache, fresh.cache), _apart(context.talker_cache, fresh.talker_cache)
    rows = context.rows
    given = whole.inputs(parts, context.turns, talk.clips)
    answer, own = _answered(talk, context, None)
    _, anew = _answered(talk, fresh, answer)
    opened = _longer(given, parts.prompt.assistant_open)
    theirs = drawn.reference.thinker(**_longer(opened, answer), use_cache=False).logits[0, -len(answer) - 1 :]
    wrong, codes = _spoken(talk, opened)
    what = f"{TURNS} turns with a rollback, a barge-in and forks in between"
    note = f"{rows} rows, {context.computed} computed, {parts.settings.mix} pictures, {talk.note}"
    return [
        Line(f"{what} = a fresh prefill: logits", BOUND, _error(own, anew), own.numel(), note),
        Line(f"{what} = a fresh prefill: thinker's cache", BOUND, thinker, rows),
        Line(f"{what} = a fresh prefill: talker's cache", BOUND, talker, context.talker_place().rows),
        Line(f"{what} = Hugging Face's pass over the whole: logits", BOUND, _error(own, theirs), own.numel()),
        Line(f"{what} = Hugging Face's pass over the whole: codes of an answer", None, wrong, codes),
    ]


def settings(drawn: Draw, rng: np.random.Generator) -> whole.Watched:
    """The parts of an engine that looks and listens as drawn."""
    return whole.parts(
        drawn,
        frames_per_second=float(rng.choice([1.0, 2.0])),
        audio_window_s=8,
        mix=str(rng.choice(["separate", "interleaved"])),
        frame_tokens=int(rng.integers(4, 20)),
    )


@dataclass
class Talk:
    """One conversation and the person in it. `clips` is what was said, by item; `chunks` what was answered."""

    drawn: Draw
    parts: whole.Watched
    rng: np.random.Generator
    turns: int = TURNS
    clips: dict[str, Pcm] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    told: whole.Told = field(default_factory=whole.Told)

    def __post_init__(self) -> None:
        seed = int(self.rng.integers(1 << 30))
        self.conversation = Conversation(self.parts, SessionSettings(instructions=self._words()), self.told, seed)
        self._generation = 0
        self._begun: Pcm | None = None
        self._heard = ""
        self._filmed = False

    @property
    def note(self) -> str:
        forks = sum(bool(transcript.text) for transcript in self.told.transcripts)
        replies = sum(isinstance(chunk, ReplyEnd) for chunk in self.chunks)
        return f"{replies} replies, {forks} transcripts, {len(self._heard)} characters of the interrupted one heard"

    def course(self) -> Iterator[None]:
        """The conversation, a step of the engine at a time."""
        rng = self.rng
        interrupted, rolled_back = int(rng.integers(self.turns - 1)), int(rng.integers(self.turns))
        for number in range(self.turns):
            if number in (rolled_back, interrupted + 1) or rng.random() < 0.5:
                yield from self._say(f"item {number}", rolled_back=number == rolled_back)
            else:
                self._write(f"item {number}")
                yield from self._some(4)
            yield from self._answer(interrupted=number == interrupted)
        while self.conversation.deadline(0.0) is not None:
            self.conversation.step()
            yield
        if self.told.errors:
            raise self.told.errors[0]

    def _some(self, most: int) -> Iterator[None]:
        """A few steps of what there is to do."""
        for _ in range(int(self.rng.integers(most + 1))):
            if self.conversation.deadline(0.0) is not None:
                self.conversation.step()
                yield

    def _say(self, item_id: str, *, rolled_back: bool) -> Iterator[None]:
        clip, self._begun = self._begun, None
        conversation, rng = self.conversation, self.rng
        parts = [] if clip is None else [clip]
        seen = clip is None and bool(rng.random() < 0.6)
        shape = tuple(int(n) for n in rng.integers(20, 150, 2))
        if seen:
            self._filmed = self._filmed or self.parts.settings.mix == "interleaved"
            conversation.append_image(picture(rng, *shape), 0)
        retracted = rolled_back
        rest = list(mel.pieces(rng, self._clip()))
        for number, part in enumerate(rest):
            conversation.append_audio(part)
            parts.append(part)
            if seen and rng.random() < 0.3:
                conversation.append_image(picture(rng, *shape), 0)
            yield from self._some(3)
            if retracted and (rng.random() < 0.3 or number == len(rest) - 1):
                retracted = False
                yield from self._retract()
        self.clips[item_id] = np.concatenate(parts)
        conversation.commit(item_id)
        yield from self._some(4)

    def _retract(self) -> Iterator[None]:
        """The utterance is taken to be over and answered, perhaps aloud; then it goes on as if nothing had been."""
        conversation = self.conversation
        conversation.mark(self._generation)
        conversation.commit("retracted")
        yield from self._some(2)
        serial = self._generation
        self._respond(audio=bool(self.rng.random() < 0.7))
        yield from self._some(12)
        conversation.rollback(serial)
        yield from self._some(2)

    def _write(self, item_id: str) -> None:
        rng, conversation = self.rng, self.conversation
        if rng.random() < 0.3:
            conversation.append_tool_result("call", self._words(), item_id)
            return
        # Hugging Face's talker counts audio in video in another way once a picture follows, however much later
        if not self._filmed and rng.random() < 0.5:
            conversation.append_image(picture(rng, *(int(n) for n in rng.integers(20, 150, 2))), 0)
        conversation.append_text(self._words(), "user", item_id)

    def _answer(self, *, interrupted: bool) -> Iterator[None]:
        reply = self._respond(audio=interrupted or bool(self.rng.random() < 0.3))
        frames = int(self.rng.integers(3, 12))
        while not reply.ended and not (interrupted and self._frames(reply) >= frames):
            self.conversation.step()
            yield
        if not interrupted:
            return
        self._begun = self._clip()[: int(self.rng.integers(320, 20_000))]
        self.conversation.append_audio(self._begun)
        yield from self._some(6)
        played = int(self.rng.integers(1, 80 * self._frames(reply) + 1))
        self._heard = self.conversation.keep_heard(reply.generation, played)
        yield from self._some(2)

    def _respond(self, *, audio: bool) -> Reply:
        self._generation += 1
        options = RespondOptions(self._generation, audio=audio, max_tokens=int(self.rng.integers(2, 6)))
        reply = Reply(self.parts, options, self.chunks.append)
        self.conversation.respond(reply)
        return reply

    def _frames(self, reply: Reply) -> int:
        return sum(isinstance(chunk, AudioDelta) and chunk.generation == reply.generation for chunk in self.chunks)

    def _words(self) -> str:
        return self.parts.tokenizer.decode(self.rng.integers(300, 150_000, self.rng.integers(0, 6)).tolist())

    def _clip(self) -> Pcm:
        """Of more than a second: Hugging Face does not pad a shorter one that is alone."""
        samples = int(self.rng.integers(17_000, 80_000))
        clip: Pcm = np.round(mel.sound(self.rng, samples) * 32767).astype(np.int16)
        return clip


def _answered(talk: Talk, context: Context, answer: list[int] | None) -> tuple[list[int], Tensor]:
    """The logits [tokens + 1, vocab] of an answer, by default of the likeliest tokens."""
    thinker, opening = talk.parts.omni.thinker, talk.parts.prompt.assistant_open
    turn = Turn("assistant", [pieces.text(opening)])
    context.turns = [*context.turns, turn]
    context.changed()
    tokens: list[int] = []
    logits: list[Tensor] = []
    while True:
        whole.fill(context)
        logits.append(thinker.logits(context.last_hidden()[None]))
        if len(tokens) == _ANSWER:
            return tokens, torch.cat(logits)
        tokens.append(int(logits[-1].argmax()) if answer is None else answer[len(tokens)])
        turn.pieces.append(pieces.text(tokens[-1:]))
        context.changed()


def _longer(given: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
    """Hugging Face's inputs with more text behind them."""
    longer = torch.cat((given["input_ids"], torch.tensor([ids])), dim=1)
    return given | {"input_ids": longer, "attention_mask": torch.ones_like(longer)}


def _spoken(talk: Talk, given: dict[str, Any]) -> tuple[float, int]:
    """How many greedy codes of an answer are not those of Hugging Face's `generate`, and how many there are."""
    parts, context, reference = talk.parts, talk.conversation.context, talk.drawn.reference
    talker, voice, place = parts.omni.talker, parts.voices[0], context.talker_place()
    with spied(talk.drawn) as seen:
        ids, _ = reference.generate(
            **given,
            return_audio=True,
            speaker=voice,
            thinker_max_new_tokens=_ANSWER,
            thinker_eos_token_id=None,
            thinker_do_sample=False,
            talker_do_sample=False,
            talker_max_new_tokens=_FRAMES + 1,
            talker_repetition_penalty=TALKER.repetition_penalty,
        )
    expected = seen["codes"][0].T
    assert talker is not None
    assert context.talker_cache is not None
    fixed = talker.fixed_rows(parts.omni.thinker.embed)
    state = talker.start(context.talker_cache, place.rows, place.next)
    talker.prefill([state], [fixed.prefix(voice)])
    one = Speaker(talker, fixed, parts.omni.thinker.embed(ids[0, given["input_ids"].shape[1] : -1]), state)
    greedy = [(TALKER.greedy(), PREDICTOR.greedy())]
    codes = torch.cat([step([one], greedy, torch.zeros(1, 16)) for _ in range(len(expected))])
    return float((codes != expected).sum()), codes.numel()


def _apart(cache: KVCache, other: KVCache) -> float:
    return _error(_held(cache), _held(other))


def _held(cache: KVCache) -> Tensor:
    """Keys and values of all rows."""
    pool: Any = cache.pool
    slots = torch.tensor([page * pool.page + n for page in cache.pages for n in range(pool.page)], dtype=torch.int64)
    return torch.stack([pool.keys, pool.values])[:, :, slots[: cache.length]]


def _error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite where the shapes differ."""
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
