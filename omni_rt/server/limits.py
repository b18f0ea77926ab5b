"""How long a session may last, and how long it may lie idle."""

from __future__ import annotations

import asyncio
import time

from omni_rt.config import ServerSettings
from omni_rt.realtime.errors import WireError
from omni_rt.session.session import Session

# How often a session is looked at.
TICK_S = 0.5
# What was sent last gets this long to leave by a data channel before the connection is closed.
FAREWELL_S = 0.3


async def end_in_time(session: Session, limits: ServerSettings) -> None:
    """Wait until a session has lasted, or has been idle, for too long; say so by an `error` event and end it.

    Idle is a session whose client sends no event and no sound other than silence while no reply is made or played.
    """
    opened = session.active_at = time.monotonic()
    while True:
        try:
            await asyncio.wait_for(session.ended.wait(), TICK_S)
        except TimeoutError:
            pass
        else:
            return
        now = time.monotonic()
        if session.replying:
            session.active_at = now
        if limits.max_session_s and now - opened >= limits.max_session_s:
            await _end(session, "session_expired", f"A session may last {limits.max_session_s:g} s.")
        elif limits.idle_s and now - session.active_at >= limits.idle_s:
            await _end(session, "session_idle", f"Nothing was said or sent for {limits.idle_s:g} s.")


async def _end(session: Session, code: str, message: str) -> None:
    session.events.error(WireError(code, message))
    await asyncio.sleep(FAREWELL_S)
    await session.close(message)
