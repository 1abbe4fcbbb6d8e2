"""Stripe's client and what all calls share.

Without a key of Stripe's the same calls go to the billing sandbox. Every call has a time-out of 10 s and is tried three times with the
same idempotency key, by stripe-python; what then still fails is ProviderUnavailable. Facts about Stripe: docs.stripe.com, API 2026-08-26.dahlia.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import stripe
from django.conf import settings

from apps.common.errors import AuthenticationRequired, BadRequest, Conflict, NotFound, PaymentRequired, ProviderUnavailable

TIMEOUT_S, RETRIES = 10, 2
stripe.api_key = settings.STRIPE_SECRET_KEY
stripe.api_version = settings.STRIPE_API_VERSION
stripe.max_network_retries = RETRIES
stripe.default_http_client = stripe.RequestsClient(timeout=TIMEOUT_S)
if settings.BILLING_SANDBOX:
    stripe.api_base = settings.STRIPE_API_HOST

SANDBOX = settings.BILLING_SANDBOX
NEEDS_CONFIRMATION = {"authentication_required", "subscription_payment_intent_requires_action", "invoice_payment_intent_requires_action"}


@contextmanager
def calling() -> Iterator[None]:
    """Stripe's errors -> ours. Raises PaymentRequired, AuthenticationRequired, NotFound, Conflict, BadRequest, ProviderUnavailable."""
    try:
        yield
    except stripe.CardError as error:
        code = error.code or "card_declined"
        if code in NEEDS_CONFIRMATION:
            raise AuthenticationRequired("Your bank wants you to confirm this payment.", code="authentication_required") from error
        raise PaymentRequired(error.user_message or "The card was declined.", code=getattr(error.error, "decline_code", None) or code) from error
    except stripe.InvalidRequestError as error:
        message = error.user_message or str(error)
        if error.code in NEEDS_CONFIRMATION:
            raise AuthenticationRequired("Your bank wants you to confirm this payment.", code="authentication_required") from error
        if error.code == "resource_missing":
            raise NotFound(message, param=error.param) from error
        raise BadRequest(message, param=error.param) from error
    except stripe.IdempotencyError as error:
        raise Conflict("The same request is under way or was made with other values; try again.") from error
    except (stripe.APIConnectionError, stripe.RateLimitError, stripe.APIError) as error:
        raise ProviderUnavailable("The payment provider does not answer; nothing was changed. Try again in a minute.", retry_after_s=60) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ProviderUnavailable("The payment provider refuses our key; an operator must look at STRIPE_SECRET_KEY.") from error


def once(*parts: Any) -> str:
    """An idempotency key: the same parts, the same key."""
    return "vv-" + hashlib.sha256(json.dumps([str(p) for p in parts]).encode()).hexdigest()[:40]


def moment(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def id_of(value: Any) -> str:
    """Of an object, or of a reference to one; "" for none."""
    return value if isinstance(value, str) else value.id if value else ""


def plain_id(value: Any) -> str:
    """The same, in a body that is JSON."""
    return value if isinstance(value, str) else (value or {}).get("id", "")


def tax() -> dict:
    return {"automatic_tax": {"enabled": True}} if settings.STRIPE_AUTOMATIC_TAX else {}
