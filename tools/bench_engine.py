"""What the engine's steps take on one GPU at real shapes with random weights, with Hugging Face's in the same run.

    python3 -m tools.bench_engine --json docs/benchmarks/engine_h200.json    # 80 GB of GPU memory, minutes
    python3 -m tools.bench_engine --weights bfloat16 fp8                      # both, one after the other
    python3 -m tools.bench_engine --tiny --plain --n 2                       # that it runs, on a CPU

`first_packet_...`: from the end of speech being committed, in the caller's thread, to the samples of the first frame of
80 ms in the engine's output; speech of 9 to 11 s after a history of 2,048 tokens, fed beforehand as fast as it goes, in
blocks of 100 ms, so that only what could not be done while it was spoken is left. No speculation. `speculated_release`:
with a speculated reply held, from the end of the turn being decided to its first packet. Needs torch, transformers,
Triton, NumPy and Pillow.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers

from omni_rt.client.report import Report, Row
from omni_rt.engine.qwen3_omni import speech
from omni_rt.engine.qwen3_omni.fast_machine import FastMachine
from omni_rt.engine.qwen3_omni.model import Omni
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.pieces import line
from omni_rt.engine.qwen3_omni.requests import Choice, Chunk, Frame, Line, Listening, Read
from tools.check_gpu import machine_of
from tools.gpu import costs
from tools.gpu.engine import Answer, Talker, blocks, engine, noise, picture, wait_until, words
from tools.gpu.models import Pair, build, question
from tools.gpu.references import FRAME_REFERENCE, REFERENCES
from tools.gpu.speculated import speculated_release
from tools.gpu.weights import HELP, Weights, settle

HISTORY = 2048


def timed(work: Callable[[], Any], n: int, after: Callable[[], Any] = lambda: None) -> list[float]:
    """Milliseconds of each of `n` calls, the GPU's work included, after three that do not count."""
    taken = []
    for number in range(n + 3):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        if number >= 3:
            taken.append((time.perf_counter() - start) * 1e3)
        after()
    return taken


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def steps(parts: Parts, n: int, history: int) -> list[Row]:
    """Of the machine alone, with `history` tokens in the caches."""
    rng = np.random.default_rng(0)
    machine = parts.machine
    assert parts.talker_pool is not None
    cache, talker_cache = parts.pool.new(), parts.talker_pool.new()
    position = 0

    def chunk(count: int, *, listen: bool = True) -> Chunk:
        ids = [int(token) for token in rng.integers(1000, 140_000, count)]
        heard = Listening(talker_cache, talker_cache.length, range(count), [], line(count, cache.length))
        return Chunk(cache, ids, line(count, cache.length), lambda _: None, listening=heard if listen else None)

    while position < history:
        count = min(512, history - position)
        machine.run([Read(chunk(count))])
        position += count
    choice = Choice(0.6, "reply", 0.5)

    def back() -> None:
        cache.truncate(history)
        if talker_cache.length > history:
            talker_cache.truncate(history)

    tokens = iter([[Read(chunk(1, listen=False), choice=choice)] for _ in range(n + 3)])
    rows = [Row.of("thinker_step", "ms", timed(lambda: machine.run(next(tokens)), n, back))]
    for count in (13, 19, 32, 110, 300):
        taken = timed(lambda count=count: machine.run([Read(chunk(count), choice=choice)]), n, back)  # type: ignore[misc]
        rows.append(Row.of(f"prefill_{count}_rows_both_models", "ms", taken))
    spoken = Line(talker_cache, history, float(history), "Ethan")
    machine.run([Read(chunk(1, listen=False), choice=choice, line=spoken)])
    uniform = torch.rand(16)
    frame = Frame(spoken, 1000, "eos", uniform)
    rows.append(Row.of("frame_with_sound", "ms", timed(lambda: machine.run([frame]), n)))
    if isinstance(machine, FastMachine):
        graphs = machine._graphs
        rows.append(Row.of("talker_frame", "ms", timed(lambda: graphs.run(("talk", 1)), n)))
        rows.append(Row.of("code2wav_frame", "ms", timed(lambda: graphs.run(("sound", 1)), n)))
    machine.release(spoken)
    cache.close()
    talker_cache.close()
    return rows


def first_packets(parts: Parts, n: int, history: int, *, camera: bool) -> list[Row]:
    rng = np.random.default_rng(1)
    talker = Talker(parts, 0, instructions="")
    talker.call(lambda: talker.conversation.append_text(words(rng, history), "user", "history"))
    talker.settle()
    talker.call(lambda: talker.conversation.mark(1))
    taken: list[float] = []
    for number in range(n + 3):
        for count, block in enumerate(blocks(noise(rng, float(rng.uniform(9, 11))))):
            if camera and count % 10 == 0:
                talker.show(picture(rng))
            talker.hear(block)
            if count % 10 == 9:
                wait_until(lambda: not talker.conversation._unready, parts, 60)
        talker.settle()
        _wait()  # in a call all this was done while the person spoke
        answer = talker.ask(max_tokens=16)
        _answered(answer)
        talker.stop()
        talker.call(lambda: talker.conversation.rollback(1))
        talker.settle()
        if answer.first_ms is not None and number >= 3:
            taken.append(answer.first_ms)
    talker.close()
    if talker.errors:
        raise RuntimeError(f"the engine told of errors: {talker.errors[:3]}")
    return [Row.of("first_packet_camera" if camera else "first_packet_voice", "ms", taken)]


def _answered(answer: Answer) -> None:
    end = time.perf_counter() + 60
    while not answer.sound and answer.ended_at is None:
        if time.perf_counter() > end:
            raise TimeoutError("no sound came")
        time.sleep(0.0005)


def real_time_factor(parts: Parts, n: int) -> Row:
    """Seconds of work for a second of speech: replies of 16 tokens and 50 frames, made as fast as they can be, and no
    transcript of what they answer."""
    parts = replace(parts, settings=cast(Any, replace(cast(Any, parts.settings), transcripts=False)))
    rng = np.random.default_rng(2)
    factors = []
    ahead = speech._FRAMES_AT_LEAST, speech._FRAMES_PER_TOKEN
    speech._FRAMES_AT_LEAST, speech._FRAMES_PER_TOKEN = 50, 0
    try:
        for number in range(n + 1):
            talker = Talker(parts, number)
            talker.hear(noise(rng, 4.0))
            talker.settle()
            answer = talker.ask(max_tokens=16)

            def done(talker: Talker = talker, answer: Answer = answer) -> bool:
                # on the scheduler's thread, without its waiting for the ear
                while answer.ended_at is None:
                    talker.conversation.step()
                return True

            wait_until(done, parts, 120)
            talker.close()
            if number and answer.ended_at is not None:
                factors.append((answer.ended_at - answer.asked_at) / answer.seconds)
    finally:
        speech._FRAMES_AT_LEAST, speech._FRAMES_PER_TOKEN = ahead
    return Row.of("reply_rtf", "s per s", factors)


def theirs(pair: Pair, n: int, history: int) -> list[Row]:
    """Hugging Face's: a first packet as two tokens and a frame of a prompt of 10 s of sound, and its steps."""
    clock = costs.Clock(pair.device, n)
    prompt = question(pair, frames=1000 if pair.device.type == "cuda" else 200, grid=(4, 4))
    costs.theirs(pair, clock, history, prompt, max(2, n // 2))
    packets = [costs._generate(pair, prompt, 1) for _ in range(4)][1:]
    return [*clock.rows, Row.of("hf_first_packet_10s", "ms", packets)]


def ours(omni: Omni, weights: Weights, n: int, history: int, *, plain: bool, say: Callable[[str], None]) -> list[Row]:
    """Of the whole engine with weights that are in 8 bit as `weights` says from then on."""
    with torch.inference_mode():
        say(f"engine{weights.suffix}")
        settle(omni, weights)
        parts, start = engine(omni, tokens=9 * 4096, context=8192, sessions=8, plain=plain, eight_bit=weights.eight_bit)
        rows = [Row("start", "s", 1, value=round(start, 1))]
        if omni.device.type == "cuda":
            held = torch.cuda.memory_reserved() / 1e9
            rows.append(Row("memory_8_sessions_of_4k_tokens", "GB", 1, value=round(held, 1)))
        say("steps")
        rows += steps(parts, n, history)
    parts.scheduler.start()
    for camera in (False, True):
        say("first packets, " + ("voice and camera" if camera else "voice"))
        rows += first_packets(parts, n, history, camera=camera)
    say("speculated release")
    rows.append(speculated_release(parts, n, history))
    say("real-time factor")
    rows.append(real_time_factor(parts, min(n, 5)))
    parts.scheduler.close()
    return [replace(row, name=row.name + weights.suffix) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--plain", action="store_true", help="the plain machine")
    parser.add_argument("--no-reference", action="store_true", help="without Hugging Face's model")
    parser.add_argument(
        "--weights",
        type=Weights.parse,
        nargs="+",
        default=[Weights.parse("bfloat16")],
        help=f"one or more, each with no less in 8 bit than the one before: {HELP}",
    )
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--commit", help="where the files are no checkout: the commit they are of")
    arguments = parser.parse_args()
    if not all(later.holds(earlier) for earlier, later in pairwise(arguments.weights)):
        parser.error("--weights: what is in 8 bit stays so; begin with bfloat16 and end with fp8")
    device = torch.device("cpu" if arguments.tiny else "cuda")
    dtype, history = (torch.float32, 64) if arguments.tiny else (torch.bfloat16, HISTORY)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    begun = time.perf_counter()

    def say(what: str) -> None:
        print(f"[{time.perf_counter() - begun:6.1f} s] {what}", flush=True)

    n = arguments.n
    reference: list[Row] = []
    with torch.inference_mode():
        say("building")
        pair = build("tiny" if arguments.tiny else "30b-a3b", device, dtype)
        if not arguments.no_reference:
            say("Hugging Face")
            reference = theirs(pair, min(n, 10), history)
        omni = pair.ours
        del pair  # its own copies of weights that are joined go
    rows = []
    for weights in arguments.weights:
        rows += ours(omni, weights, n, history, plain=arguments.plain, say=say)
    report = Report(
        [*_with_ratios(rows, reference), *reference],
        machine=machine_of(device),
        commit=arguments.commit or Report([]).commit,
    )
    print(report.table())
    if arguments.json:
        report.write(arguments.json)


def _with_ratios(rows: list[Row], reference: list[Row]) -> list[Row]:
    """How many times each row's p50 Hugging Face's takes."""
    of = {row.name: row.p50 for row in reference}
    found = []
    for row in rows:
        name = row.name.partition("_fp8")[0]
        theirs = of.get(REFERENCES.get(name, ""))
        if name == "reply_rtf" and (frame := of.get(FRAME_REFERENCE)) is not None:
            theirs = frame / 80
        found.append(replace(row, ratio=round(theirs / row.p50, 1)) if theirs and row.p50 else row)
    return found


if __name__ == "__main__":
    main()
