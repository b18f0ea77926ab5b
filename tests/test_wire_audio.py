"""Audio inside events: each format in and out, over a real WebSocket, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.media.g711 import ALAW, ULAW
from omni_rt.media.resample import resample
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import AudioFormat, PcmaFormat, PcmFormat, PcmuFormat
from omni_rt.realtime.wire_audio import AudioDecoder, AudioEncoder
from tests.support.scripted_server import TONE_S, ScriptedServer, tone
from tests.support.socket_talk import Talk
from tests.support.speech import clip

FORMATS: list[AudioFormat] = [PcmFormat(), PcmuFormat(), PcmaFormat()]


def _samples(data: bytes, form: str) -> tuple[Pcm, int]:
    if form == "audio/pcm":
        return np.frombuffer(data, "<i2"), OUTPUT_RATE
    return (ULAW if form == "audio/pcmu" else ALAW).decode(data), 8000


def _loudest_hz(pcm: Pcm, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return float(np.argmax(spectrum) * rate / len(pcm))


@pytest.mark.parametrize("form", FORMATS)
def test_audio_comes_back_whole_whatever_its_pieces(form: AudioFormat) -> None:
    encoder, decoder = AudioEncoder(form), AudioDecoder(form)
    sound, pieces = tone(), []
    for start in range(0, len(sound), 777):
        pieces.append(encoder.feed(sound[start : start + 777]))
    pieces.append(encoder.flush())
    heard = np.concatenate([decoder.feed(decoder.samples(piece, "audio")) for piece in pieces])
    assert len(heard) == pytest.approx(TONE_S * INPUT_RATE, abs=60)
    assert _loudest_hz(heard, INPUT_RATE) == pytest.approx(440, abs=4)
    plain = resample(sound, OUTPUT_RATE, INPUT_RATE)[: len(heard)]
    middle = slice(500, len(heard) - 500)
    lag = min(range(-40, 41), key=lambda n: float(np.abs(np.roll(heard, n)[middle].astype(int) - plain[middle]).mean()))
    error = np.roll(heard, lag)[middle].astype(float) - plain[middle]
    assert np.sqrt((error**2).mean()) < 0.06 * np.sqrt((plain[middle].astype(float) ** 2).mean())


def test_half_a_sample_is_refused_by_name() -> None:
    with pytest.raises(WireError) as refused:
        AudioDecoder(PcmFormat()).samples("AA==", "audio")
    assert (refused.value.code, refused.value.param) == ("invalid_audio", "audio")


SILENCE_MS = 500


@pytest.mark.models
@pytest.mark.parametrize(
    ("heard", "spoken"),
    [("audio/pcmu", "audio/pcma"), ("audio/pcma", "audio/pcmu"), ("audio/pcm", "audio/pcmu"), (None, "audio/pcm")],
)
async def test_each_direction_has_its_format(
    tone_server: ScriptedServer, talk: Talk, heard: str | None, spoken: str
) -> None:
    """Real speech is found in what the client sends; the answer is a tone of the right pitch and length."""
    detection = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
    audio: dict[str, Any] = {"output": {"format": {"type": spoken}}, "input": {"turn_detection": detection}}
    if heard is not None:
        audio["input"]["format"] = {"type": heard}
    await talk.send("session.update", session={"type": "realtime", "audio": audio})
    echoed = (await talk.until("session.updated"))[-1]["session"]["audio"]
    pcm = {"type": "audio/pcm", "rate": 24000}
    assert echoed["output"]["format"] == (pcm if spoken == "audio/pcm" else {"type": spoken})
    assert echoed["input"]["format"] == (pcm if heard in (None, "audio/pcm") else {"type": heard})

    words = clip("goforward").pcm
    speech = np.concatenate([words, np.zeros(2 * INPUT_RATE, np.int16)])
    match heard:
        case "audio/pcmu":
            data = ULAW.encode(resample(speech, INPUT_RATE, 8000))
        case "audio/pcma":
            data = ALAW.encode(resample(speech, INPUT_RATE, 8000))
        case _:
            data = resample(speech, INPUT_RATE, OUTPUT_RATE).tobytes()
    await talk.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())
    stopped = (await talk.until("input_audio_buffer.speech_stopped"))[-1]["audio_end_ms"]
    assert stopped == pytest.approx(len(words) / 16 + SILENCE_MS, abs=700)
    events = await talk.until("response.done")
    assert events[-1]["response"]["audio"]["output"]["format"]["type"] == spoken
    sent = b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")
    got, rate = _samples(sent, spoken)
    assert len(got) / rate == pytest.approx(TONE_S, abs=0.005)
    assert _loudest_hz(got, rate) == pytest.approx(440, abs=4)
    fed = sum(call[1] for call in tone_server.session.calls if call[0] == "append_audio")
    assert fed > len(words) / 2


async def test_audio_of_an_item_is_in_the_sessions_format(tone_server: ScriptedServer, talk: Talk) -> None:
    await talk.send("session.update", session={"audio": {"input": {"format": {"type": "audio/pcmu"}}}})
    second = base64.b64encode(ULAW.encode(np.zeros(8000, np.int16))).decode()
    item = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": second}]}
    await talk.send("conversation.item.create", item=item)
    await talk.until("conversation.item.done")
    (kept,) = next(iter(tone_server.calls.places)).conversation
    assert [part.audio_ms for part in kept.parts if hasattr(part, "audio_ms")] == [1000]


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("form", [{"type": "audio/opus"}, {"type": "audio/pcm", "rate": 8000}])
async def test_other_formats_are_refused_by_name(talk: Talk, side: str, form: dict[str, Any]) -> None:
    await talk.send("session.update", session={"audio": {side: {"format": form}}})
    error = (await talk.until("error"))[-1]["error"]
    assert error["param"].startswith(f"session.audio.{side}.format")
    await talk.send("session.update", session={})
    assert (await talk.until("session.updated"))[-1]["session"]["audio"][side]["format"]["rate"] == 24_000


@pytest.mark.parametrize("side", ["input", "output"])
async def test_a_call_negotiates_its_own_codec(tone_server: ScriptedServer, side: str) -> None:
    session = {"type": "realtime", "audio": {side: {"format": {"type": "audio/pcmu"}}}}
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"{tone_server.url}/v1/realtime/calls", files={"sdp": (None, "v=0"), "session": (None, json.dumps(session))}
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"session.audio.{side}.format"
