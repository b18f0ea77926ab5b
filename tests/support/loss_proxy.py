"""A UDP relay between a client and a server that loses, delays and reorders what passes, per direction, on command."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast


@dataclass
class Weather:
    """What happens to RTP packets (STUN, DTLS and RTCP always pass). `loss` is 0 to 1, `jitter_ms` the most a packet
    is held, which may reorder it, `corrupt` the share of packets replaced by noise (SRTP rejects them)."""

    loss: float = 0.0
    jitter_ms: float = 0.0
    corrupt: float = 0.0
    seen: int = 0
    lost: int = 0


def _is_media(data: bytes) -> bool:
    return 127 < data[0] < 192 and not 192 <= data[1] <= 223


class _Side(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, Any], None]) -> None:
        self._take = take
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._take(data, addr)

    def send(self, data: bytes, addr: Any) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.sendto(data, addr)


class LossProxy:
    """Route a call through `offer` and `answer`, which take and give SDP; then set `up` and `down`."""

    def __init__(self, seed: int = 1) -> None:
        self.up = Weather()
        self.down = Weather()
        self.cut = False
        """Nothing at all passes any more, as when a machine is switched off."""
        self._random = random.Random(seed)
        self._client: Any = None
        self._server: Any = None
        self._front = _Side(self._from_client)
        self._back = _Side(self._from_server)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for side in (self._front, self._back):

            def protocol(side: _Side = side) -> _Side:
                return side

            await loop.create_datagram_endpoint(protocol, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        for side in (self._front, self._back):
            assert side.transport is not None
            side.transport.close()

    def offer(self, sdp: str) -> str:
        """The offer without candidates, so that the server knows the client only through here."""
        return re.sub(r"a=(candidate:.*|end-of-candidates)\r\n", "", sdp)

    def answer(self, sdp: str) -> str:
        """The answer with this proxy in place of the server's first candidate."""
        assert self._front.transport is not None
        port = self._front.transport.get_extra_info("sockname")[1]
        found = re.search(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", sdp)
        assert found is not None, sdp
        self._server = (found[1], int(found[2]))
        kept = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {port} typ host\r\n"
        return re.sub(r"(a=candidate:.*\r\n)+", kept, sdp)

    def _from_client(self, data: bytes, addr: Any) -> None:
        self._client = addr
        self._pass(data, self.up, lambda out: self._back.send(out, self._server))

    def _from_server(self, data: bytes, addr: Any) -> None:
        if self._client is not None:
            self._pass(data, self.down, lambda out: self._front.send(out, self._client))

    def _pass(self, data: bytes, weather: Weather, send: Callable[[bytes], None]) -> None:
        if self.cut:
            return
        if not _is_media(data):
            send(data)
            return
        weather.seen += 1
        if self._random.random() < weather.loss:
            weather.lost += 1
            return
        if self._random.random() < weather.corrupt:
            data = data[:12] + self._random.randbytes(len(data) - 12)
        if weather.jitter_ms:
            delay = self._random.random() * weather.jitter_ms / 1000
            asyncio.get_running_loop().call_later(delay, send, data)
        else:
            send(data)
