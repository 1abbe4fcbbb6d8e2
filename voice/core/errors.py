"""The error tree of the voice core.

VoiceError
├── ProtocolError    the client's fault: one `error` event, the session goes on
└── SessionClosed    the session cannot go on: an `error` event, then a close
"""

from __future__ import annotations

LIMITED = ("rate_limit_exceeded", "insufficient_quota")  # codes of apps.common.errors.RateLimited: no fault of an engine


class VoiceError(Exception):
    """Base of all errors of the voice core."""


class ProtocolError(VoiceError):
    """A client event that cannot be done. `param` names the field, `event_id` the offending event (protocol section 7)."""

    def __init__(self, code: str, message: str, *, param: str | None = None, type: str = "invalid_request_error"):
        super().__init__(message)
        self.code, self.message, self.param, self.type = code, message, param, type

    def body(self, event_id: str | None) -> dict:
        return {"type": self.type, "code": self.code, "message": self.message, "param": self.param, "event_id": event_id}


class SessionClosed(VoiceError):
    """Carries the WebSocket close code (protocol section 1, "Close codes")."""

    def __init__(self, close_code: int, code: str, message: str):
        super().__init__(message)
        self.close_code, self.code, self.message = close_code, code, message
