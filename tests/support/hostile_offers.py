"""Bodies that are no SDP offer, or not quite one, made from a real one; the same for the same seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiortc import RTCConfiguration, RTCPeerConnection

SDP = "application/sdp"


@dataclass(frozen=True, slots=True)
class Body:
    """Of a request to `calls`. `bad`: it cannot be answered with 201."""

    content: bytes
    kind: str
    bad: bool


async def real_offer() -> str:
    """Of a microphone, a camera and a data channel. It names no addresses, so that nothing is sent anywhere."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio")
    pc.addTransceiver("video", direction="sendonly")
    pc.createDataChannel("oai-events")
    await pc.setLocalDescription(await pc.createOffer())
    sdp = pc.localDescription.sdp
    await pc.close()
    return "".join(line for line in sdp.splitlines(True) if not line.startswith("a=candidate"))


class Generator:
    def __init__(self, seed: int, offer: str) -> None:
        self._random = random.Random(seed)
        self._lines = offer.splitlines()
        self._ways: tuple[Callable[[], Body], ...] = (
            *(self._as_it_is, self._lines_gone, self._lines_twice, self._lines_mixed, self._letters, self._cut_off),
            *(self._other_values, self._other_values, self._many_media, self._fingerprint, self._huge, self._no_sdp),
            *(self._other_kind, self._form, self._form, self._no_audio),
        )

    def take(self, count: int) -> Iterator[Body]:
        for _ in range(count):
            yield self._random.choice(self._ways)()

    def _sdp(self, lines: list[str], bad: bool = False) -> Body:
        return Body("\r\n".join([*lines, ""]).encode(), SDP, bad)

    def _place(self) -> int:
        return self._random.randrange(len(self._lines))

    def _as_it_is(self) -> Body:
        return self._sdp(self._lines)

    def _lines_gone(self) -> Body:
        gone = {self._place() for _ in range(self._random.randrange(1, 6))}
        return self._sdp([line for n, line in enumerate(self._lines) if n not in gone])

    def _lines_twice(self) -> Body:
        lines = list(self._lines)
        for _ in range(self._random.randrange(1, 30)):
            lines.insert(self._place(), self._lines[self._place()])
        return self._sdp(lines)

    def _lines_mixed(self) -> Body:
        lines = list(self._lines)
        start = self._place()
        middle = lines[start : start + self._random.randrange(2, 12)]
        self._random.shuffle(middle)
        lines[start : start + len(middle)] = middle
        return self._sdp(lines)

    def _letters(self) -> Body:
        text = bytearray("\r\n".join([*self._lines, ""]).encode())
        for _ in range(self._random.randrange(1, 12)):
            text[self._random.randrange(4, len(text))] = self._random.randrange(256)
        return Body(bytes(text), SDP, False)

    def _cut_off(self) -> Body:
        text = "\r\n".join(self._lines).encode()
        return Body(text[: self._random.randrange(len(text))], SDP, False)

    def _other_values(self) -> Body:
        """A word of a line is another."""
        words = ("", "0", "-1", "99999999999999999999", "NaN", "a" * 500, "\u00e9\u4e2d", "%s%n", "*", "0.0.0.0", "::")
        lines = list(self._lines)
        for _ in range(self._random.randrange(1, 4)):
            place = self._place()
            parts = lines[place].split(" ")
            parts[self._random.randrange(len(parts))] = self._random.choice(words)
            lines[place] = " ".join(parts)
        return self._sdp(lines)

    def _many_media(self) -> Body:
        first = next(n for n, line in enumerate(self._lines) if line.startswith("m="))
        media = self._lines[first:] if self._random.random() < 0.5 else ["m=audio 9 UDP/TLS/RTP/SAVPF 96"]
        return self._sdp(self._lines[:first] + media * self._random.choice((2, 20)), len(media) == 1)

    def _fingerprint(self) -> Body:
        bad = self._random.choice(("sha-256 00:11", "sha-1 " + "00:" * 20, "none", "sha-256", "md5 " + "ZZ:" * 16, ""))
        return self._sdp([f"a=fingerprint:{bad}" if "fingerprint" in line else line for line in self._lines])

    def _huge(self) -> Body:
        line = self._random.choice(("a=x:" + "y" * 5000, "a=rtpmap:96 opus/48000/2", "m=audio 0 RTP/AVP 0"))
        return Body("\r\n".join([*self._lines, *[line] * (300_000 // len(line))]).encode(), SDP, True)

    def _no_sdp(self) -> Body:
        bodies = (
            b"",
            b"{}",
            b"v=0",
            b"v=0\r\n" * 50,
            b"\x00" * 500,
            b"\xff\xfe",
            b"v=1\r\n",
            self._random.randbytes(400),
        )
        return Body(self._random.choice(bodies), SDP, True)

    def _other_kind(self) -> Body:
        kinds = (
            "",
            "text/plain",
            "application/json",
            "application/sdpx",
            "a/b; charset=x",
            "multipart/mixed",
            ";;;",
            "*",
        )
        return Body(self._as_it_is().content, self._random.choice(kinds), True)

    def _form(self) -> Body:
        sessions = ("", "{", "[]", "null", '"x"', '{"a":1}', "[" * 3000, '{"audio":NaN}', '{"model":"\\ud800"}', "\x00")
        session = self._random.choice((*sessions, json.dumps({"type": "realtime", "instructions": "x"})))
        parts = [("sdp", "\r\n".join([*self._lines, ""])), ("session", session)]
        way = self._random.randrange(6)
        if way == 0:
            parts.reverse()
        elif way == 1:
            parts *= 60
        elif way == 2:
            parts = parts[1:]
        text = (
            "".join(f'--x\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in parts) + "--x--\r\n"
        )
        content = text.encode()
        if way == 3:
            content = content[: self._random.randrange(len(content))]
        elif way == 4:
            content = content.replace(b"form-data", b"\xff\x00", 1)
        boundary = "x" if self._random.random() < 0.9 else self._random.choice(("", "y", "x" * 300))
        return Body(content, f"multipart/form-data; boundary={boundary}", False)

    def _no_audio(self) -> Body:
        return self._sdp([line.replace("m=audio 9", "m=audio 0") for line in self._lines], False)
