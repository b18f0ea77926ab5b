"""`omni-rt bench voice`: recorded human utterances, said in real time to a running server, and its answers timed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from omni_rt.client.dialogue import Dialogue, Exchange, NoAnswer
from omni_rt.client.exits import EPILOG, NO_ANSWER, run_client
from omni_rt.client.report import Report, Row
from omni_rt.client.speech import UnreadableFile, Utterance, load_vad, read_utterance
from omni_rt.client.talk import add_server
from omni_rt.client.words import WordErrors, word_errors

SPANS = {
    "speech_end_to_turn_decided": "turn_end_decided",
    "speech_end_to_first_text": "first_text",
    "speech_end_to_first_audio_sent": "first_audio_sent",
    "speech_end_to_first_audio_received": "first_audio_received",
}
PER_SESSION = 5

_LEAD_S = 0.5


@dataclass(frozen=True, slots=True)
class Result:
    """One utterance said and what became of it."""

    utterance: Utterance
    exchange: Exchange
    answered: bool

    @property
    def spans(self) -> dict[str, float]:
        """Milliseconds by row name; none when the server spoke before the utterance was over, or not at all."""
        if not self.answered or self.exchange.cut_in:
            return {}
        spans = {name: self.exchange.span_ms(moment) for name, moment in SPANS.items()}
        return {name: span for name, span in spans.items() if span is not None}

    @property
    def words(self) -> WordErrors:
        return word_errors(self.utterance.words, self.exchange.understood_text)

    def as_json(self) -> dict[str, Any]:
        return {
            "clip": self.utterance.name,
            "understood": self.exchange.understood_text,
            "answer": " / ".join(answer.text for answer in self.exchange.answers),
            "cut_in": self.exchange.cut_in,
            "answered": self.answered,
            **{name: round(span, 1) for name, span in self.spans.items()},
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, required=True, metavar="DIR", help="utterances: NAME.wav with NAME.txt")
    add_server(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the result there")
    parser.add_argument("--n", type=int, default=20, help="utterances to say, the clips over and over (20)")
    parser.add_argument("--fresh", action="store_true", help=f"a session for each; otherwise {PER_SESSION} share one")
    parser.add_argument("--pause", type=float, default=1.0, metavar="S", help="pause after each answer (1)")
    parser.add_argument("--wait", type=float, default=30.0, metavar="S", help="seconds to wait for an answer (30)")
    parser.epilog = EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON; returns the exit status."""
    return run_client(_bench(arguments))


async def _bench(arguments: argparse.Namespace) -> int:
    if arguments.n < 1:
        raise UnreadableFile(f"--n takes a number from 1 up, not {arguments.n}")
    clips = read_clips(arguments.clips)
    results = await _say_all(arguments, list(islice(cycle(clips), arguments.n)))
    shared = all(result.exchange.shared_clock for result in results)
    report = Report(
        rows_of(results),
        details={
            "clock": "shared" if shared else "arrival",
            "per_session": _per_session(arguments),
            "utterances": [result.as_json() for result in results],
        },
    )
    print(report.table())
    if not shared:
        print("the server's clock is another machine's: its moments are taken at their arrival here", file=sys.stderr)
    if arguments.json is not None:
        try:
            report.write(arguments.json)
        except OSError as error:
            raise UnreadableFile(f"cannot write {arguments.json}: {error.strerror}") from error
    return 0 if any(result.answered for result in results) else NO_ANSWER


def read_clips(folder: Path) -> list[Utterance]:
    """All NAME.wav of a folder, each with its NAME.txt. Raises UnreadableFile."""
    vad = load_vad()
    clips = [read_utterance(path, vad) for path in sorted(folder.glob("*.wav"))]
    if not clips:
        raise UnreadableFile(f"{folder} holds no .wav files")
    if wordless := [clip.name for clip in clips if not clip.words]:
        raise UnreadableFile(f"{folder} lacks the words, as .txt files, of: {', '.join(wordless)}")
    return clips


def rows_of(results: Sequence[Result]) -> list[Row]:
    """The rows of the benchmark; the times are of answered utterances that the server let end."""
    spans = [result.spans for result in results]
    rows = [Row.of(name, "ms", [of[name] for of in spans if name in of]) for name in SPANS]
    words = sum((result.words for result in results), WordErrors())
    shares = {
        "cut_in": sum(result.exchange.cut_in for result in results),
        "unanswered": sum(not result.answered for result in results),
    }
    return [
        *rows,
        Row("word_error_rate", "share", words.words, value=round(words.rate, 4)),
        *(Row(name, "share", len(results), value=round(count / len(results), 4)) for name, count in shares.items()),
    ]


async def _say_all(arguments: argparse.Namespace, utterances: Sequence[Utterance]) -> list[Result]:
    results: list[Result] = []
    step = _per_session(arguments)
    while len(results) < len(utterances):
        async with Dialogue(arguments.server, api_key=arguments.key) as dialogue:
            await asyncio.sleep(_LEAD_S)
            for utterance in utterances[len(results) :][:step]:
                results.append(await _say(dialogue, utterance, arguments.wait))
                print(f"{len(results)}/{len(utterances)} {_line(results[-1])}", file=sys.stderr, flush=True)
                if not results[-1].answered:
                    break  # a late answer must not fall into the next utterance
                await asyncio.sleep(arguments.pause)
    return results


async def _say(dialogue: Dialogue, utterance: Utterance, wait_s: float) -> Result:
    try:
        return Result(utterance, await dialogue.say(utterance, wait_s), answered=True)
    except NoAnswer as missing:
        return Result(utterance, missing.exchange, answered=False)


def _per_session(arguments: argparse.Namespace) -> int:
    return 1 if arguments.fresh else PER_SESSION


def _line(result: Result) -> str:
    heard = result.spans.get("speech_end_to_first_audio_received")
    outcome = "no answer" if not result.answered else "cut in" if heard is None else f"{heard:.0f} ms"
    return f"{result.utterance.name}: {outcome}; understood: {result.exchange.understood_text or '(nothing)'}"
