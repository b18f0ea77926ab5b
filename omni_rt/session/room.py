"""What a conversation may hold: the model's context by the session's truncation, and so many items in all."""

from __future__ import annotations

from omni_rt.core.conversation import Conversation
from omni_rt.core.window import ContextWindow, exchanges
from omni_rt.engine.api import Usage
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import RetentionRatio, WireSession
from omni_rt.session.policy import fixed_weight

# What is left of `max_items` when the oldest leave: each time the engine reads the conversation anew.
_LEFT = 0.9


class Room:
    """Of one session."""

    def __init__(self, conversation: Conversation, context_tokens: int, max_items: int) -> None:
        self._conversation = conversation
        self._window = ContextWindow(context_tokens)
        self._max_items = max_items

    def counted(self, usage: Usage, wire: WireSession) -> None:
        """The engine has counted a reply and what it was made on."""
        tokens = usage.input_tokens + usage.output_tokens
        self._window.counted(tokens, fixed_weight(wire), self._conversation.remembered())

    def forget(self, wire: WireSession) -> bool:
        """Let the oldest exchanges leave the context if the session's truncation says so; whether any did."""
        rule = wire.truncation
        if not isinstance(rule, RetentionRatio):
            return False
        limit = rule.token_limits.post_instructions if rule.token_limits else None
        items = self._conversation.remembered()
        gone = self._window.excess(items, fixed_weight(wire), rule.retention_ratio, limit)
        self._conversation.forget(gone)
        return bool(gone)

    def shed(self) -> list[str]:
        """Where there are too many items, remove the oldest exchanges, of which the last stays; gives the ids."""
        items = list(self._conversation)
        if len(items) <= self._max_items:
            return []
        needed = len(items) - round(_LEFT * self._max_items)
        starts = exchanges(items)
        end = next((start for start in starts if start >= needed), starts[-1] if starts else 0)
        return [self._conversation.remove(item.id).id for item in items[:end]]

    def refusal(self, wire: WireSession, event_id: str | None) -> WireError | None:
        """Why a reply, asked for by this event, cannot be made where nothing may leave the context."""
        tokens = self._window.tokens(fixed_weight(wire), self._conversation.remembered())
        if wire.truncation != "disabled" or tokens <= self._window.limit:
            return None
        return WireError(
            "context_full",
            f"The conversation takes some {tokens:.0f} tokens, {self._window.limit:.0f} are allowed, and "
            '\'session.truncation\' is "disabled"; set it to "auto", or delete items.',
            "session.truncation",
            event_id,
        )
