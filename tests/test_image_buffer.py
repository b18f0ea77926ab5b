"""Camera frames by event: over a real WebSocket to the engine, thinned and scaled, and what is refused."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omni_rt.config import MediaSettings
from omni_rt.engine.api import Capabilities, Rgb
from omni_rt.realtime.errors import WireError
from omni_rt.session.image_buffer import MAX_TEXT, ImageBuffer
from tests.support.calls import eventually, picture
from tests.support.scripted import ScriptedEngine
from tests.support.scripted_server import ScriptedServer
from tests.support.socket_talk import Talk
from tests.support.stage import Stage


def _encoded(rgb: Rgb, kind: str) -> str:
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, kind)
    return base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("as_url", [False, True])
async def test_a_frame_reaches_the_engine(talk: Talk, tone_server: ScriptedServer, kind: str, as_url: bool) -> None:
    await talk.until("session.created")
    text = _encoded(picture(200, 1280, 720), kind)
    await talk.send("input_image_buffer.append", image=f"data:image/{kind.lower()};base64,{text}" if as_url else text)
    await eventually(lambda: tone_server.session.shown)
    (rgb,) = tone_server.session.shown
    longest = MediaSettings().frame_pixels
    assert rgb.shape == (longest * 9 // 16, longest, 3)
    assert np.abs(rgb.reshape(-1, 3).mean(axis=0) - [200, 40, 40]).max() < 3


async def test_frames_beyond_the_rate_are_not_looked_at(talk: Talk, tone_server: ScriptedServer) -> None:
    await talk.until("session.created")
    for red in (50, 100, 150):
        await talk.send("input_image_buffer.append", image=_encoded(picture(red), "PNG"))
    await talk.send("session.update", session={})
    await talk.until("session.updated")
    assert [int(rgb[0, 0, 0]) for rgb in tone_server.session.shown] == [50]


async def test_a_steady_camera_is_seen_at_the_rate() -> None:
    now = [100.0]
    seen: list[int] = []
    buffer = ImageBuffer(MediaSettings(frames_per_second=2.0), lambda rgb: seen.append(rgb[0, 0, 0]), lambda: now[0])
    for red in range(40):
        await buffer.append(_encoded(picture(red, 16, 16), "PNG"))
        now[0] += 0.125
    assert seen == list(range(0, 40, 4))


async def test_a_wrong_frame_does_not_take_a_good_ones_place() -> None:
    seen: list[Rgb] = []
    buffer = ImageBuffer(MediaSettings(), seen.append)
    with pytest.raises(WireError):
        await buffer.append("AAAA")
    await buffer.append(_encoded(picture(9, 16, 16), "PNG"))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("%%%", "invalid_base64"),
        ("", "invalid_image"),
        (base64.b64encode(b"GIF89a").decode(), "invalid_image"),
        ("data:image/gif;base64,AAAA", "invalid_image"),
        ("data:image/png;base64,AAAA", "invalid_image"),
        ("http://127.0.0.1/x.png", "invalid_base64"),
        ("A" * (MAX_TEXT + 1), "image_too_large"),
    ],
)
async def test_what_is_no_picture_is_refused_by_name(talk: Talk, image: str, code: str) -> None:
    await talk.send("input_image_buffer.append", event_id="mine", image=image)
    error = (await talk.until("error"))[-1]["error"]
    assert (error["code"], error["param"], error["event_id"]) == (code, "image", "mine")
    await talk.send("session.update", session={})
    await talk.until("session.updated")


async def test_a_call_has_its_video_track(stage: Stage) -> None:
    await stage.tell(type="input_image_buffer.append", image=_encoded(picture(1), "PNG"))
    assert stage.last("error")["error"]["param"] == "type"


async def test_an_engine_without_eyes_says_so(talk: Talk, tone_server: ScriptedServer, monkeypatch: Any) -> None:
    await talk.until("session.created")
    session = next(iter(tone_server.calls.places))
    blind: Capabilities = replace(ScriptedEngine().capabilities, image_input=False)
    monkeypatch.setattr(session, "capabilities", blind)
    await talk.send("input_image_buffer.append", image=_encoded(picture(1), "PNG"))
    error = (await talk.until("error"))[-1]["error"]
    assert (error["code"], error["param"]) == ("unsupported", "type")
