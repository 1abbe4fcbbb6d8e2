"""Errors in Stripe's shape (docs.stripe.com/api/errors).

StripeError             400 invalid_request_error; nothing is kept of the request
├── NotFound            404 resource_missing
├── Unauthorized        401
├── IdempotencyError    400 idempotency_error: a key used again with other parameters
└── CardError           402 card_error; what happened until then (a failed charge, an open invoice) is kept
"""

from __future__ import annotations


class StripeError(Exception):
    status = 400
    type = "invalid_request_error"
    keep = False  # is the state written before the error kept?

    def __init__(self, message: str, param: str | None = None, code: str | None = None, **more):
        super().__init__(message)
        self.message, self.param, self.code, self.more = message, param, code, more

    def body(self, request_id: str) -> dict:
        error = {"type": self.type, "message": self.message, **self.more}
        if self.code:
            error |= {"code": self.code, "doc_url": f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"}
        if self.param:
            error["param"] = self.param
        return {"error": error | {"request_log_url": f"/_sandbox/requests/{request_id}"}}


class NotFound(StripeError):
    status = 404

    def __init__(self, kind: str, value: str, param: str = "id"):
        super().__init__(f"No such {kind}: '{value}'", param, "resource_missing")


class Unauthorized(StripeError):
    status = 401


class IdempotencyError(StripeError):
    type = "idempotency_error"


class CardError(StripeError):
    status = 402
    type = "card_error"
    keep = True


def missing(name: str) -> StripeError:
    return StripeError(f"Missing required param: {name}.", name, "parameter_missing")
