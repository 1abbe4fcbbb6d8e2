"""Invoices, their payment, and what is given back."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import stripe

from apps.billing.facts import InvoiceFact, LineFact
from apps.billing.stripe.client import calling, moment, once, plain_id, tax


def invoice_fact(found: stripe.Invoice) -> InvoiceFact:
    data = json.loads(str(found))
    times = data.get("status_transitions") or {}
    parent = (data.get("parent") or {}).get("subscription_details") or {}
    payments = ((data.get("payments") or {}).get("data") or [{}])[0].get("payment") or {}
    taxed = sum(t["amount"] for t in data.get("total_taxes") or [])
    return InvoiceFact(
        id=data.get("id") or "", customer_id=plain_id(data["customer"]), subscription_id=plain_id(parent.get("subscription")), number=data.get("number") or "",
        status=data.get("status") or "draft", reason=data.get("billing_reason") or "", currency=data["currency"], subtotal=data["subtotal"], tax=taxed,
        total=data["total"], due=data["amount_due"], paid=data.get("amount_paid") or 0, attempts=data.get("attempt_count") or 0,
        starts=moment(data["period_start"]), ends=moment(data["period_end"]), created_at=moment(data["created"]), finalized_at=moment(times.get("finalized_at")),
        next_attempt_at=moment(data.get("next_payment_attempt")), lines=tuple(_line(row) for row in data["lines"]["data"]),
        payment_intent_id=plain_id(payments.get("payment_intent")),
    )  # fmt: skip


def _line(row: dict) -> LineFact:
    parent = row.get("parent") or {}
    item, of = parent.get("invoice_item_details") or {}, parent.get("subscription_item_details") or {}
    price = ((row.get("pricing") or {}).get("price_details") or {}).get("price")
    return LineFact(row["id"], row.get("description") or "", row["amount"], row.get("quantity") or 1, bool(item.get("proration") or of.get("proration")),
                    moment(row["period"]["start"]), moment(row["period"]["end"]), plain_id(item.get("invoice_item")), plain_id(price))  # fmt: skip


def invoice_get(invoice_id: str) -> InvoiceFact:
    """With all of its lines."""
    with calling():
        found = stripe.Invoice.retrieve(invoice_id, expand=["payments"])
        if found.lines.has_more:
            found.lines.data = list(stripe.Invoice.list_lines(invoice_id, limit=100).auto_paging_iter())
    return invoice_fact(found)


def invoices_of(customer_id: str, limit: int = 100) -> list[str]:
    with calling():
        return [found.id for found in stripe.Invoice.list(customer=customer_id, limit=limit).data]


def invoice_make(customer_id: str, *, currency: str, key: str) -> str:
    """An empty draft that is collected by itself when it is finalised."""
    with calling():
        return stripe.Invoice.create(customer=customer_id, currency=currency, auto_advance=True, pending_invoice_items_behavior="exclude",
                                     idempotency_key=once("invoice", customer_id, key), **tax()).id  # fmt: skip


def invoice_item_add(customer_id: str, invoice_id: str, *, cents: int, currency: str, text: str, starts: datetime, ends: datetime, key: str) -> str:
    """A line on a draft. Raises BadRequest when it is finalised already."""
    with calling():
        return stripe.InvoiceItem.create(customer=customer_id, invoice=invoice_id, amount=cents, currency=currency, description=text,
                                         period={"start": int(starts.timestamp()), "end": int(ends.timestamp())}, idempotency_key=once("item", invoice_id, key)).id  # fmt: skip


def invoice_finalize(invoice_id: str) -> InvoiceFact:
    with calling():
        return invoice_fact(stripe.Invoice.finalize_invoice(invoice_id, auto_advance=True))


def invoice_void(invoice_id: str) -> InvoiceFact:
    """An open one that nobody owes any more."""
    with calling():
        return invoice_fact(stripe.Invoice.void_invoice(invoice_id))


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
