"""The only file that knows Stripe and dj-stripe. It gives and takes plain values (facts.py) and raises errors of our tree.

Without a key of Stripe's the same calls go to the billing sandbox. Every call has a time-out of 10 s and is tried three times with the
same idempotency key, by stripe-python; what then still fails is ProviderUnavailable. Facts about Stripe: docs.stripe.com, API 2026-08-26.dahlia.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import stripe
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import DateTimeField, ExpressionWrapper, F
from django.http import HttpRequest
from django.utils import timezone
from djstripe.models import Customer as MirroredCustomer
from djstripe.models import Event, WebhookEndpoint, WebhookEventTrigger
from kombu.exceptions import OperationalError

from apps.billing.facts import Card, EventFact, InvoiceFact, ItemFact, LineFact, Preview, SubscriptionFact
from apps.common.errors import AuthenticationRequired, BadRequest, Conflict, NotFound, PaymentRequired, ProviderUnavailable

log = logging.getLogger("vivavoce.billing")
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


def _time(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


# Customers


def customer_make(*, tenant_id: str, name: str, email: str) -> str:
    """The id of the tenant's customer, made once; dj-stripe's mirror ties it to the tenant."""
    values: dict[str, Any] = {"name": name, "metadata": {"djstripe_subscriber": tenant_id}}
    values |= {n: v for n, v in (("email", email), ("test_clock", settings.STRIPE_TEST_CLOCK)) if v}
    with calling():
        made = stripe.Customer.create(**values, idempotency_key=once("customer", tenant_id, name, email))
        MirroredCustomer.sync_from_stripe_data(made)
    return made.id


def customer_update(customer_id: str, *, name: str, email: str, tax: dict[str, str]) -> None:
    """`tax`: country, postal_code, exempt (none, exempt, reverse), and tax_id with its tax_id_type ("" = none)."""
    with calling():
        address = {"country": tax["country"], "postal_code": tax.get("postal_code", "")} if tax.get("country") else ""
        stripe.Customer.modify(customer_id, name=tax.get("name") or name, email=email, address=address, tax_exempt=tax.get("exempt") or "none")
        wanted = (tax.get("tax_id_type", ""), tax.get("tax_id", ""))
        known = list(stripe.Customer.list_tax_ids(customer_id, limit=20).auto_paging_iter())
        if wanted[1] and wanted not in [(k.type, k.value) for k in known]:
            stripe.Customer.create_tax_id(customer_id, type=wanted[0], value=wanted[1])
        for old in known:
            if (old.type, old.value) != wanted:
                stripe.Customer.delete_tax_id(customer_id, old.id)


def balance_cents(customer_id: str) -> int:
    """Credit that the next invoices use up; below 0 = owed."""
    with calling():
        return -int(stripe.Customer.retrieve(customer_id).balance or 0)


def credit_give(customer_id: str, *, cents: int, currency: str, reason: str, key: str) -> str:
    with calling():
        return stripe.Customer.create_balance_transaction(customer_id, amount=-cents, currency=currency, description=reason, idempotency_key=once("credit", key)).id


# What is sold


def product_make(*, key: str, name: str, about: str) -> str:
    with calling():
        values = {"name": name, "metadata": {"version": key}, **({"description": about} if about else {})}
        return stripe.Product.create(**values, idempotency_key=once("product", key, name, about)).id


def price_make(*, product_id: str, currency: str, interval: str, cents: int) -> str:
    with calling():
        return stripe.Price.create(product=product_id, currency=currency, unit_amount=cents, recurring={"interval": interval},
                                   idempotency_key=once("price", product_id, currency, interval, cents)).id  # fmt: skip


# Subscriptions


def _fact(sub: stripe.Subscription) -> SubscriptionFact:
    items = list(sub["items"].data)
    first = items[0]
    latest = sub.latest_invoice
    return SubscriptionFact(
        id=sub.id, customer_id=_id(sub.customer), status=sub.status, period_start=_time(first.current_period_start), period_end=_time(first.current_period_end),
        items=tuple(ItemFact(i.id, i.price.id, i.quantity or 1) for i in items), trial_end=_time(sub.trial_end), ended_at=_time(sub.ended_at),
        cancel_at_period_end=bool(sub.cancel_at_period_end), latest_invoice_id=_id(latest) if latest else "",
    )  # fmt: skip


def _id(value: Any) -> str:
    return value if isinstance(value, str) else value.id if value else ""


def _tax() -> dict:
    return {"automatic_tax": {"enabled": True}} if settings.STRIPE_AUTOMATIC_TAX else {}


def subscription_make(customer_id: str, *, items: list[tuple[str, int]], trial_days: int = 0, key: str) -> SubscriptionFact:
    """Begin and charge at once. Raises PaymentRequired and changes nothing when the card is declined; a card that wants confirmation
    gives one that is `incomplete`: its invoice waits for `payment_confirmation`."""
    values: dict[str, Any] = {"customer": customer_id, "items": [{"price": p, "quantity": q} for p, q in items], **_tax()}
    if trial_days:
        values |= {"trial_period_days": trial_days, "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}}}
    with calling():
        try:
            return _fact(stripe.Subscription.create(**values, payment_behavior="error_if_incomplete", idempotency_key=once("subscribe", key)))
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            if error.code not in NEEDS_CONFIRMATION:
                raise
            return _fact(stripe.Subscription.create(**values, payment_behavior="allow_incomplete", idempotency_key=once("subscribe", key, "incomplete")))


def subscription_get(subscription_id: str) -> SubscriptionFact:
    with calling():
        return _fact(stripe.Subscription.retrieve(subscription_id))


def change_preview(customer_id: str, subscription_id: str, *, items: list[dict], at: int = 0, end_trial: bool = False) -> Preview:
    """What `subscription_change` with the same `items` and the preview's `at` will charge, to the cent. `at` 0 = the provider's now."""
    details: dict[str, Any] = {"items": items, "proration_behavior": "always_invoice"}
    if end_trial or at:
        details |= {"trial_end": "now"} if end_trial else {"proration_date": at}
    with calling():
        fact = _invoice(stripe.Invoice.create_preview(customer=customer_id, subscription=subscription_id, subscription_details=details, **_tax()))
    at = at or next((int(line.starts.timestamp()) for line in fact.lines if line.proration), 0)
    return Preview(fact.currency, fact.due, fact.total, fact.tax, at, fact.lines)


def new_preview(customer_id: str, *, items: list[tuple[str, int]]) -> Preview:
    with calling():
        details = {"items": [{"price": p, "quantity": q} for p, q in items]}
        fact = _invoice(stripe.Invoice.create_preview(customer=customer_id, subscription_details=details, **_tax()))
    return Preview(fact.currency, fact.due, fact.total, fact.tax, 0, fact.lines)


def subscription_change(subscription_id: str, *, items: list[dict], at: int = 0, end_trial: bool = False, prorate: bool = True) -> SubscriptionFact:
    """`prorate`: at once, the difference charged now (raises PaymentRequired, and then nothing changes); else priced so from the next period on."""
    values: dict[str, Any] = {"items": items, "proration_behavior": "always_invoice" if prorate else "none", "cancel_at_period_end": False}
    if prorate:
        values |= {"payment_behavior": "error_if_incomplete"}
    if end_trial or at:
        values |= {"trial_end": "now"} if end_trial else {"proration_date": at}
    with calling():
        return _fact(stripe.Subscription.modify(subscription_id, **values))


def subscription_cancel(subscription_id: str, *, at_period_end: bool = True) -> SubscriptionFact:
    """At the period's end, or (`at_period_end` False) take that back."""
    with calling():
        return _fact(stripe.Subscription.modify(subscription_id, cancel_at_period_end=at_period_end))


def subscription_end(subscription_id: str) -> SubscriptionFact:
    with calling():
        return _fact(stripe.Subscription.cancel(subscription_id))


# Cards: their numbers never come here, only to the provider's form


def setup_begin(customer_id: str) -> tuple[str, str]:
    """(id, client secret) of a SetupIntent for the card form."""
    with calling():
        made = stripe.SetupIntent.create(customer=customer_id, usage="off_session", payment_method_types=["card"])
    return made.id, made.client_secret


def setup_result(customer_id: str, setup_id: str) -> tuple[str, str]:
    """(status, payment method id). Raises NotFound for somebody else's."""
    with calling():
        found = stripe.SetupIntent.retrieve(setup_id)
    if _id(found.customer) != customer_id:
        raise NotFound(f"no card set-up {setup_id[:60]!r}")
    return found.status, _id(found.payment_method)


def cards(customer_id: str) -> list[Card]:
    with calling():
        customer = stripe.Customer.retrieve(customer_id)
        default = _id(customer.invoice_settings.default_payment_method) if customer.invoice_settings else ""
        found = stripe.PaymentMethod.list(customer=customer_id, type="card", limit=20).data
    return [Card(m.id, m.card.brand, m.card.last4, f"{m.card.exp_month:02}/{m.card.exp_year}", m.id == default) for m in found]


def card_default(customer_id: str, card_id: str) -> None:
    with calling():
        stripe.Customer.modify(customer_id, invoice_settings={"default_payment_method": card_id})


def card_remove(card_id: str) -> None:
    with calling():
        stripe.PaymentMethod.detach(card_id)


# Invoices


def _invoice(found: stripe.Invoice) -> InvoiceFact:
    data = json.loads(str(found))
    times = data.get("status_transitions") or {}
    parent = (data.get("parent") or {}).get("subscription_details") or {}
    payments = ((data.get("payments") or {}).get("data") or [{}])[0].get("payment") or {}
    tax = sum(t["amount"] for t in data.get("total_taxes") or [])
    return InvoiceFact(
        id=data.get("id") or "", customer_id=_plain(data["customer"]), subscription_id=_plain(parent.get("subscription")), number=data.get("number") or "",
        status=data.get("status") or "draft", reason=data.get("billing_reason") or "", currency=data["currency"], subtotal=data["subtotal"], tax=tax,
        total=data["total"], due=data["amount_due"], paid=data.get("amount_paid") or 0, attempts=data.get("attempt_count") or 0,
        starts=_time(data["period_start"]), ends=_time(data["period_end"]), created_at=_time(data["created"]), finalized_at=_time(times.get("finalized_at")),
        next_attempt_at=_time(data.get("next_payment_attempt")), lines=tuple(_line(row) for row in data["lines"]["data"]),
        payment_intent_id=_plain(payments.get("payment_intent")),
    )  # fmt: skip


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else (value or {}).get("id", "")


def _line(row: dict) -> LineFact:
    parent = row.get("parent") or {}
    item, of = parent.get("invoice_item_details") or {}, parent.get("subscription_item_details") or {}
    price = ((row.get("pricing") or {}).get("price_details") or {}).get("price")
    return LineFact(row["id"], row.get("description") or "", row["amount"], row.get("quantity") or 1, bool(item.get("proration") or of.get("proration")),
                    _time(row["period"]["start"]), _time(row["period"]["end"]), _plain(item.get("invoice_item")), _plain(price))  # fmt: skip


def invoice_get(invoice_id: str) -> InvoiceFact:
    """With all of its lines."""
    with calling():
        found = stripe.Invoice.retrieve(invoice_id, expand=["payments"])
        if found.lines.has_more:
            found.lines.data = list(stripe.Invoice.list_lines(invoice_id, limit=100).auto_paging_iter())
    return _invoice(found)


def invoices_of(customer_id: str, limit: int = 100) -> list[str]:
    with calling():
        return [found.id for found in stripe.Invoice.list(customer=customer_id, limit=limit).data]


def invoice_make(customer_id: str, *, currency: str, key: str) -> str:
    """An empty draft that is collected by itself when it is finalised."""
    with calling():
        return stripe.Invoice.create(customer=customer_id, currency=currency, auto_advance=True, pending_invoice_items_behavior="exclude",
                                     idempotency_key=once("invoice", customer_id, key), **_tax()).id  # fmt: skip


def invoice_item_add(customer_id: str, invoice_id: str, *, cents: int, currency: str, text: str, starts: datetime, ends: datetime, key: str) -> str:
    """A line on a draft. Raises BadRequest when it is finalised already."""
    with calling():
        return stripe.InvoiceItem.create(customer=customer_id, invoice=invoice_id, amount=cents, currency=currency, description=text,
                                         period={"start": int(starts.timestamp()), "end": int(ends.timestamp())}, idempotency_key=once("item", invoice_id, key)).id  # fmt: skip


def invoice_finalize(invoice_id: str) -> InvoiceFact:
    with calling():
        return _invoice(stripe.Invoice.finalize_invoice(invoice_id, auto_advance=True))


def invoice_void(invoice_id: str) -> InvoiceFact:
    """An open one that nobody owes any more."""
    with calling():
        return _invoice(stripe.Invoice.void_invoice(invoice_id))


def invoice_pay(invoice_id: str) -> InvoiceFact:
    """Charge the default card. Raises PaymentRequired, AuthenticationRequired."""
    with calling():
        stripe.Invoice.pay(invoice_id)
    return invoice_get(invoice_id)


def confirmation_secret(invoice_id: str) -> str:
    """The client secret with which the card's holder confirms the payment of an open invoice."""
    with calling():
        found = stripe.Invoice.retrieve(invoice_id, expand=["confirmation_secret"])
    return found.confirmation_secret.client_secret if found.confirmation_secret else ""


def refund_make(payment_intent_id: str, *, cents: int, key: str) -> str:
    with calling():
        return stripe.Refund.create(payment_intent=payment_intent_id, amount=cents, idempotency_key=once("refund", payment_intent_id, key)).id


def credit_note_make(invoice_id: str, *, cents: int, reason: str, refund_id: str = "", to_balance: bool = False, key: str) -> str:
    """Takes `cents` off a finalised invoice: what is open; what was paid goes back by `refund_id` or to the customer's balance."""
    values: dict[str, Any] = {"invoice": invoice_id, "memo": reason, "lines": [{"type": "custom_line_item", "description": reason, "quantity": 1, "unit_amount": cents}]}
    if refund_id:
        values["refunds"] = [{"refund": refund_id, "amount_refunded": cents}]
    elif to_balance:
        values["credit_amount"] = cents
    with calling():
        return stripe.CreditNote.create(**values, idempotency_key=once("note", invoice_id, key)).id


# Meters

_meters: dict[str, str] = {}  # event name -> id, as this process has seen
_meters_lock = threading.Lock()


def _meter(name: str) -> str:
    """The id of our meter, made where there is none."""
    with _meters_lock:
        return _meters.get(name) or _meter_find(name) or _meter_make(name)


def _meter_find(name: str) -> str:
    _meters.update({m.event_name: m.id for m in stripe.billing.Meter.list(status="active", limit=100).auto_paging_iter()})
    return _meters.get(name, "")


def _meter_make(name: str) -> str:
    try:
        made = stripe.billing.Meter.create(display_name=name, event_name=name, default_aggregation={"formula": "sum"},
                                           customer_mapping={"type": "by_id", "event_payload_key": "stripe_customer_id"}, value_settings={"event_payload_key": "value"})  # fmt: skip
    except stripe.InvalidRequestError:
        if found := _meter_find(name):  # another process was first
            return found
        raise
    _meters[name] = made.id
    return made.id


def usage_report(customer_id: str, *, meter: str, units: int, identifier: str, at: datetime) -> None:
    """One ledger entry; a second report with the same identifier changes nothing. What is older than 35 days is reported as of now."""
    name = f"vivavoce_{meter}"
    values = {"event_name": name, "payload": {"stripe_customer_id": customer_id, "value": str(units)}, "identifier": identifier}
    with calling():
        _meter(name)
        try:
            stripe.billing.MeterEvent.create(**values, timestamp=int(at.timestamp()))
        except stripe.InvalidRequestError as error:
            if error.code in ("timestamp_too_far_in_past", "timestamp_in_future"):
                error = _report_now(values)
            if error is not None and "already exists with identifier" not in str(error):
                raise error


def _report_now(values: dict) -> stripe.InvalidRequestError | None:
    try:
        stripe.billing.MeterEvent.create(**values)
    except stripe.InvalidRequestError as error:
        return error
    return None


def usage_reported(customer_id: str, meter: str, starts: datetime, ends: datetime) -> int:
    """What the provider's meter counted for a customer between two times, to the minute."""
    bounds = {"start_time": int(starts.timestamp()) // 60 * 60, "end_time": -(-int(ends.timestamp()) // 60) * 60}
    with calling():
        rows = stripe.billing.Meter.list_event_summaries(_meter(f"vivavoce_{meter}"), customer=customer_id, **bounds, limit=100).auto_paging_iter()
        return sum(int(row.aggregated_value) for row in rows)


# Webhooks: verified and stored on arrival, worked off by the `default` worker

ENDPOINT = uuid.uuid5(uuid.NAMESPACE_URL, "vivavoce/stripe/webhook")


def webhook_receive(request: HttpRequest) -> bool:
    """Store a signed event. False for one that is forged, stale or damaged: nothing of it is kept."""
    try:
        body = request.body.decode()
        stripe.WebhookSignature.verify_header(body, request.headers.get("Stripe-Signature", ""), settings.STRIPE_WEBHOOK_SECRET, stripe.Webhook.DEFAULT_TOLERANCE)
    except (stripe.SignatureVerificationError, UnicodeDecodeError, ValueError) as error:
        log.warning("webhook refused: %s", type(error).__name__)
        return False
    endpoint, _ = WebhookEndpoint.objects.update_or_create(djstripe_uuid=ENDPOINT, defaults={
        "id": "we_vivavoce", "secret": settings.STRIPE_WEBHOOK_SECRET, "status": "enabled", "enabled_events": ["*"], "livemode": settings.STRIPE_LIVE_MODE,
        "url": f"{settings.PORTAL_URL}/stripe/webhook"})  # fmt: skip
    trigger = WebhookEventTrigger.from_request(request, webhook_endpoint=endpoint)
    _later(trigger.pk)
    return trigger.valid


def webhook_stored(trigger: WebhookEventTrigger, api_key: str) -> None:
    """dj-stripe's callback, in place of working the event off while the provider waits: `webhook_receive` hands it over once it is stored."""


def _later(trigger_id: int) -> None:
    try:
        current_app.send_task("billing.webhook", args=(trigger_id,), queue="default", ignore_result=True, retry=False)
    except (OSError, OperationalError):
        pass  # the sweep finds it


def webhook_work(trigger_id: int, handle: Callable[[EventFact], None]) -> bool:
    """Give a stored event to `handle`, then to dj-stripe's mirror. True when this call did it; a second one finds nothing to do.
    What `handle` raises is kept beside the event, which stays to be tried again."""
    try:
        with transaction.atomic():
            trigger = WebhookEventTrigger.objects.select_for_update(skip_locked=True).filter(pk=trigger_id, valid=True, processed=False).first()
            if trigger is None:
                return False
            if not Event.objects.filter(id=trigger.json_body["id"]).exists():  # else a duplicate of what was done
                body = trigger.json_body["data"]["object"]
                kind = body.get("object", "")
                customer = body["id"] if kind == "customer" else _plain(body.get("customer"))
                handle(EventFact(trigger.json_body["type"], kind, body.get("id", ""), customer, _plain(body.get("invoice"))))
            trigger.process(api_key=settings.STRIPE_SECRET_KEY)
        return True
    except Exception as error:
        WebhookEventTrigger.objects.filter(pk=trigger_id).update(exception=f"{type(error).__name__}: {error}"[:128], traceback=traceback.format_exc(), updated=timezone.now())
        raise


def webhooks_waiting(now: datetime, limit: int = 200) -> list[int]:
    """Stored events not worked off, oldest first; one that failed waits as long again as it waited so far, three days at most."""
    rows = WebhookEventTrigger.objects.filter(valid=True, processed=False, created__gt=now - timedelta(days=3), created__lt=now - timedelta(seconds=5))
    due = ExpressionWrapper(F("updated") + (F("updated") - F("created")), output_field=DateTimeField())
    return list(rows.annotate(due=due).filter(due__lt=now).order_by("id").values_list("pk", flat=True)[:limit])


def webhook_replay(event_id: str) -> int:
    """Forget that an event was done, so that it is worked off again; returns how many deliveries of it there are."""
    with transaction.atomic():
        found = WebhookEventTrigger.objects.filter(event_id=event_id)
        count = found.update(processed=False, created=timezone.now() - timedelta(seconds=10), updated=timezone.now() - timedelta(seconds=10), event=None)
        Event.objects.filter(id=event_id).delete()
    return count


def webhooks_purge(before: datetime) -> int:
    return WebhookEventTrigger.objects.filter(created__lt=before).delete()[0]


def mirror_owner(customer_id: str, tenant_id: str) -> None:
    """The mirror's customer belongs to the tenant that our own row says, whatever an event claims."""
    MirroredCustomer.objects.filter(id=customer_id).exclude(subscriber_id=tenant_id).update(subscriber_id=tenant_id)
