"""What can be wrong with a client's event, as the protocol says it."""

from __future__ import annotations


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
            "message": str(self),
            "param": self.param,
            "event_id": self.event_id,
        }
