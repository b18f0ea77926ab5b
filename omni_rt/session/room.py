"""How much of the conversation the model has before it, by the session's `truncation`."""

from __future__ import annotations

from omni_rt.core.conversation import Conversation
from omni_rt.core.window import ContextWindow
from omni_rt.engine.api import Usage
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.settings import RetentionRatio, WireSession
from omni_rt.session.policy import fixed_weight


class Room:
    """The model's context has `context_tokens`; what of them items take is counted with each reply."""

    def __init__(self, conversation: Conversation, context_tokens: int) -> None:
        self._conversation = conversation
        self._window = ContextWindow(context_tokens)

    def fit(self, session: WireSession, usage: Usage) -> bool:
        """After a reply: let the oldest exchanges leave the context if they must; whether any did."""
        fixed, items = fixed_weight(session), self._conversation.remembered()
        self._window.counted(usage.input_tokens + usage.output_tokens, fixed, items)
        rule = session.truncation
        if not isinstance(rule, RetentionRatio):
            return False
        limit = rule.token_limits.post_instructions if rule.token_limits else None
        gone = self._window.excess(items, fixed, rule.retention_ratio, limit)
        self._conversation.forget(gone)
        return bool(gone)

    def refusal(self, session: WireSession) -> WireError | None:
        """Why a reply cannot be made where nothing may leave the context."""
        tokens = self._window.tokens(fixed_weight(session), self._conversation.remembered())
        if session.truncation != "disabled" or tokens <= self._window.limit:
            return None
        return WireError(
            "context_full",
            f"The conversation takes some {tokens:.0f} tokens, {self._window.limit:.0f} are allowed, and "
            '\'session.truncation\' is "disabled"; set it to "auto", or delete items.',
            "session.truncation",
        )
