"""How far the Qwen engine's estimate of what was heard is off, in words, on the local engine's voice, where the time of
every word is known. Real speech of Qwen3-Omni may be faster, slower or less even.

    python tools/bench_heard.py --json docs/benchmarks/heard_local.json

Each reply is cut at random moments. `finished`: the talker has ended it, so its length is known. `going_on`: half a
second more than was heard has been made. `prior`: nothing was learned yet; `learned`: from the replies before it, in a
session of 12. `fast` and `slow`: the same speech at 1.25 and 0.8 times its speed. A token is taken to be a word.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rt.client.report import Report, Row
from omni_rt.engine.local.clauses import ClauseCutter
from omni_rt.engine.local.tts import Voice, voices
from omni_rt.engine.qwen3_omni.heard import FRAME_MS, HEARD_SHARE, Pace, heard, words

AHEAD = 6  # frames made but not played yet
SESSION = 12  # replies

SENTENCES = (
    "Sure, I can help with that.",
    "It's about twenty minutes by bus, but walking along the canal is much nicer in the morning.",
    "The train leaves at 7:45 from platform 12, and it gets in a little after nine.",
    "No.",
    "In 1969 two people walked on the moon while a third one stayed in orbit above them.",
    "You have three meetings today: the first with Anna, the second with the design team, and the last one at 4.",
    "Honestly? I would take the smaller one. It costs less, weighs almost nothing, and the battery lasts for two days.",
    "Photosynthesis turns carbon dioxide and water into sugar, using the energy of sunlight.",
    "That looks like a bicycle chain.",
    "Add 250 grams of flour, 2 eggs and a pinch of salt, then stir until there are no lumps left.",
    "I'm sorry, I didn't catch the last word; could you say it again, a bit louder?",
    "The population grew by 3.5% last year, to roughly 84,000.",
    "Yes, it is still raining.",
    "Internationalisation is the unnecessarily complicated preparation of software for different languages.",
    "Go past the church, turn left, and you will see it right in front of you.",
    "The cat sat on the mat, and the dog ran off with my hat.",
    "Well, that depends. If you want to read in bed, get a warm lamp; if you want to draw, get a bright one.",
    "Your order 4471 was sent on Tuesday and should arrive by the end of the week.",
    "There are eight planets, and none of them is Pluto, although many people wish it were.",
    "Mix the blue and the yellow paint until you get green, then let it dry overnight.",
    "She wrote the letter on March 3rd, but nobody opened it for almost a hundred years.",
    "Both sentences mean the same thing. The second one is shorter, so I would keep that.",
    "Try restarting the router first.",
    "A marathon is 42.195 kilometers long, which most runners only believe after the thirtieth.",
    "Good morning! You slept for seven hours and ten minutes, a little more than yesterday.",
    "The museum is closed on Mondays, opens at ten on other days, and is free for children under 12.",
    "What you see there is probably a heron: grey, very tall, and absolutely still.",
    "Thanks to you too, and have a lovely evening.",
    "Water boils at 100 degrees at sea level, but at only 71 degrees on top of the highest mountain.",
    "He knew the way by heart: over the bridge, through the wood, and down to the old mill by the river.",
    "I found four flights. The cheapest costs 89 dollars and has one stop; the fastest is direct and costs 140.",
    "Because the earth is tilted, the days are long in summer and short in winter.",
    "Put it in the top drawer.",
    "Statistically speaking, approximately everybody overestimates their own abilities considerably.",
    "First you breathe in for four seconds, then you hold it for seven, and then you breathe out for eight.",
    "The red wire goes to the left pin, the black wire goes to ground, and the white one stays free.",
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A reply and its truth: of each spoken word, where it ends in the text and its times in ms."""

    text: str
    words: tuple[tuple[int, float, float], ...]
    duration_ms: float

    @classmethod
    def by(cls, voice: Voice, text: str) -> Spoken:
        """Said clause by clause, as the local engine does."""
        cutter = ClauseCutter()
        timed: list[tuple[int, float, float]] = []
        now, place = 0.0, 0
        for clause in [*cutter.feed(text), *cutter.flush()]:
            speech = voice.speak(clause)
            timed += [(place + w.end, now + w.start_ms, now + w.end_ms) for w in speech.words]
            now, place = now + speech.duration_ms, place + len(clause)
        return cls(text, tuple(timed), now)

    def at_speed(self, speed: float) -> Spoken:
        timed = tuple((end, start / speed, stop / speed) for end, start, stop in self.words)
        return Spoken(self.text, timed, self.duration_ms / speed)

    @property
    def frames(self) -> int:
        return math.ceil(self.duration_ms / FRAME_MS)

    def heard_words(self, ms: float) -> int:
        """How many words were heard by then, in truth."""
        return sum(ms >= start + HEARD_SHARE * (end - start) for _, start, end in self.words)

    def as_json(self) -> dict[str, Any]:
        timed = [[end, round(start), round(stop)] for end, start, stop in self.words]
        return {"text": self.text, "duration_ms": round(self.duration_ms), "words": timed}


def estimated_words(spoken: Spoken, ms: float, ended: bool, pace: Pace) -> int:
    pieces = re.findall(r"\s*\S+", spoken.text)
    played = ms / FRAME_MS
    frames = spoken.frames if ended else min(spoken.frames, math.ceil(played) + AHEAD)
    kept = heard(pieces, frames, ended, played, pace)
    return sum(end <= kept.characters for _, end, _ in words(spoken.text))


def errors(replies: list[Spoken], cuts: int, *, ended: bool, learning: bool, seed: int) -> list[float]:
    """Words too many or too few, for each cut of each reply."""
    rng = random.Random(seed)
    replies = rng.sample(replies, len(replies))
    found: list[float] = []
    pace = Pace()
    for index, spoken in enumerate(replies):
        if not index % SESSION:
            pace = Pace()
        if not learning or index % SESSION:
            for _ in range(cuts):
                ms = rng.uniform(0, spoken.duration_ms)
                found.append(abs(estimated_words(spoken, ms, ended, pace) - spoken.heard_words(ms)))
        if learning:
            pace.learn(spoken.text, spoken.frames)
    return found


def measure(replies: list[Spoken], cuts: int, seed: int) -> list[Row]:
    rows: list[Row] = []
    cases = [("finished", 1.0, True, False), ("going_on_prior", 1.0, False, False)]
    cases += [("going_on_learned", 1.0, False, True)]
    cases += [
        (f"{name}_{how}", speed, False, how == "going_on_learned")
        for name, speed in (("fast", 1.25), ("slow", 0.8))
        for how in ("going_on_prior", "going_on_learned")
    ]
    for name, speed, ended, learning in cases:
        found = errors([reply.at_speed(speed) for reply in replies], cuts, ended=ended, learning=learning, seed=seed)
        rows.append(Row.of(f"heard_error_{name}", "words", found))
        mean = round(sum(found) / len(found), 3)
        rows.append(Row(f"heard_error_{name}_mean", "words", len(found), value=mean))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    parser.add_argument("--record", type=Path, metavar="PATH", help="write the truth of every third reply there")
    parser.add_argument("--cuts", type=int, default=20, help="of each reply (20)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    voice = Voice(voices()[0])
    replies = [Spoken.by(voice, text) for text in SENTENCES]
    report = Report(measure(replies, arguments.cuts, arguments.seed))
    print(report.table())
    if arguments.json:
        report.write(arguments.json)
    if arguments.record:
        lines = [json.dumps(reply.as_json()) for reply in replies[::3]]
        arguments.record.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
