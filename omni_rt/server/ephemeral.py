"""Client secrets: keys for a browser that end by themselves and open sessions with settings chosen beforehand."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omni_rt.realtime.errors import WireError

PREFIX = "ek_"
# They are kept in memory until they expire.
MOST_PER_OWNER = 1000


@dataclass(frozen=True, slots=True)
class Secret:
    """`id` stands for the value, which is not kept; `expires_at` is in seconds of the Unix epoch."""

    id: str
    owner: str
    expires_at: int
    session: dict[str, Any]


class Ephemeral:
    """The client secrets of one server; they are lost when it ends."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._secrets: dict[str, Secret] = {}

    def make(self, owner: str, seconds: int, session: dict[str, Any]) -> tuple[str, Secret]:
        """A new value and what is known of it. Raises WireError `too_many_client_secrets`."""
        now = self._now()
        self._secrets = {id_: secret for id_, secret in self._secrets.items() if secret.expires_at > now}
        if sum(secret.owner == owner for secret in self._secrets.values()) >= MOST_PER_OWNER:
            raise WireError(
                "too_many_client_secrets",
                f"This key has {MOST_PER_OWNER} client secrets that have not expired; it may have no more.",
                kind="rate_limit_error",
            )
        value = PREFIX + secrets.token_urlsafe(32)
        secret = Secret(_id(value), owner, int(now) + seconds, session)
        self._secrets[secret.id] = secret
        return value, secret

    def get(self, value: str) -> Secret | None:
        """The secret with this value, None if there is none or it has expired. Looked up by its hash, so that the time
        taken tells nothing of the value."""
        secret = self._secrets.get(_id(value))
        return secret if secret is not None and secret.expires_at > self._now() else None


def _id(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
