"""The sessions being served, and the door: one more than allowed is told so at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from omni_rt.config import ServerSettings
from omni_rt.realtime.errors import WireError
from omni_rt.server.door import Grant
from omni_rt.server.limits import end_in_time
from omni_rt.server.memory import give_back
from omni_rt.session.session import Session


class Places:
    """At most `server.max_sessions` at once, and `server.max_sessions_per_key` of one key; a session's place is free
    again as soon as it has ended. Sessions end when they have lasted too long (see `end_in_time`)."""

    def __init__(self, limits: ServerSettings, on_change: Callable[[int], None] = lambda _: None) -> None:
        self._limits = limits
        self._sessions: dict[str, Session] = {}
        self._grants: dict[str, Grant] = {}
        self._on_change = on_change
        self._ends: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: str, grant: Grant) -> Session | None:
        """The session of this id, None if there is none that this grant may control."""
        opened_by = self._grants.get(session_id)
        return self._sessions[session_id] if opened_by is not None and grant.may_control(opened_by) else None

    def admit(self, session: Session, grant: Grant) -> None:
        """Take a place until the session ends. Raises WireError `busy` or `too_many_sessions`."""
        limit, per_key = self._limits.max_sessions, self._limits.max_sessions_per_key
        if len(self._sessions) >= limit:
            raise WireError("busy", f"All {limit} places are taken; try again in a moment.", kind="server_error")
        if per_key and grant.owner and sum(g.owner == grant.owner for g in self._grants.values()) >= per_key:
            raise WireError(
                "too_many_sessions",
                f"A key may have {per_key} sessions at once; this one has.",
                kind="rate_limit_error",
            )
        self._sessions[session.id] = session
        self._grants[session.id] = grant
        self._on_change(len(self._sessions))
        for ending in (self._leave(session), end_in_time(session, self._limits)):
            task = asyncio.get_running_loop().create_task(ending)
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)

    async def close(self, reason: str) -> None:
        """End all sessions."""
        await asyncio.gather(*(session.close(reason) for session in self))

    async def _leave(self, session: Session) -> None:
        await session.ended.wait()
        del self._sessions[session.id], self._grants[session.id]
        self._on_change(len(self._sessions))
        if not self._sessions:
            await asyncio.to_thread(give_back)
