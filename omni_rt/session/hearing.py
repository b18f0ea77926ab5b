"""What a session needs of whatever hears for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from omni_rt.core.timeline import Heard
from omni_rt.engine.api import Pcm


class SessionHearing(Protocol):
    """Voice activity and end-of-turn scores, made off the event loop and told in order (media/hearing.py)."""

    def feed(self, pcm: Pcm) -> None: ...

    def score_end(self, at_ms: int, from_ms: int) -> None: ...

    def played(self, pcm: Pcm, stream_ms: float, paced: bool) -> None: ...

    def stopped(self) -> None: ...

    def close(self) -> None: ...


MakeHearing = Callable[[Callable[[Heard], None]], SessionHearing]
