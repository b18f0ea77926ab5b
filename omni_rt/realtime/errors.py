"""What can be wrong with a client's event, as the protocol says it."""

from __future__ import annotations

# An error says what is wrong with a client's text, not all of it.
_LONGEST_MESSAGE = 1000
_LONGEST_PARAM = 200


class WireError(Exception):
    """Answered with an `error` event; the session goes on.

    `code` is machine-readable, `param` the path of the offending field, `event_id` the client's own event id.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        event_id: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.event_id = event_id
        self.kind = kind

    def body(self) -> dict[str, str | None]:
        """The `error` object of the event, also used in HTTP answers."""
        return {
            "type": self.kind,
            "code": self.code,
            "message": _shortened(str(self), _LONGEST_MESSAGE),
            "param": None if self.param is None else _shortened(self.param, _LONGEST_PARAM),
            "event_id": self.event_id,
        }


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
