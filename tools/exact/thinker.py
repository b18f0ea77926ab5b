"""The thinker fed through a conversation, as it comes, against Hugging Face's `generate` of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from omni_rt.engine.api import Pcm, Rgb, SessionSettings
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.mel import SHORTEST
from omni_rt.engine.qwen3_omni.pictures import fit
from omni_rt.engine.qwen3_omni.pieces import Piece
from omni_rt.engine.qwen3_omni.positions import PositionCounter
from tools.exact import mel, whole
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line
from tools.exact.vision import picture

BOUND = 1e-3
TOKENS = 32
KINDS = ("text", "audio", "image", "video", "audio+image", "audio-in-video")


def lines(seed: int) -> list[Line]:
    """Words, clips, pictures, chunks and rollbacks are drawn from the seed."""
    return [line for kind in KINDS for line in compared(seed, kind)]


@torch.inference_mode()
def compared(seed: int, kind: str) -> list[Line]:
    """Of one kind of prompt: the tokens, and the logits they were chosen by."""
    drawn = draw(seed)
    return whole.decided(drawn, lambda attempt: _compared(drawn, drawn.rng(f"thinker {kind} {attempt}"), kind))


def _compared(drawn: Draw, rng: np.random.Generator, kind: str) -> list[Line]:
    feed = _Feed(drawn, rng, interleaved=kind == "audio-in-video")
    _CONTENT[kind](feed)
    context = feed.finish()
    given = whole.inputs(feed.parts, context.turns, feed.clips)
    theirs = drawn.reference.thinker.generate(
        **given,
        max_new_tokens=TOKENS,
        eos_token_id=None,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    expected, logits = theirs.sequences[0, -TOKENS:].tolist(), torch.cat(theirs.logits)
    tokens, own = _greedy(feed)
    what = f"thinker, {kind}: streamed in random chunks = one-shot `generate`"
    rows = given["input_ids"].shape[1]
    note = f"{rows} rows, of which {feed.computed - rows} were computed again"
    wrong = float(sum(a != b for a, b in zip(tokens, expected, strict=True)))
    return [
        Line(f"{what}: {TOKENS} greedy tokens", None, wrong, TOKENS, note),
        Line(f"{what}: logits", BOUND, float((own - logits).abs().max()), logits.numel()),
    ]


@dataclass
class _Feed:
    """A conversation that hears, sees and reads while its caches are filled, cut and filled again at random."""

    drawn: Draw
    rng: np.random.Generator
    interleaved: bool
    clips: dict[str, Pcm] = field(default_factory=dict)
    computed: int = 0

    def __post_init__(self) -> None:
        self.parts = whole.parts(
            self.drawn,
            frames_per_second=float(self.rng.choice([1.0, 2.0, 4.0])),
            audio_window_s=8,
            transcripts=False,
            mix="interleaved" if self.interleaved else "separate",
            frame_tokens=int(self.rng.integers(4, 30)),
        )
        self.conversation = Conversation(
            self.parts, SessionSettings(instructions=self.words()), whole.Told(), self.drawn.seed
        )

    def words(self) -> str:
        """Some, or none."""
        return self.parts.tokenizer.decode(self.rng.integers(300, 150_000, self.rng.integers(0, 20)).tolist())

    def frame(self) -> Rgb:
        return picture(self.rng, int(self.rng.integers(20, 200)), int(self.rng.integers(20, 200)))

    def clip(self, longest: int) -> Pcm:
        """Sound of up to so many seconds; one of several windows gets louder, which moves the floor of those before."""
        samples = int(self.rng.integers(SHORTEST, longest * 16_000))
        louder = np.linspace(-2, 0, samples) if samples > 8 * 16_000 else np.zeros(samples)
        clip: Pcm = np.round(10**louder * mel.sound(self.rng, samples) * 32767).astype(np.int16)
        return clip

    def jostle(self) -> None:
        """What the time between two events may bring: work of any size, and a turn that is taken back."""
        context = self.conversation.context
        for _ in range(int(self.rng.integers(0, 4))):
            match self.rng.integers(4):
                case 0:
                    context.advance(int(self.rng.integers(1, 30)))
                case 1 | 2:
                    if self.conversation.deadline(0.0) is not None:
                        self.conversation.step()
                case _:
                    stray = Turn("user", [pieces.text(self.rng.integers(0, 150_000, 5).tolist())])
                    context.turns.insert(int(self.rng.integers(len(context.turns) + 1)), stray)
                    context.changed()
                    context.advance(int(self.rng.integers(1, 200)))
                    context.turns.remove(stray)
                    context.changed()

    def say(self, longest: int, shown: Callable[[float], None] = lambda _: None) -> None:
        """A spoken turn; `shown` is told the seconds that are about to have been said."""
        item_id, clip = f"item {len(self.clips)}", self.clip(longest)
        self.clips[item_id] = clip
        said = 0
        for part in mel.pieces(self.rng, clip):
            shown(said / 16_000)
            self.conversation.append_audio(part)
            said += len(part)
            self.jostle()
        shown(said / 16_000)
        self.conversation.commit(item_id)

    def finish(self) -> Context:
        """All of it prefilled, and the answer opened."""
        context = self.conversation.context
        while self.conversation.deadline(0.0) is not None:
            self.jostle()
            if self.conversation.deadline(0.0) is not None:
                self.conversation.step()
        context.turns.append(Turn("assistant", [pieces.text(self.parts.prompt.assistant_open)]))
        context.changed()
        while context.missing:
            context.advance(int(self.rng.integers(1, 25)))
        self.computed = context.computed
        return context


def _text(feed: _Feed) -> None:
    for number in range(int(feed.rng.integers(1, 4))):
        feed.conversation.append_text(feed.words(), "user", f"text {number}")
        feed.jostle()


def _audio(feed: _Feed) -> None:
    feed.say(20)


def _image(feed: _Feed) -> None:
    for number in range(int(feed.rng.integers(1, 4))):
        feed.conversation.append_image(feed.frame(), 0)
        feed.conversation.append_text(feed.words(), "user", f"picture {number}")
        feed.jostle()


def _audio_and_image(feed: _Feed) -> None:
    def shown(_: float) -> None:
        if feed.rng.random() < 0.3:
            feed.conversation.append_image(feed.frame(), 0)

    feed.say(20, shown)
    feed.conversation.append_image(feed.frame(), 0)
    feed.conversation.append_text(feed.words(), "user", "picture")


def _audio_in_video(feed: _Feed) -> None:
    height, width = (int(n) for n in feed.rng.integers(20, 200, 2))
    made = 0

    def shown(now: float) -> None:
        nonlocal made
        while made / feed.parts.frames_per_second <= now:
            feed.conversation.append_image(picture(feed.rng, height, width), 0)
            feed.jostle()
            made += 1

    feed.say(12, shown)


def _video(feed: _Feed) -> None:
    """Pairs of frames without sound, each laid out and prefilled when it comes."""
    rng, parts, context = feed.rng, feed.parts, feed.conversation.context
    height, width = (int(n) for n in rng.integers(20, 200, 2))
    size = fit(height, width, 1, 20_000)
    prompt, counter = parts.prompt, PositionCounter(parts.spec.positions_per_second)
    opening, closing = (*prompt.user_open, *prompt.vision_open), (*prompt.vision_close, *prompt.user_close)
    turn = Turn("user", [Piece(opening, counter.text(len(opening)), counter.next)])
    context.turns.append(turn)
    for number in range(int(rng.integers(1, 8))):
        seen = parts.look([picture(rng, height, width) for _ in range(2)], size)
        places = counter.video(1, *seen.grid, 2 / parts.frames_per_second, at=number)
        n = len(seen.features)
        turn.pieces.append(
            Piece(
                (parts.spec.tokens.video,) * n,
                places,
                counter.next,
                media=tuple(range(n)),
                visual=tuple(range(n)),
                features=seen.features,
                deepstack=seen.deepstack,
                continues=True,
            )
        )
        context.changed()
        feed.jostle()
    turn.pieces.append(pieces.text(closing))
    context.changed()


_CONTENT: dict[str, Callable[[_Feed], None]] = {
    "text": _text,
    "audio": _audio,
    "image": _image,
    "video": _video,
    "audio+image": _audio_and_image,
    "audio-in-video": _audio_in_video,
}


def _greedy(feed: _Feed) -> tuple[list[int], Tensor]:
    """The likeliest tokens, one after the other, and the logits [tokens, vocab] they were read from."""
    context, thinker = feed.conversation.context, feed.parts.omni.thinker
    answer = context.turns[-1]
    tokens: list[int] = []
    logits: list[Tensor] = []
    for _ in range(TOKENS):
        context.advance(1)
        logits.append(thinker.logits(context.last_hidden()[None]))
        tokens.append(int(logits[-1].argmax()))
        answer.pieces.append(pieces.text(tokens[-1:]))
        context.changed()
    return tokens, torch.cat(logits)
