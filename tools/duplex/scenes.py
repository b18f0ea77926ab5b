"""The conversations: which clips are said when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from tools.duplex.clips import Clip
from tools.duplex.sounds import Sound, crowd, repeated, whole, with_pause

SHORT = "Answer in at most four words."
LONG = (
    "You tell stories on the telephone, in plain sentences. Begin at once with what happens, on what day and in what "
    "weather, never with 'Once upon a time'."
)
# Written, not spoken: what is asked for is the same each time, whatever was understood.
STORIES = tuple(
    f"Tell me a story about {what}, in ten sentences."
    for what in (
        "a lighthouse keeper and a storm",
        "two brothers who build a boat",
        "a fox that learns to swim",
        "the last train of the evening",
        "a village without a clock",
        "an old gardener and his apple tree",
        "a letter that arrives too late",
        "three children in a museum",
        "a baker who cannot sleep",
        "the bridge over the river",
        "a dog that waits at the station",
        "a painter in the mountains",
    )
)
SHORT_TOKENS, LONG_TOKENS = 12, 64
PAUSES_S = (0.3, 0.6, 1.0, 1.5)
# Seconds after a reply's first sound.
_INTERRUPTED_AT_S = (0.6, 2.0, 1.2, 3.2, 0.9, 4.5)
_BACKCHANNELS_AT_S = ((1.0, 4.2, 7.4, 10.6), (2.1, 5.6, 8.8, 12.0))
_COUGHS_AT_S = ((1.5, 5.0, 8.5), (2.6, 6.2, 9.8))
ECHO_DB = (-20.0, -30.0)
LOSS = 0.05
NOISE_S = 7.0


@dataclass(frozen=True, slots=True)
class Cue:
    """A sound over the reply, so many seconds after its first sound."""

    sound: Sound
    after_s: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Something said, or asked for in writing, the reply, and what is said over it. With `listen_s` the reply is cut
    off by the client so many seconds after the last cue. A reply that is gone before a cue is asked for again."""

    turn: Sound | None = None
    ask: str = ""
    cues: tuple[Cue, ...] = ()
    listen_s: float | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """One call. `idle` is played before the first exchange, while nobody speaks; `loss` is the share of packets lost
    each way."""

    name: str
    group: str
    exchanges: tuple[Exchange, ...]
    instructions: str = SHORT
    tokens: int = SHORT_TOKENS
    echo_db: float | None = None
    loss: float = 0.0
    idle: Sound | None = None


class Cast:
    """The clips by kind, each kind gone through over and over."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips
        self._next = {kind: cycle(self.of(kind)) for kind in sorted({clip.kind for clip in clips})}

    def of(self, kind: str) -> list[Clip]:
        """Recorded and made ones by turns, so that a part of them has both."""
        recorded = [clip for clip in self.clips if clip.kind == kind and not clip.made]
        made = [clip for clip in self.clips if clip.kind == kind and clip.made]
        longer, shorter = sorted((recorded, made), key=len, reverse=True)
        mixed: list[Clip] = []
        for number, clip in enumerate(longer):
            mixed += [clip, *shorter[number : number + 1]]
        return mixed

    def take(self, kind: str, count: int) -> list[Clip]:
        return list(islice(self._next[kind], count)) if kind in self._next else []


def _wait(cast: Cast, size: int) -> list[Scene]:
    turns = [Exchange(whole(clip)) for clip in cast.take("turn", 8 * size // 4)]
    return _calls("wait", turns, 4)


def _pause(cast: Cast, size: int) -> list[Scene]:
    """Each place has another pause when its turn comes again."""
    places = [(clip, split) for clip in cast.of("turn") for split in clip.splits]
    turns = []
    for number in range(16 * size // 4 if places else 0):
        lap, place = divmod(number, len(places))
        pause_s = PAUSES_S[(place + lap) % len(PAUSES_S)]
        turns.append(Exchange(with_pause(*places[place], pause_s)))
    return _calls("pause", turns, 4)


def _answer(cast: Cast, size: int) -> list[Scene]:
    return _calls("answer", [Exchange(whole(clip)) for clip in cast.take("answer", 6 * size // 4)], 6)


def _backchannel(cast: Cast, size: int) -> list[Scene]:
    return _over(cast, "backchannel", _BACKCHANNELS_AT_S, 6 * size // 4, 2)


def _cough(cast: Cast, size: int) -> list[Scene]:
    return _over(cast, "cough", _COUGHS_AT_S, max(1, 3 * size // 4), 2)


def _over(cast: Cast, kind: str, times: Sequence[Sequence[float]], count: int, per_call: int) -> list[Scene]:
    exchanges = []
    for number in range(count):
        after = times[number % len(times)]
        cues = tuple(Cue(whole(c), at) for c, at in zip(cast.take(kind, len(after)), after, strict=False))
        exchanges.append(Exchange(ask=_story(number), cues=cues))
    return _calls(kind, exchanges, per_call, LONG, LONG_TOKENS)


def _interruption(cast: Cast, size: int) -> list[Scene]:
    sounds = zip(cast.take("interruption", 14 * size // 4), cycle(_INTERRUPTED_AT_S), strict=False)
    exchanges = [
        Exchange(ask=_story(number), cues=(Cue(whole(over), at),), listen_s=3.5)
        for number, (over, at) in enumerate(sounds)
    ]
    return _calls("interruption", exchanges, 4, LONG, LONG_TOKENS)


def _typing(cast: Cast, size: int) -> list[Scene]:
    return _noise("typing", [repeated(clip, NOISE_S) for clip in cast.take("typing", max(1, size // 2))])


def _crowd(cast: Cast, size: int) -> list[Scene]:
    return _noise("crowd", [crowd(cast.of("turn"), NOISE_S, seed) for seed in range(max(1, size // 2))])


def _noise(group: str, sounds: Sequence[Sound]) -> list[Scene]:
    exchanges = [
        Exchange(ask=_story(number), cues=(Cue(sound, 1.0),), listen_s=2.0) for number, sound in enumerate(sounds)
    ]
    return [
        Scene(f"{group}-{number}", group, (exchange,), LONG, LONG_TOKENS, idle=exchange.cues[0].sound)
        for number, exchange in enumerate(exchanges)
    ]


def _echo(_: Cast, size: int) -> list[Scene]:
    exchanges = tuple(Exchange(ask=_story(number)) for number in range(max(1, size // 2)))
    return [Scene(f"echo{level:g}dB", "echo", exchanges, LONG, LONG_TOKENS, echo_db=level) for level in ECHO_DB]


def _loss(cast: Cast, size: int) -> list[Scene]:
    turns = tuple(Exchange(whole(clip)) for clip in cast.take("turn", 4 * size // 4))
    over = tuple(
        Exchange(ask=_story(number), cues=(Cue(whole(clip), 2.5),), listen_s=3.5)
        for number, clip in enumerate(cast.take("interruption", max(1, size // 2)))
    )
    return [
        Scene("loss-0", "loss", turns, loss=LOSS),
        Scene("loss-1", "loss", over, LONG, LONG_TOKENS, loss=LOSS),
    ]


def _story(number: int) -> str:
    return STORIES[number % len(STORIES)]


def _calls(
    group: str, exchanges: Sequence[Exchange], per_call: int, instructions: str = SHORT, tokens: int = SHORT_TOKENS
) -> list[Scene]:
    parts = [tuple(exchanges[at : at + per_call]) for at in range(0, len(exchanges), per_call)]
    return [Scene(f"{group}-{number}", group, part, instructions, tokens) for number, part in enumerate(parts)]


_GROUPS: dict[str, Callable[[Cast, int], list[Scene]]] = {
    "wait": _wait,
    "pause": _pause,
    "answer": _answer,
    "backchannel": _backchannel,
    "cough": _cough,
    "interruption": _interruption,
    "typing": _typing,
    "crowd": _crowd,
    "echo": _echo,
    "loss": _loss,
}
GROUPS = tuple(_GROUPS)


def scenes(clips: Sequence[Clip], groups: Sequence[str] = GROUPS, size: int = 4) -> list[Scene]:
    """The conversations of these groups, the same each time. `size` 4 is the full run, 1 a quick one; more is more of
    each."""
    return [scene for group in groups for scene in _GROUPS[group](Cast(clips), size)]
