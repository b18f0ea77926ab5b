"""How well the ends of what somebody says are told from the pauses inside, and what the models take that tell them.

    python -m tools.bench_endings --json docs/benchmarks/endings_local.json

Sentences of people (the turns of `tools/duplex/clips.py` that are not held out) and of the local voice are broken off
at their end and at places inside, and judged there as in a call at a pause: smart-turn's score, the words by the
recogniser, and how likely a sentence ends with them by the chat model. From these `core/turns.py` gives the silence
after which the turn is over. `at_once`: the share of ends for which that is less than 150 ms; `cut_in_…s`: of places
inside, how many would end the turn in a pause of that length; `by_score`: the same without the words. The voice says
each sentence twice, with commas at its places and without. `words_anew`: recognised without what an earlier
recognition, of 400 ms less, wrote.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from omni_rt.client.report import Report, Row
from omni_rt.config import Settings, cache_dir
from omni_rt.core.completeness import completeness
from omni_rt.core.patience import Patience
from omni_rt.core.turns import TurnPolicy, Words
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.engine.local.asr import Recogniser
from omni_rt.engine.local.chat import ChatModel
from omni_rt.engine.local.context import Context, Turn
from omni_rt.engine.local.ears import HEARD_OUT
from omni_rt.engine.local.engine import LocalEngine
from omni_rt.engine.local.prompt import read_marks, system_text, user_text
from omni_rt.engine.local.slot import Slot
from omni_rt.engine.local.tts import Voice, voices
from omni_rt.engine.local.utterance import PAUSE_MS
from omni_rt.media.end_of_turn import SmartTurn
from omni_rt.media.resample import resample
from omni_rt.models.manifest import ASR, HEARING
from omni_rt.models.store import ModelStore
from omni_rt.realtime.settings import WireSession
from omni_rt.session.policy import duplex_policy
from tools.duplex.clips import SPEECH_LEVEL, Clip, for_tuning, read_clips
from tools.duplex.microphone import in_room
from tools.duplex.truth import active_level

_MS = INPUT_RATE // 1000
_PAUSES_S = (0.3, 0.6, 1.0)
_AT_ONCE_MS = 150
# An earlier recognition of the same audio, whose words are the draft of the next, had so much less of it.
_EARLIER_MS = 400
_FADE = 5 * _MS

SENTENCES = (
    "What is the weather going to be | in Berlin tomorrow?",
    "Can you tell me | how long it takes | to fly to Tokyo?",
    "I would like to book a table | for four people | on Friday evening.",
    "Please remind me to call my sister | when I get home.",
    "What time is it | in New York?",
    "Turn off the lights | in the kitchen | and lock the door.",
    "How do I get to the station | from here?",
    "My daughter starts school | next week | and she is very excited.",
    "Tell me a story | about a dragon | who is afraid of fire.",
    "I think I left my keys | on the table | by the window.",
    "Could you play something | a little quieter?",
    "Why is the sky blue | during the day | and red in the evening?",
    "We are looking for a hotel | with a swimming pool | near the beach.",
    "What do you know | about the history of Rome?",
    "Set a timer | for ten minutes.",
    "I was wondering | if you could help me | with my homework.",
    "How many people live | in Canada?",
    "Do you remember the name | of the man | who wrote that book?",
    "The battery in my phone | does not last | as long as it used to.",
    "Write a short message | to my boss | and say I am ill.",
    "Is there a pharmacy | open on Sunday | around here?",
    "I have been learning Spanish | for about two years.",
    "What should I cook tonight | if I only have eggs | and tomatoes?",
    "Which is bigger | the sun | or the moon?",
    "Read me the news | from this morning.",
    "My train leaves | at seven | so I have to get up early.",
    "Can I take this medicine | with milk?",
    "Please add bread | butter | and two bottles of water | to my shopping list.",
    "Who won the football match | last night?",
    "I do not understand | why the printer | is not working.",
    "Give me three ideas | for a birthday present | for my father.",
    "The doctor said | I should drink more water | and sleep longer.",
    "Translate this sentence | into French.",
    "When I was a child | we used to go | to the lake every summer.",
    "How much does it cost | to send a parcel | to Australia?",
    "Explain to me | how a bicycle stays upright.",
    "I want to know | what the capital of Australia is.",
    "If it rains tomorrow | we will stay at home.",
    "Put the meeting | on my calendar | for Thursday at three.",
    "Are there any good films | on television tonight?",
)


@dataclass(frozen=True, slots=True)
class Broken:
    """16 kHz sound of a sentence up to its end, or to a place inside."""

    kind: str
    ended: bool
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class Judged:
    broken: Broken
    score: float
    words: Words


def recorded() -> Iterator[Broken]:
    for clip in for_tuning(read_clips()):
        if clip.kind == "turn":
            yield from _of_clip(clip)


def _of_clip(clip: Clip) -> Iterator[Broken]:
    yield Broken("recorded", True, clip.pcm[clip.onset : clip.offset])
    for split in clip.splits:
        yield Broken("recorded", False, clip.pcm[clip.onset : split])


def made(voice: Voice) -> Iterator[Broken]:
    for sentence in SENTENCES:
        parts = [part.strip() for part in sentence.split("|")]
        for kind, joint in (("made", " "), ("made_with_commas", ", ")):
            speech = voice.speak(joint.join(parts))
            sound, end = resample(speech.pcm, OUTPUT_RATE, INPUT_RATE), 0
            for number, part in enumerate(parts, 1):
                end += len(part)
                last = [word for word in speech.words if word.end <= end + 1][-1]
                yield Broken(kind, number == len(parts), sound[: round(last.end_ms * _MS)])
                end += len(joint)


def as_heard(pcm: Pcm, silence_ms: int, rng: np.random.Generator) -> Pcm:
    """As loud as a person near the microphone, in a quiet room, with so much of its noise after it."""
    sound = pcm * (SPEECH_LEVEL / active_level(pcm, 0, len(pcm)))
    sound[-_FADE:] *= np.linspace(1, 0, _FADE)
    sound = np.pad(sound, (INPUT_RATE // 2, silence_ms * _MS))
    return in_room(sound, rng)


class Steps:
    """Counts what a recogniser's decoder is asked for."""

    def __init__(self, decoder: Any) -> None:
        self.count = 0
        self._run = decoder.run

    def run(self, wanted: Any, feeds: Any) -> Any:
        self.count += 1
        return self._run(wanted, feeds)


class Judges:
    """The models of a call, one after the other, and what each took: ms, and decoder steps."""

    def __init__(self, recogniser: Recogniser, smart_turn: SmartTurn, slot: Slot, context: Context) -> None:
        self.took: dict[str, list[float]] = {name: [] for name in ("score", "words", "words_anew", "ending")}
        self.steps = {"words": 0, "words_anew": 0}
        self._recogniser, self._smart_turn, self._slot, self._context = recogniser, smart_turn, slot, context
        self._decoder = recogniser._decoder = Steps(recogniser._decoder)
        self._rng = np.random.default_rng(0)

    async def judge(self, broken: Broken) -> Judged:
        begun = time.perf_counter()
        score = self._smart_turn.score(as_heard(broken.pcm, PAUSE_MS, self._rng))
        self._note("score", begun)
        text = self._hear(as_heard(broken.pcm, PAUSE_MS, self._rng))
        ending = await self._ending(text) if text else None
        return Judged(broken, score, Words(completeness(text), ending))

    def _hear(self, pcm: Pcm) -> str:
        sound = np.pad(pcm, (0, HEARD_OUT))
        draft = self._recogniser.recognise(pcm[: -_EARLIER_MS * _MS]).tokens
        for name, known in (("words_anew", ()), ("words", draft)):
            begun, steps = time.perf_counter(), self._decoder.count
            found = self._recogniser.recognise(sound, known)
            self._note(name, begun)
            self.steps[name] += self._decoder.count - steps
        return found.text

    async def _ending(self, text: str) -> float | None:
        """All words but the last have been read before."""
        prompt = await self._context.unended(Turn("user", pending=user_text("", text)))
        while self._slot.missing(read := prompt[:-2]):
            await self._slot.advance(read)
        begun = time.perf_counter()
        await self._slot.advance(prompt, judge=self._context.marks.end)
        self._note("ending", begun)
        return self._slot.ending(prompt)

    def _note(self, name: str, begun: float) -> None:
        self.took[name].append((time.perf_counter() - begun) * 1000)


def rows(judged: list[Judged], judges: Judges, policy: TurnPolicy) -> list[Row]:
    found: list[Row] = []
    for kind in dict.fromkeys(each.broken.kind for each in judged):
        for name, with_words in (("", True), ("_by_score", False)):
            waits: dict[bool, list[int]] = {True: [], False: []}
            for each in judged:
                if each.broken.kind == kind:
                    words = each.words if with_words else Words()
                    waits[each.broken.ended].append(policy.wait_ms(each.score, words, Patience()))
            found.append(_share(f"{kind}{name}_at_once", [wait <= _AT_ONCE_MS for wait in waits[True]]))
            for pause_s in _PAUSES_S:
                cut = [wait < 1000 * pause_s for wait in waits[False]]
                found.append(_share(f"{kind}{name}_cut_in_{pause_s:g}s", cut))
    for witness in ("score", "ending"):
        values = [(each.score if witness == "score" else each.words.ending, each.broken.ended) for each in judged]
        known = [(value, ended) for value, ended in values if value is not None]
        found.append(Row(f"auc_{witness}", "share", len(known), value=round(_auc(known), 3)))
    found += [Row.of(f"{name}_takes", "ms", took) for name, took in judges.took.items()]
    count = len(judges.took["words"])
    return [*found, *(Row(f"{name}_decoder_steps", "count", count, value=n) for name, n in judges.steps.items())]


def _share(name: str, true: list[bool]) -> Row:
    return Row(name, "share", len(true), value=round(sum(true) / len(true), 3))


def _auc(known: list[tuple[float, bool]]) -> float:
    """How often an end is judged likelier to be one than a place inside."""
    ends = np.array([value for value, ended in known if ended])
    places = np.array([value for value, ended in known if not ended])
    return float(np.mean((ends[:, None] > places) + 0.5 * (ends[:, None] == places)))


async def measure(settings: Settings, store: ModelStore) -> list[Row]:
    policy = duplex_policy(WireSession(), settings.turn, LocalEngine(settings, store).capabilities).turns
    assert policy is not None
    chat = ChatModel(store.chat_model(settings.local.chat_model), 1, settings.local.context_tokens, 2)
    await chat.start()
    try:
        context = Context(await read_marks(chat), chat.tokenise)
        context.system = replace(context.system, pending=system_text("", ()))
        encoder, decoder, tokenizer = (store.path(name) for name in ASR)
        recogniser = Recogniser(encoder, decoder, tokenizer, threads=1)
        judges = Judges(recogniser, SmartTurn(store.path(HEARING[1])), Slot(chat, 0), context)
        judged = [await judges.judge(broken) for broken in (*recorded(), *made(Voice(voices()[0])))]
    finally:
        await chat.close()
    return rows(judged, judges, policy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    arguments = parser.parse_args()
    report = Report(asyncio.run(measure(Settings(), ModelStore(cache_dir()))))
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


if __name__ == "__main__":
    main()
