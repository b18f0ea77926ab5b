"""`omni-rt talk`: a client for machines without a browser; a recording is the microphone, a file the loudspeaker."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
import wave
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from omni_rt.client.dialogue import Dialogue, Exchange
from omni_rt.client.exits import EPILOG, run_client
from omni_rt.client.pictures import Film, read_image
from omni_rt.client.speech import UnreadableFile, load_vad, read_utterance
from omni_rt.client.tape import Tape
from omni_rt.config import API_KEY_ENV
from omni_rt.engine.api import OUTPUT_RATE, Pcm, Rgb

DEFAULT_SERVER = "http://127.0.0.1:8080"
CAMERA_FPS = 5.0

# A camera is on for a while before anybody asks what it sees.
_LEAD_S, _CAMERA_LEAD_S = 0.5, 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wav", type=Path, required=True, metavar="FILE", help="what to say; any sound FFmpeg reads")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="record the answer: a WAV that begins with the question"
    )
    add_server(parser)
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--image", type=Path, metavar="FILE", help="a picture that the camera shows")
    camera.add_argument("--video", type=Path, metavar="FILE", help="a film that the camera shows")
    parser.add_argument("--wait", type=float, default=30.0, metavar="S", help="seconds to wait for an answer (30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.epilog = EPILOG


def add_server(parser: argparse.ArgumentParser) -> None:
    """Whom a client command calls, and with what key."""
    parser.add_argument("--server", default=DEFAULT_SERVER, metavar="URL", help=f"whom to call ({DEFAULT_SERVER})")
    parser.add_argument(
        "--key", default=os.environ.get(API_KEY_ENV, ""), help=f"the API key, if the server wants one (${API_KEY_ENV})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Talk once; returns the exit status."""
    return run_client(_talk(arguments))


async def _talk(arguments: argparse.Namespace) -> int:
    utterance = read_utterance(arguments.wav, load_vad())
    camera = _camera(arguments)
    tape = Tape()
    try:
        async with Dialogue(
            arguments.server, camera=camera, camera_fps=CAMERA_FPS, api_key=arguments.key, on_audio=tape.add
        ) as dialogue:
            await asyncio.sleep(_CAMERA_LEAD_S if camera else _LEAD_S)
            tape.start(time.perf_counter())
            exchange = await dialogue.say(utterance, arguments.wait)
    finally:
        if arguments.out is not None:
            _write(arguments.out, tape.pcm())
    print(json.dumps(_as_json(exchange), ensure_ascii=False) if arguments.json else _as_text(exchange))
    return 0


def _camera(arguments: argparse.Namespace) -> Iterator[Rgb] | None:
    if arguments.image is not None:
        return repeat(read_image(arguments.image))
    return Film(arguments.video, CAMERA_FPS) if arguments.video is not None else None


def _write(path: Path, pcm: Pcm) -> None:
    try:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(OUTPUT_RATE)
            file.writeframes(pcm.astype("<i2").tobytes())
    except OSError as error:
        raise UnreadableFile(f"cannot write {path}: {error.strerror}") from error


def _as_json(exchange: Exchange) -> dict[str, Any]:
    """Moments in ms after the server's `user_speech_end`; `first_audio_received_ms` after the last word, measured
    here."""
    return {
        "understood": exchange.understood_text,
        "answers": [{"text": a.text, "status": a.status, "moments": _relative(a.moments)} for a in exchange.answers],
        "first_audio_received_ms": _rounded(exchange.span_ms("first_audio_received")),
        "errors": exchange.errors,
    }


def _as_text(exchange: Exchange) -> str:
    lines = [f"you: {exchange.understood_text or '(nothing understood)'}"]
    for answer in exchange.answers:
        cut = "" if answer.status == "completed" else f" ({answer.status})"
        lines.append(f"assistant{cut}: {answer.text or '(no words)'}")
    lines += [f"the server says: {error}" for error in exchange.errors]
    if exchange.answer is not None and (moments := _relative(exchange.answer.moments)):
        lines.append("ms after user_speech_end, by the server's clock:")
        lines += [f"  {name:<24}{at:>8.0f}" for name, at in moments.items()]
    if (heard := exchange.span_ms("first_audio_received")) is not None:
        lines.append(f"first sound received here {heard:.0f} ms after the last word")
    return "\n".join(lines)


def _relative(moments: dict[str, float]) -> dict[str, float]:
    zero = moments.get("user_speech_end")
    if zero is None:
        return {}
    return {name: round(at - zero, 1) for name, at in sorted(moments.items(), key=lambda moment: moment[1])}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
