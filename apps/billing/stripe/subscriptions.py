"""Products, prices and subscriptions, and what a change will cost."""

from __future__ import annotations

from typing import Any

import stripe

from apps.billing.facts import ItemFact, Preview, SubscriptionFact
from apps.billing.stripe.client import NEEDS_CONFIRMATION, calling, id_of, moment, once, tax
from apps.billing.stripe.invoices import invoice_fact


def product_make(*, key: str, name: str, about: str) -> str:
    with calling():
        values = {"name": name, "metadata": {"version": key}, **({"description": about} if about else {})}
        return stripe.Product.create(**values, idempotency_key=once("product", key, name, about)).id


def price_make(*, product_id: str, currency: str, interval: str, cents: int) -> str:
    with calling():
        return stripe.Price.create(product=product_id, currency=currency, unit_amount=cents, recurring={"interval": interval},
                                   idempotency_key=once("price", product_id, currency, interval, cents)).id  # fmt: skip


def _fact(sub: stripe.Subscription) -> SubscriptionFact:
    items = list(sub["items"].data)
    first = items[0]
    latest = sub.latest_invoice
    return SubscriptionFact(
        id=sub.id, customer_id=id_of(sub.customer), status=sub.status, period_start=moment(first.current_period_start), period_end=moment(first.current_period_end),
        items=tuple(ItemFact(i.id, i.price.id, i.quantity or 1) for i in items), trial_end=moment(sub.trial_end), ended_at=moment(sub.ended_at),
        cancel_at_period_end=bool(sub.cancel_at_period_end), latest_invoice_id=id_of(latest) if latest else "",
    )  # fmt: skip


def subscription_make(customer_id: str, *, items: list[tuple[str, int]], trial_days: int = 0, key: str) -> SubscriptionFact:
    """Begin and charge at once. Raises PaymentRequired and changes nothing when the card is declined; a card that wants confirmation
    gives one that is `incomplete`: its invoice waits for `payment_confirmation`."""
    values: dict[str, Any] = {"customer": customer_id, "items": [{"price": p, "quantity": q} for p, q in items], **tax()}
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
        fact = invoice_fact(stripe.Invoice.create_preview(customer=customer_id, subscription=subscription_id, subscription_details=details, **tax()))
    at = at or next((int(line.starts.timestamp()) for line in fact.lines if line.proration), 0)
    return Preview(fact.currency, fact.due, fact.total, fact.tax, at, fact.lines)


def new_preview(customer_id: str, *, items: list[tuple[str, int]]) -> Preview:
    with calling():
        details = {"items": [{"price": p, "quantity": q} for p, q in items]}
        fact = invoice_fact(stripe.Invoice.create_preview(customer=customer_id, subscription_details=details, **tax()))
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
