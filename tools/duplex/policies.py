"""The two ways of taking turns that are compared: the server's own, and what the peers ship."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Policy:
    """`overrides` are settings that the server is started with, `turn_detection` what the session asks for; None is the
    session's default."""

    name: str
    overrides: tuple[str, ...] = ()
    turn_detection: Mapping[str, Any] | None = None

    def session(self, instructions: str, tokens: int) -> dict[str, Any]:
        """What is sent with the offer."""
        session: dict[str, Any] = {"instructions": instructions, "max_output_tokens": tokens}
        if self.turn_detection is not None:
            session["audio"] = {"input": {"turn_detection": dict(self.turn_detection)}}
        return session


OURS = Policy("ours")

# Silero at 0.5, a turn ends after 500 ms of silence, and what opens a turn (96 ms, as with ours) stops a reply at once.
# No speculation, no ducking (duck_gain 1 leaves the reply as loud as it was), no words, no echo taken out.
PEERS = Policy(
    "policy",
    (
        "turn.vad_threshold=0.5",
        "turn.onset_ms=96",
        "turn.interrupt_ms=64",
        "turn.speculate_ms=0",
        "turn.duck_gain=1.0",
        "turn.by_words=false",
        "media.echo=false",
    ),
    {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": True,
        "interrupt_response": True,
    },
)
