"""Invoices: usage lines from the ledger, the provider's copy of an invoice, and what is given back. Called with the public schema bound or the tenant's."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from fractions import Fraction

from django.db import transaction
from django.utils import timezone

from apps.audit.services import audit_record
from apps.billing import stripe
from apps.billing.facts import InvoiceFact
from apps.billing.models import Adjustment, Invoice, InvoiceLine, Subscription
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict
from apps.tenants.context import bound
from apps.usage.accounts import period_close
from apps.usage.models import ClosedPeriod

log = logging.getLogger("vivavoce.billing")
MICROS_A_CENT = 10_000
UNITS = {"session_ms": (60_000, "minutes of sessions"), "audio_in_ms": (60_000, "minutes of audio heard"), "audio_out_ms": (60_000, "minutes of audio spoken"),
         "tokens_in": (1, "tokens read"), "tokens_out": (1, "tokens written"), "characters": (1, "characters spoken"), "requests": (1, "requests")}  # fmt: skip
Kind = InvoiceLine.Kind


def rounded(value: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    return (1 if value >= 0 else -1) * ((2 * abs(value.numerator) + value.denominator) // (2 * value.denominator))


def line_amounts(quantity: int, included: int, rate: int | list[int]) -> tuple[int, int]:
    """(micro-units, cents) of a usage line, each rounded once from the exact amount."""
    micros, units = (rate, 1) if isinstance(rate, int) else rate
    exact = Fraction(max(0, quantity - included) * micros, units)
    return rounded(exact), rounded(exact / MICROS_A_CENT)


def say(meter: str, quantity: int) -> str:
    size, words = UNITS.get(meter, (1, meter))
    return f"{quantity / size:,.2f} {words}" if size > 1 else f"{quantity:,} {words}"


# Usage


def usage_close(row: Subscription, ends: datetime) -> None:
    """Close the tenant's metered period at `ends` and make its lines; they wait for an invoice. Safe to repeat."""
    with bound(row.tenant):
        try:
            closed = period_close(ends=ends)
        except Conflict as error:  # a period that began later is open already: events out of order, or a clock that went back
            log.warning("tenant %s: %s", row.tenant_id, error.message)
            return
        lines_make(row, closed)


def lines_make(row: Subscription, closed: ClosedPeriod) -> None:
    currency, starts = closed.currency or row.currency or "usd", closed.starts or row.usage_start
    lines = []
    for meter, quantity in sorted(closed.totals.items()):
        rate, included = closed.rates.get(meter, 0), min(quantity, int(closed.included.get(meter, 0)))
        micros, cents = line_amounts(quantity, included, rate)
        rate_micros, rate_units = (rate, 1) if isinstance(rate, int) else rate
        free = included if rate_micros else quantity
        text = say(meter, quantity) + (f", {say(meter, free).split(' ')[0]} of them included" if rate_micros and included else "")
        lines.append(InvoiceLine(tenant_id=row.tenant_id, kind=Kind.USAGE, description=text, currency=currency, meter=meter, period=closed.number, quantity=quantity,
                                 included=included, rate_micros=rate_micros, rate_units=rate_units, amount_micros=micros, amount_cents=cents,
                                 starts=min(starts, closed.ends), ends=closed.ends))  # fmt: skip
    InvoiceLine.objects.bulk_create(lines, ignore_conflicts=True)


def lines_waiting(row: Subscription):
    return InvoiceLine.objects.filter(tenant_id=row.tenant_id, kind=Kind.USAGE, invoice=None)


def lines_stranded(now: datetime):
    """Tenants with usage lines that no invoice took within two hours."""
    return InvoiceLine.objects.filter(kind=Kind.USAGE, invoice=None, ends__lt=now - timedelta(hours=2)).values_list("tenant_id", flat=True).distinct()[:1000]


def usage_attach(row: Subscription, invoice: Invoice) -> None:
    """Put what waits on a draft; the provider gets the lines that cost something. Lines in another currency wait on."""
    for line in lines_waiting(row).filter(currency=invoice.currency):
        if line.amount_cents:
            line.provider_id = stripe.invoice_item_add(row.customer_id, invoice.provider_id, cents=line.amount_cents, currency=line.currency, text=line.description,
                                                       starts=line.starts, ends=line.ends, key=f"{row.tenant_id}:{line.period}:{line.meter}")  # fmt: skip
        line.invoice = invoice
        line.save(update_fields=["invoice", "provider_id"])


def usage_collect(row: Subscription) -> None:
    """An invoice of its own for what waits, where no other comes: a statement when nothing is to be paid."""
    for currency in sorted(set(lines_waiting(row).values_list("currency", flat=True))):
        waiting = lines_waiting(row).filter(currency=currency)
        owed = sum(waiting.values_list("amount_cents", flat=True))
        if owed and row.customer_id:
            key = "-".join(f"{line.period}.{line.meter}" for line in waiting)
            invoice = invoice_sync(row, stripe.invoice_get(stripe.invoice_make(row.customer_id, currency=currency, key=key)))
            if invoice.finalized_at is None:
                usage_attach(row, invoice)
                invoice_sync(row, stripe.invoice_finalize(invoice.provider_id))
        elif waiting.exists():
            statement_make(row, list(waiting), currency)


@transaction.atomic
def statement_make(row: Subscription, lines: list[InvoiceLine], currency: str) -> Invoice:
    """What was used in a period that costs nothing, in the shape of an invoice."""
    starts, ends = min(line.starts for line in lines), max(line.ends for line in lines)
    number = f"S-{row.tenant.slug[:24].upper()}-{max(line.period for line in lines):04}"
    invoice = Invoice.objects.create(tenant=row.tenant, reason="statement", currency=currency, status=Invoice.Status.PAID, starts=starts, ends=ends, number=number,
                                     created_at=timezone.now(), bill_to=bill_to(row))  # fmt: skip
    InvoiceLine.objects.filter(pk__in=[line.pk for line in lines]).update(invoice=invoice)
    Invoice.objects.filter(pk=invoice.pk).update(finalized_at=timezone.now())
    return invoice


def bill_to(row: Subscription) -> dict:
    return {"name": row.tax.get("name") or row.tenant.name, "email": row.tenant.email,
            **{n: row.tax[n] for n in ("country", "postal_code", "tax_id") if row.tax.get(n)}}  # fmt: skip


# The provider's invoices


@transaction.atomic
def invoice_sync(row: Subscription, fact: InvoiceFact) -> Invoice:
    """Our copy as the provider has it now. What is finalised only learns how far it is paid."""
    paid = {"status": fact.status, "due_cents": fact.due - fact.paid if fact.status == "open" else 0, "paid_cents": fact.paid, "attempts": fact.attempts,
            "next_attempt_at": fact.next_attempt_at}  # fmt: skip
    invoice = Invoice.objects.select_for_update().filter(provider_id=fact.id).first()
    if invoice is None:
        invoice = Invoice(tenant_id=row.tenant_id, provider_id=fact.id, created_at=fact.created_at)
    elif invoice.tenant_id != row.tenant_id:
        raise Conflict(f"invoice {fact.id} belongs to another workspace")
    elif invoice.finalized_at is not None:
        Invoice.objects.filter(pk=invoice.pk).update(**paid)
        invoice.refresh_from_db()
        return invoice
    values = {**paid, "number": fact.number, "reason": fact.reason, "currency": fact.currency, "subtotal_cents": fact.subtotal, "tax_cents": fact.tax,
              "total_cents": fact.total, "starts": fact.starts, "ends": fact.ends, "bill_to": bill_to(row)}  # fmt: skip
    for name, value in values.items():
        setattr(invoice, name, value)
    invoice.save()
    _lines_sync(invoice, fact)
    if fact.finalized_at is not None:
        invoice.finalized_at = fact.finalized_at
        invoice.save(update_fields=["finalized_at"])
    return invoice


def _lines_sync(invoice: Invoice, fact: InvoiceFact) -> None:
    """The lines that are not usage, anew. A usage line the provider lacks has waited for a draft that went on without it: it waits on."""
    invoice.lines.exclude(kind=Kind.USAGE).delete()
    ours = set(invoice.lines.exclude(provider_id="").values_list("provider_id", flat=True))
    there = {line.item_id for line in fact.lines if line.item_id}
    if fact.finalized_at is not None:
        invoice.lines.filter(kind=Kind.USAGE).exclude(provider_id="").exclude(provider_id__in=there).update(invoice=None, provider_id="")
    for line in fact.lines:
        if line.item_id in ours and line.item_id:
            continue
        kind = Kind.PRORATION if line.proration else Kind.PLAN if line.price_id else Kind.OTHER
        InvoiceLine.objects.create(tenant_id=invoice.tenant_id, invoice=invoice, kind=kind, description=line.description[:300], currency=invoice.currency,
                                   quantity=line.quantity, amount_micros=line.amount * MICROS_A_CENT, amount_cents=line.amount, starts=line.starts, ends=line.ends,
                                   provider_id=line.id)  # fmt: skip


# What is given back


def invoice_credit(*, invoice: Invoice, row: Subscription, cents: int, reason: str, refund: bool, actor: Actor) -> Adjustment:
    """A credit note on a finalised invoice; `refund`: what was paid goes back to the card, else to the balance. Raises BadRequest, Conflict."""
    actor.require("platform")
    if not reason.strip():
        raise BadRequest("say why: the customer reads it", param="reason")
    with transaction.atomic():
        invoice = Invoice.objects.select_for_update().get(pk=invoice.pk)
        if invoice.finalized_at is None or not invoice.provider_id:
            raise Conflict(f"invoice {invoice} is a {'draft' if invoice.provider_id else 'statement'}: there is nothing to credit")
        left = invoice.total_cents - sum(invoice.adjustments.filter(kind=Adjustment.Kind.CREDIT_NOTE).values_list("amount_cents", flat=True))
        if not 0 < cents <= left:
            raise BadRequest(f"{cents} cents: expected 1 to {left}, what is left of the invoice", param="amount_cents")
        paid = invoice.status == Invoice.Status.PAID
        if refund and not paid:
            raise Conflict(f"invoice {invoice} is not paid; a credit note without a refund lowers what is due")
        count, reason = invoice.adjustments.count(), reason.strip()[:300]
        refund_id = ""
        common = {"tenant_id": invoice.tenant_id, "invoice": invoice, "amount_cents": cents, "currency": invoice.currency, "reason": reason}
        if refund:
            refund_id = stripe.refund_make(stripe.invoice_get(invoice.provider_id).payment_intent_id, cents=cents, key=f"{invoice.id}:{count}")
            Adjustment.objects.create(**common, kind=Adjustment.Kind.REFUND, provider_id=refund_id)
            Invoice.objects.filter(pk=invoice.pk).update(refunded_cents=invoice.refunded_cents + cents)
        note_id = stripe.credit_note_make(invoice.provider_id, cents=cents, reason=reason, refund_id=refund_id, to_balance=paid and not refund, key=f"{invoice.id}:{count}")
        note = Adjustment.objects.create(**common, kind=Adjustment.Kind.CREDIT_NOTE, provider_id=note_id)
        with bound(row.tenant):
            audit_record(actor=actor, action="invoice.credited", target=invoice.id, after={"amount_cents": cents, "refund": refund, "reason": reason})
    invoice_sync(row, stripe.invoice_get(invoice.provider_id))
    return note


@transaction.atomic
def credit_give(*, row: Subscription, cents: int, reason: str, actor: Actor) -> Adjustment:
    """A balance that the next invoices use up. Raises BadRequest, Conflict."""
    actor.require("platform")
    if not row.customer_id or not row.currency:
        raise Conflict("this workspace has bought nothing yet; a credit needs a customer with a currency")
    if not 0 < cents <= 10**9 or not reason.strip():
        raise BadRequest("a credit needs an amount from 1 cent and a reason", param="amount_cents")
    count = Adjustment.objects.filter(tenant_id=row.tenant_id, kind=Adjustment.Kind.CREDIT).count()
    made = stripe.credit_give(row.customer_id, cents=cents, currency=row.currency, reason=reason[:300], key=f"{row.tenant_id}:{count}")
    with bound(row.tenant):
        audit_record(actor=actor, action="credit.given", target=row.tenant_id, after={"amount_cents": cents, "currency": row.currency, "reason": reason[:300]})
    return Adjustment.objects.create(tenant_id=row.tenant_id, kind=Adjustment.Kind.CREDIT, amount_cents=cents, currency=row.currency, reason=reason[:300], provider_id=made)
