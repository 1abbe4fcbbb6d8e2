"""The error tree of the Django side; each class knows its HTTP status and code, and all share one JSON shape.

VivavoceError
├── NotFound            404 not_found
├── BadRequest          400 invalid_request
├── Conflict            409 conflict
├── Unauthorized        401
│   ├── MissingApiKey       missing_api_key
│   └── InvalidApiKey       invalid_api_key
├── Forbidden           403 forbidden
│   └── AccountDeactivated  account_deactivated
└── Overloaded          503 server_overloaded
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


class NotFound(VivavoceError):
    status, code, type = 404, "not_found", "invalid_request_error"


class Conflict(VivavoceError):
    status, code, type = 409, "conflict", "invalid_request_error"


class Unauthorized(VivavoceError):
    status, code, type = 401, "unauthorized", "authentication_error"


class MissingApiKey(Unauthorized):
    code = "missing_api_key"


class InvalidApiKey(Unauthorized):
    code = "invalid_api_key"


class Forbidden(VivavoceError):
    status, code, type = 403, "forbidden", "invalid_request_error"


class AccountDeactivated(Forbidden):
    code = "account_deactivated"


class Overloaded(VivavoceError):
    status, code, type = 503, "server_overloaded", "server_error"
