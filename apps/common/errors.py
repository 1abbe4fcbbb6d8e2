"""The error tree of the Django side; each class knows its HTTP status and code, and all share one JSON shape.

VivavoceError
├── NotFound               404 not_found
├── MethodNotAllowed       405 method_not_allowed
├── Gone                   410 gone
├── BadRequest             400 invalid_request
├── Unprocessable          422 invalid_value       `fields`: name -> messages
├── Conflict               409 conflict
├── Unauthorized           401 unauthorized
│   ├── MissingApiKey          missing_api_key
│   └── InvalidApiKey          invalid_api_key
│       └── EphemeralKeyExpired    ephemeral_key_expired
├── PaymentRequired        402 card_declined
│   └── AuthenticationRequired     authentication_required
├── Forbidden              403 forbidden
│   ├── AccountDeactivated     account_deactivated
│   ├── InsufficientScope      insufficient_scope
│   └── OriginNotAllowed       origin_not_allowed
├── RateLimited            429 rate_limit_exceeded
│   ├── SessionLimitReached    session_limit_reached
│   └── InsufficientQuota      insufficient_quota
└── Overloaded             503 server_overloaded
    └── ProviderUnavailable    billing_unavailable
"""

from __future__ import annotations


class VivavoceError(Exception):
    status = 500
    code = "server_error"
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None):
        super().__init__(message)
        self.message, self.param, self.retry_after_s = message, param, retry_after_s

    def to_json(self) -> dict:
        return {"error": {"message": self.message, "type": self.type, "code": self.code, "param": self.param}}


class BadRequest(VivavoceError):
    status, code, type = 400, "invalid_request", "invalid_request_error"


class Unprocessable(VivavoceError):
    """The values do not do. `fields`: field name -> what is wrong with it."""

    status, code, type = 422, "invalid_value", "invalid_request_error"

    def __init__(self, message: str, *, fields: dict[str, list[str]] | None = None, param: str | None = None):
        super().__init__(message, param=param or next(iter(fields or {}), None))
        self.fields = fields or {}

    def to_json(self) -> dict:
        body = super().to_json()
        body["error"]["fields"] = self.fields
        return body


class NotFound(VivavoceError):
    status, code, type = 404, "not_found", "invalid_request_error"


class MethodNotAllowed(VivavoceError):
    status, code, type = 405, "method_not_allowed", "invalid_request_error"


class Gone(VivavoceError):
    status, code, type = 410, "gone", "invalid_request_error"


class SessionNotFound(NotFound):
    code = "session_not_found"


class SessionResumeExpired(Gone):
    code = "session_resume_expired"


class Conflict(VivavoceError):
    status, code, type = 409, "conflict", "invalid_request_error"


class Unauthorized(VivavoceError):
    status, code, type = 401, "unauthorized", "authentication_error"


class MissingApiKey(Unauthorized):
    code = "missing_api_key"


class InvalidApiKey(Unauthorized):
    code = "invalid_api_key"


class EphemeralKeyExpired(InvalidApiKey):
    code = "ephemeral_key_expired"


class PaymentRequired(VivavoceError):
    """The card was refused; `code` says how (card_declined, insufficient_funds, expired_card, …). Nothing was changed."""

    status, code, type = 402, "card_declined", "invalid_request_error"

    def __init__(self, message: str, *, code: str = "", **kwargs):
        super().__init__(message, **kwargs)
        self.code = code or self.code


class AuthenticationRequired(PaymentRequired):
    code = "authentication_required"


class Forbidden(VivavoceError):
    status, code, type = 403, "forbidden", "invalid_request_error"


class AccountDeactivated(Forbidden):
    code = "account_deactivated"


class InsufficientScope(Forbidden):
    code = "insufficient_scope"


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"


class RateLimited(VivavoceError):
    status, code, type = 429, "rate_limit_exceeded", "rate_limit_error"


class SessionLimitReached(RateLimited):
    code = "session_limit_reached"


class InsufficientQuota(RateLimited):
    code = "insufficient_quota"


class Overloaded(VivavoceError):
    status, code, type = 503, "server_overloaded", "server_error"


class ProviderUnavailable(Overloaded):
    """The payment provider does not answer. Talking goes on, usage waits; try again later."""

    code = "billing_unavailable"
