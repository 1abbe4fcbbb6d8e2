"""Invoices: draft, finalise, collect, pay, void. An invoice never changes after it is finalised but for its payment."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.lines import pending_items, pending_line, totals, usage_amount
from tools.billing_sandbox.payments import OUTCOMES, intent_attempt, intent_make
from tools.billing_sandbox.resources.coupons import still_valid
from tools.billing_sandbox.resources.customers import balance_add
from tools.billing_sandbox.resources.meters import aggregated
from tools.billing_sandbox.sandbox import Sandbox, columns, included, listing, timer, view

RETRY_DAYS = [3, 5, 7]
DRAFT_S = 3600  # a renewal's draft takes late usage for one hour before it is finalised
INVOICE = {"draft": {"open", "deleted"}, "open": {"paid", "void", "uncollectible"}, "uncollectible": {"paid", "void"}, "paid": set(), "void": set()}
REACTIONS: list[Callable[[Sandbox, dict, dict, str], None]] = []  # told (subscription, invoice, "paid" | "failed")


class PreviewReady(Exception):
    """Raised instead of taking money while a preview is made; carries the invoice."""

    def __init__(self, invoice: dict):
        super().__init__()
        self.invoice = invoice


def move(invoice: dict, status: str) -> None:
    """Raises StripeError on a move the state machine does not have."""
    if status not in INVOICE[invoice["status"]]:
        raise StripeError(f"This invoice is {invoice['status']}; it cannot become {status}.", None, "invoice_not_editable")
    invoice["status"] = status


@columns("invoice")
def _columns(invoice: dict) -> dict:
    return {"subscription": subscription_of(invoice)}


def subscription_of(invoice: dict) -> str | None:
    return ((invoice["parent"] or {}).get("subscription_details") or {}).get("subscription")


def draft(sandbox: Sandbox, customer: dict, *, currency: str, reason: str, lines: list[dict], subscription: dict | None = None, start: int | None = None,
          end: int | None = None, pending: bool = True, **fields) -> dict:  # fmt: skip
    """A new draft with `lines` and the customer's pending items; saved, not yet announced."""
    now, source = sandbox.now(), subscription or {}
    details = {"metadata": source.get("metadata", {}), "subscription": source.get("id")}
    invoice = {
        "id": sandbox.new_id("in"), "object": "invoice", "account_country": "US", "account_name": "Billing sandbox", "account_tax_ids": None,
        "amount_due": 0, "amount_overpaid": 0, "amount_paid": 0, "amount_paid_off_stripe": 0, "amount_remaining": 0, "amount_shipping": 0,
        "application": None, "attempt_count": 0, "attempted": False, "auto_advance": subscription is not None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None, "provider": None, "status": None},
        "automatically_finalizes_at": None, "billing_reason": reason, "collection_method": source.get("collection_method", "charge_automatically"),
        "created": now, "currency": currency, "custom_fields": None, "customer": customer["id"], "customer_account": None,
        "customer_address": customer["address"], "customer_email": customer["email"], "customer_name": customer["name"], "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"], "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [{"type": t["type"], "value": t["value"]} for t in sandbox.find("tax_id", customer=customer["id"])],
        "default_payment_method": None, "default_source": None, "default_tax_rates": source.get("default_tax_rates", []), "description": None,
        "discounts": _discounts(sandbox, customer, source), "due_date": None, "effective_at": None, "ending_balance": None,
        "footer": customer["invoice_settings"]["footer"], "from_invoice": None, "hosted_invoice_url": None, "invoice_pdf": None, "issuer": {"type": "self"},
        "last_finalization_error": None, "latest_revision": None, "livemode": False, "metadata": {}, "next_payment_attempt": None, "number": None,
        "on_behalf_of": None, "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"} if subscription else None,
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None}, "period_end": end or now,
        "period_start": start or now, "post_payment_credit_notes_amount": 0, "pre_payment_credit_notes_amount": 0, "receipt_number": None, "rendering": None,
        "shipping_cost": None, "shipping_details": None, "starting_balance": 0, "statement_descriptor": None, "status": "draft",
        "status_transitions": {"finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None}, "subtotal": 0,
        "subtotal_excluding_tax": 0, "test_clock": None, "total": 0, "total_discount_amounts": [], "total_excluding_tax": 0,
        "total_pretax_credit_amounts": [], "total_taxes": [], "webhooks_delivered_at": None, "_lines": lines, "_intent": None,
        "_days_until_due": source.get("days_until_due"),
    } | fields  # fmt: skip
    if pending:
        _take_pending(sandbox, invoice, source.get("id"))
    totals(sandbox, invoice)
    return sandbox.save(invoice)


def _discounts(sandbox: Sandbox, customer: dict, subscription: dict) -> list[str]:
    """The subscription's discounts, else the customer's."""
    ids = subscription.get("discounts") or ([customer["discount"]] if customer["discount"] else [])
    return [id for id in ids if still_valid(sandbox, sandbox.store.get(id))]


def _take_pending(sandbox: Sandbox, invoice: dict, subscription: str | None) -> None:
    taken = []
    for item in pending_items(sandbox, invoice["customer"], subscription):
        if item["currency"] == invoice["currency"]:
            sandbox.save(item | {"invoice": invoice["id"]})
            taken.append(pending_line(sandbox, item))
    invoice["_lines"] = taken + invoice["_lines"]


def measure(sandbox: Sandbox, invoice: dict) -> None:
    """Bring the metered lines of a draft up to date: usage that came late is still taken."""
    for line in invoice["_lines"]:
        if metered := line.get("_metered"):
            price = sandbox.store.get(metered["price"])
            quantity = aggregated(sandbox, sandbox.store.get(price["recurring"]["meter"]), invoice["customer"], metered["start"], metered["end"])
            amount = usage_amount(price, quantity)
            line |= {"quantity": int(quantity), "quantity_decimal": f"{Decimal(quantity).normalize():f}", "amount": amount,
                     "description": f"{int(quantity)} × {metered['name']}"}  # fmt: skip
    totals(sandbox, invoice)


def hold(sandbox: Sandbox, invoice: dict) -> None:
    """Announce a renewal's draft and let it be finalised after DRAFT_S."""
    invoice["automatically_finalizes_at"] = sandbox.now() + DRAFT_S
    sandbox.save(invoice, "invoice.created")
    sandbox.timer(invoice, "finalize", invoice["automatically_finalizes_at"])


@timer("finalize")
def _finalize_due(sandbox: Sandbox, invoice: dict) -> None:
    if invoice["status"] == "draft" and invoice["auto_advance"]:
        finalize(sandbox, invoice)
        collect(sandbox, invoice)


def finalize(sandbox: Sandbox, invoice: dict) -> dict:
    """draft -> open (or paid when nothing is due): number, balance, payment intent. Raises PreviewReady in a preview."""
    measure(sandbox, invoice)
    if sandbox.previewing:
        raise PreviewReady(invoice)
    now = sandbox.now()
    move(invoice, "open")
    customer = sandbox.store.get(invoice["customer"])
    invoice["number"] = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}"
    customer |= {"next_invoice_sequence": customer["next_invoice_sequence"] + 1, "currency": customer["currency"] or invoice["currency"]}
    sandbox.save(customer)
    balance_add(sandbox, customer, invoice["ending_balance"] - invoice["starting_balance"], "applied_to_invoice", invoice=invoice["id"])
    for id in invoice["discounts"]:
        sandbox.save(sandbox.store.get(id) | {"_used": True})
    invoice |= {"effective_at": now, "automatically_finalizes_at": None, "hosted_invoice_url": f"{sandbox.base_url}/_sandbox/invoice?id={invoice['id']}"}
    invoice["status_transitions"]["finalized_at"] = now
    if invoice["collection_method"] == "send_invoice":
        invoice["due_date"] = now + (invoice["_days_until_due"] or 30) * 86_400
    if invoice["amount_due"] > 0:
        intent = intent_make(sandbox, amount=invoice["amount_due"], currency=invoice["currency"], customer=invoice["customer"], invoice=invoice["id"],
                             description="Subscription creation" if invoice["billing_reason"] == "subscription_create" else f"Invoice {invoice['number']}")  # fmt: skip
        invoice["_intent"] = intent["id"]
        sandbox.save({"id": sandbox.new_id("inpay"), "object": "invoice_payment", "amount_paid": None, "amount_requested": invoice["amount_due"],
                      "created": now, "currency": invoice["currency"], "invoice": invoice["id"], "is_default": True, "livemode": False,
                      "payment": {"payment_intent": intent["id"], "type": "payment_intent"}, "status": "open",
                      "status_transitions": {"canceled_at": None, "paid_at": None}})  # fmt: skip
    sandbox.save(invoice)
    sandbox.emit("invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        mark_paid(sandbox, invoice, 0)
    return invoice


def payment_method_for(sandbox: Sandbox, invoice: dict) -> dict | None:
    """The invoice's own, else the subscription's, else the customer's default."""
    subscription = sandbox.store.get(subscription_of(invoice) or "") or {}
    customer = sandbox.store.get(invoice["customer"])
    chosen = invoice["default_payment_method"] or subscription.get("default_payment_method") or customer["invoice_settings"]["default_payment_method"]
    return sandbox.store.get(chosen) if chosen else None


def collect(sandbox: Sandbox, invoice: dict, method: dict | None = None, off_session: bool = True) -> dict:
    """One attempt to charge an open invoice; how it ended shows in its status. Nothing is raised."""
    if invoice["status"] != "open" or (invoice["collection_method"] == "send_invoice" and method is None):
        return invoice
    method = method or payment_method_for(sandbox, invoice)
    if method is None:
        _failed(sandbox, invoice, "invoice.payment_failed")
    else:
        intent_attempt(sandbox, sandbox.store.get(invoice["_intent"]), method, off_session=off_session)
    return sandbox.reload(invoice)


def _heard(sandbox: Sandbox, intent: dict) -> None:
    """How an attempt on an invoice's payment intent ended."""
    invoice = sandbox.store.get(intent.get("_invoice") or "")
    if invoice is None or invoice["status"] not in ("open", "uncollectible"):
        return
    if intent["status"] == "succeeded":
        mark_paid(sandbox, invoice, intent["amount_received"])
    elif intent["status"] == "requires_action":
        _failed(sandbox, invoice, "invoice.payment_action_required")
    else:
        _failed(sandbox, invoice, "invoice.payment_failed")


OUTCOMES.append(_heard)


def _failed(sandbox: Sandbox, invoice: dict, event: str) -> None:
    """An attempt did not bring the money: count it and plan the next (`retry_days` of the settings, from each failure to the next attempt)."""
    invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
    days = sandbox.store.setting("retry_days", RETRY_DAYS)
    retries = invoice["auto_advance"] and invoice["billing_reason"] != "subscription_create" and invoice["attempt_count"] <= len(days)
    invoice["next_payment_attempt"] = sandbox.now() + days[invoice["attempt_count"] - 1] * 86_400 if retries else None
    sandbox.timer(invoice, "retry", invoice["next_payment_attempt"])
    sandbox.save(invoice, event)
    _react(sandbox, invoice, "failed")


@timer("retry")
def _retry(sandbox: Sandbox, invoice: dict) -> None:
    collect(sandbox, invoice)


def _react(sandbox: Sandbox, invoice: dict, outcome: str) -> None:
    subscription = sandbox.store.get(subscription_of(invoice) or "")
    if subscription is not None:
        for react in REACTIONS:
            react(sandbox, subscription, invoice, outcome)


def mark_paid(sandbox: Sandbox, invoice: dict, amount: int) -> dict:
    """`amount`: cents that came by card; 0 also for one that was settled outside."""
    move(invoice, "paid")
    now = sandbox.now()
    outside = invoice["amount_remaining"] - amount
    invoice |= {"attempted": True, "amount_paid": invoice["amount_due"], "amount_remaining": 0, "next_payment_attempt": None, "amount_paid_off_stripe": outside}
    invoice["attempt_count"] += 1 if amount else 0
    invoice["status_transitions"]["paid_at"] = now
    for payment in sandbox.find("invoice_payment", invoice=invoice["id"]):
        paid = {"status": "paid", "amount_paid": amount} if amount else {"status": "canceled"}
        sandbox.save(payment | paid | {"status_transitions": {"canceled_at": None if amount else now, "paid_at": now if amount else None}}, "invoice_payment.paid" if amount else "")
    _drop_intent(sandbox, invoice)
    sandbox.timer(invoice, "retry", None)
    sandbox.save(invoice, "invoice.paid")
    sandbox.emit("invoice.payment_succeeded", invoice)
    _react(sandbox, invoice, "paid")
    return sandbox.reload(invoice)


def _drop_intent(sandbox: Sandbox, invoice: dict) -> None:
    """Cancel what is left of the invoice's payment intent."""
    intent = sandbox.store.get(invoice["_intent"] or "")
    if intent is not None and intent["status"] not in ("succeeded", "canceled"):
        sandbox.save(intent | {"status": "canceled", "canceled_at": sandbox.now(), "cancellation_reason": "void_invoice", "next_action": None}, "payment_intent.canceled")


def void(sandbox: Sandbox, invoice: dict) -> dict:
    """What the customer's balance gave is given back."""
    move(invoice, "void")
    invoice["status_transitions"]["voided_at"] = sandbox.now()
    invoice |= {"next_payment_attempt": None, "auto_advance": False}
    sandbox.timer(invoice, "retry", None)
    balance_add(sandbox, sandbox.store.get(invoice["customer"]), invoice["starting_balance"] - invoice["ending_balance"], "unapplied_from_invoice", invoice=invoice["id"])
    _drop_intent(sandbox, invoice)
    return sandbox.save(invoice, "invoice.voided")


@view("invoice")
def _view(sandbox: Sandbox, invoice: dict) -> dict:
    lines = [{k: v for k, v in line.items() if not k.startswith("_")} for line in invoice["_lines"]]
    shown = lines if invoice.get("_preview") else lines[:10]  # nobody can ask for more lines of a preview
    return invoice | {"lines": listing(shown, f"/v1/invoices/{invoice['id']}/lines", len(shown) < len(lines)) | {"total_count": len(lines)}}


@included("invoice", "payments")
def _payments(sandbox: Sandbox, invoice: dict) -> dict:
    return listing(sandbox.find("invoice_payment", invoice=invoice["id"]), "/v1/invoice_payments")


@included("invoice", "confirmation_secret")
def _confirmation_secret(sandbox: Sandbox, invoice: dict) -> dict | None:
    intent = sandbox.store.get(invoice["_intent"] or "")
    return {"client_secret": intent["client_secret"], "type": "payment_intent"} if intent else None
