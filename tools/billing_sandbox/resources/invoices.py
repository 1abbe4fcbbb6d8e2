"""Invoices: what a caller may ask for. How they come about by themselves is in lifecycle.py, what they do in invoicing.py."""

from __future__ import annotations

from tools.billing_sandbox import changes, invoicing, lifecycle
from tools.billing_sandbox.cards import decline
from tools.billing_sandbox.errors import CardError, StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.preview import preview
from tools.billing_sandbox.resources.coupons import discounts_make
from tools.billing_sandbox.resources.customers import search
from tools.billing_sandbox.resources.payment_methods import method_resolve
from tools.billing_sandbox.resources.subscriptions import subscription_create
from tools.billing_sandbox.resources.tax_rates import rates_named
from tools.billing_sandbox.sandbox import CURRENCIES, Sandbox, listing, route


@route("POST", "/v1/invoices")
def invoice_create(sandbox: Sandbox, params: Params) -> dict:
    """A one-off invoice; with pending_invoice_items_behavior=include it takes the customer's pending items."""
    customer = sandbox.get("customer", params.text("customer", required=True), "customer")
    pending = params.text("pending_invoice_items_behavior", "exclude", choices=("include", "exclude")) == "include"
    subscription = params.text("subscription")
    source = sandbox.get("subscription", subscription, "subscription") if subscription else None
    invoice = invoicing.draft(
        sandbox, customer, currency=params.text("currency", customer["currency"] or "usd", choices=CURRENCIES), reason="manual", lines=[], pending=pending,
        subscription=source, auto_advance=params.boolean("auto_advance", False), description=params.text("description"), metadata=params.mapping("metadata"),
        collection_method=params.text("collection_method", "charge_automatically", choices=("charge_automatically", "send_invoice")),
        default_tax_rates=rates_named(sandbox, params.texts("default_tax_rates"), "default_tax_rates"), footer=params.text("footer"),
        _days_until_due=params.integer("days_until_due", low=0),
    )  # fmt: skip
    if method := params.text("default_payment_method"):
        invoice["default_payment_method"] = method_resolve(sandbox, method, "default_payment_method")["id"]
    if "discounts" in params:
        invoice["discounts"] = discounts_make(sandbox, params.children("discounts"), customer["id"])
        invoicing.measure(sandbox, invoice)
    sandbox.save(invoice)
    if invoice["auto_advance"]:
        invoicing.hold(sandbox, invoice)
    else:
        sandbox.emit("invoice.created", invoice)
    return invoice


@route("POST", "/v1/invoices/create_preview")
def invoice_preview(sandbox: Sandbox, params: Params) -> dict:
    """The invoice that would follow: of the period's end as things stand, of a change (subscription_details), or of a new subscription."""
    details, subscription_id = params.child("subscription_details"), params.text("subscription")
    params.text("preview_mode", choices=("next",))
    customer_id = params.text("customer")
    if not subscription_id:
        return preview(sandbox, lambda: _begin(sandbox, params, details, sandbox.get("customer", customer_id, "customer")["id"]))
    subscription = sandbox.get("subscription", subscription_id, "subscription")
    if customer_id and subscription["customer"] != customer_id:
        raise StripeError("The subscription belongs to another customer.", "subscription")
    if subscription["status"] in lifecycle.ENDED:
        raise StripeError("No upcoming invoices for customer: the subscription has ended.", None, "invoice_upcoming_none")
    return preview(sandbox, lambda: _change(sandbox, subscription, details))


def _begin(sandbox: Sandbox, params: Params, details: Params, customer: str) -> None:
    """The first invoice of a subscription that does not exist yet."""
    values = {name: details._take(name) for name in ("items", "trial_end", "default_tax_rates", "billing_mode") if name in details}
    values |= {name: params._take(name) for name in ("discounts",) if name in params}
    subscription_create(sandbox, Params(values | {"customer": customer, "payment_behavior": "default_incomplete"}, "subscription_details"))


def _change(sandbox: Sandbox, subscription: dict, details: Params) -> None:
    if details.boolean("cancel_now", False):
        values = {"invoice_now": "true", "prorate": str(details.text("proration_behavior") != "none").lower()}
        changes.subscription_cancel(sandbox, subscription, Params(values))
        return
    subscription = changes.subscription_change(sandbox, subscription, details)
    lifecycle.next_invoice(sandbox, subscription)


@route("GET", "/v1/invoices/search")
def invoice_search(sandbox: Sandbox, params: Params) -> dict:
    return search(sandbox, params, "invoice")


@route("GET", "/v1/invoices/{id}")
def invoice_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("invoice", id)


@route("POST", "/v1/invoices/{id}")
def invoice_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    """After it is finalised only its metadata and how it is collected."""
    invoice = sandbox.get("invoice", id)
    for name in ("description", "footer"):
        if name in params:
            _editable(invoice)
            invoice[name] = params.text(name)
    if "default_tax_rates" in params:
        _editable(invoice)
        invoice["default_tax_rates"] = rates_named(sandbox, params.texts("default_tax_rates"), "default_tax_rates")
        invoicing.measure(sandbox, invoice)
    if "default_payment_method" in params:
        method = params.text("default_payment_method")
        invoice["default_payment_method"] = method_resolve(sandbox, method)["id"] if method else None
    if "auto_advance" in params:
        invoice["auto_advance"] = params.boolean("auto_advance")
        if invoice["status"] == "draft" and invoice["auto_advance"]:
            invoice["automatically_finalizes_at"] = sandbox.now() + invoicing.DRAFT_S
            sandbox.timer(invoice, "finalize", invoice["automatically_finalizes_at"])
    invoice["metadata"] = params.mapping("metadata", invoice["metadata"])
    return sandbox.save(invoice, "invoice.updated")


def _editable(invoice: dict) -> None:
    if invoice["status"] != "draft":
        raise StripeError("Finalized invoices can't be updated in this way.", None, "invoice_not_editable")


@route("DELETE", "/v1/invoices/{id}")
def invoice_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    invoice = sandbox.get("invoice", id)
    if invoice["status"] != "draft" or invoicing.subscription_of(invoice):
        raise StripeError("You can only delete draft invoices that are not of a subscription.", "id", "invoice_not_editable")
    for item in sandbox.find("invoiceitem", invoice=id):
        sandbox.store.remove(item["id"])
    sandbox.emit("invoice.deleted", invoice)
    sandbox.store.remove(id)
    return {"id": id, "object": "invoice", "deleted": True}


@route("POST", "/v1/invoices/{id}/finalize")
def invoice_finalize(sandbox: Sandbox, params: Params, id: str) -> dict:
    invoice = sandbox.get("invoice", id)
    if "auto_advance" in params:
        invoice["auto_advance"] = params.boolean("auto_advance")
    sandbox.timer(invoice, "finalize", None)
    invoicing.finalize(sandbox, invoice)
    if invoice["auto_advance"]:
        invoicing.collect(sandbox, invoice)
    return invoice


@route("POST", "/v1/invoices/{id}/pay")
def invoice_pay(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Raises CardError when the card is declined or needs its owner."""
    invoice = sandbox.get("invoice", id)
    if invoice["status"] == "draft":
        invoicing.finalize(sandbox, invoice)
    if invoice["status"] == "paid" and "paid_out_of_band" not in params:
        raise StripeError("Invoice is already paid", None, "invoice_already_paid")
    if params.boolean("paid_out_of_band", False):
        return invoicing.mark_paid(sandbox, invoice, 0)
    given = params.text("payment_method")
    off_session = params.boolean("off_session", True)
    params.boolean("forgive")
    if invoice["status"] not in ("open", "uncollectible"):
        raise StripeError(f"This invoice is {invoice['status']} and cannot be paid.", None, "invoice_not_editable")
    method = method_resolve(sandbox, given) if given else invoicing.payment_method_for(sandbox, invoice)
    if method is None:
        raise StripeError("There is no default_payment_method set on this Customer or Invoice. Please set a default_payment_method.", None, "resource_missing")
    invoicing.collect(sandbox, invoice, method, off_session)
    if invoice["status"] != "paid":
        intent = sandbox.store.get(invoice["_intent"])
        error = intent["last_payment_error"]
        if error is None:
            raise CardError("This payment requires additional user action before it can be completed successfully. Payment can be completed using the PaymentIntent "
                            "associated with the invoice.", None, "invoice_payment_intent_requires_action", payment_intent=sandbox.render(intent))  # fmt: skip
        raise decline(error["decline_code"], charge=error["charge"], payment_intent=sandbox.render(intent))
    return invoice


@route("POST", "/v1/invoices/{id}/void")
def invoice_void(sandbox: Sandbox, params: Params, id: str) -> dict:
    return invoicing.void(sandbox, sandbox.get("invoice", id))


@route("POST", "/v1/invoices/{id}/send")
def invoice_send(sandbox: Sandbox, params: Params, id: str) -> dict:
    """No mail leaves the sandbox; the invoice is finalised and `invoice.sent` says so."""
    invoice = sandbox.get("invoice", id)
    if invoice["status"] == "draft":
        invoicing.finalize(sandbox, invoice)
    sandbox.emit("invoice.sent", invoice)
    return invoice


@route("POST", "/v1/invoices/{id}/mark_uncollectible")
def invoice_write_off(sandbox: Sandbox, params: Params, id: str) -> dict:
    invoice = sandbox.get("invoice", id)
    invoicing.move(invoice, "uncollectible")
    invoice["status_transitions"]["marked_uncollectible_at"] = sandbox.now()
    invoice["next_payment_attempt"] = None
    sandbox.timer(invoice, "retry", None)
    return sandbox.save(invoice, "invoice.marked_uncollectible")


@route("GET", "/v1/invoices/{id}/lines")
def invoice_lines(sandbox: Sandbox, params: Params, id: str) -> dict:
    lines = [{k: v for k, v in line.items() if not k.startswith("_")} for line in sandbox.get("invoice", id)["_lines"]]
    limit, after, before = params.integer("limit", 10, low=1, high=100), params.text("starting_after"), params.text("ending_before")
    if after:
        lines = lines[next((i for i, line in enumerate(lines) if line["id"] == after), len(lines)) + 1 :]
    if before:
        lines = lines[: next((i for i, line in enumerate(lines) if line["id"] == before), 0)][-limit:]
    return listing(lines[:limit], f"/v1/invoices/{id}/lines", len(lines) > limit)


@route("GET", "/v1/invoices")
def invoice_list(sandbox: Sandbox, params: Params) -> dict:
    status, method, created = params.text("status"), params.text("collection_method"), sandbox.created_filter(params)

    def keep(invoice: dict) -> bool:
        return status in (None, invoice["status"]) and method in (None, invoice["collection_method"]) and created(invoice)

    return sandbox.page(params, "invoice", keep, customer=params.text("customer"), subscription=params.text("subscription"))


@route("GET", "/v1/invoice_payments")
def payment_list(sandbox: Sandbox, params: Params) -> dict:
    payment, status = params.child("payment"), params.text("status")
    payment.text("type")
    intent = payment.text("payment_intent")

    def keep(row: dict) -> bool:
        return intent in (None, row["payment"]["payment_intent"]) and status in (None, row["status"])

    return sandbox.page(params, "invoice_payment", keep, invoice=params.text("invoice"))


@route("GET", "/v1/invoice_payments/{id}")
def payment_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("invoice_payment", id)
