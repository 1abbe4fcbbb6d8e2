"""Credit notes: what is taken off a finalised invoice. Off what is open first; what was paid goes back to the card, the balance or outside."""

from __future__ import annotations

from tools.billing_sandbox import invoicing
from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.resources.customers import balance_add
from tools.billing_sandbox.resources.payment_intents import refund_make
from tools.billing_sandbox.sandbox import Sandbox, columns, listing, route, view

REASONS = ("duplicate", "fraudulent", "order_change", "product_unsatisfactory")


@columns("credit_note")
def _columns(note: dict) -> dict:
    return {"invoice": note["invoice"]}


@view("credit_note")
def _view(sandbox: Sandbox, note: dict) -> dict:
    return note | {"lines": listing(note["_lines"][:10], f"/v1/credit_notes/{note['id']}/lines", len(note["_lines"]) > 10)}


@route("POST", "/v1/credit_notes")
def note_create(sandbox: Sandbox, params: Params) -> dict:
    """Raises StripeError when it exceeds the invoice, or when the ways back do not sum to what was paid of it."""
    invoice = sandbox.get("invoice", params.text("invoice", required=True), "invoice")
    if invoice["status"] not in ("open", "paid"):
        raise StripeError(f"You can only create credit notes for open or paid invoices; this one is {invoice['status']}.", "invoice", "invoice_not_editable")
    lines = [_line(sandbox, invoice, row) for row in params.children("lines")]
    amount = params.integer("amount", low=1) if not lines else sum(line["amount"] for line in lines)
    if amount is None:
        raise missing("amount")
    if not lines:
        lines = [_custom(sandbox, params.text("memo") or "Credit", amount, 1, amount)]
    left = _credited_so_far(invoice)
    if amount > left:
        raise StripeError(f"The credit note's total ({amount}) exceeds what is left of the invoice ({left}).", "amount")
    before = min(amount, invoice["amount_remaining"]) if invoice["status"] == "open" else 0
    note = {
        "id": sandbox.new_id("cn"), "object": "credit_note", "amount": amount, "amount_shipping": 0, "created": sandbox.now(), "currency": invoice["currency"],
        "customer": invoice["customer"], "customer_account": None, "customer_balance_transaction": None, "discount_amount": 0, "discount_amounts": [],
        "effective_at": sandbox.now(), "invoice": invoice["id"], "livemode": False, "memo": params.text("memo"), "metadata": params.mapping("metadata"),
        "number": f"{invoice['number']}-CN-{len(sandbox.find('credit_note', invoice=invoice['id'])) + 1:02d}", "out_of_band_amount": None, "pdf": "",
        "post_payment_amount": amount - before, "pre_payment_amount": before, "pretax_credit_amounts": [],
        "reason": params.text("reason", choices=REASONS), "refunds": [], "shipping_cost": None, "status": "issued", "subtotal": amount,
        "subtotal_excluding_tax": amount, "total": amount, "total_excluding_tax": amount, "total_taxes": [], "voided_at": None,
        "type": "post_payment" if before == 0 else "pre_payment" if before == amount else "mixed", "_lines": lines,
    }  # fmt: skip
    sandbox.save(note)
    _give_back(sandbox, note, invoice, params, amount - before)
    invoice["pre_payment_credit_notes_amount"] += before
    invoice["post_payment_credit_notes_amount"] += amount - before
    invoice["amount_remaining"] -= before
    sandbox.save(invoice, "invoice.updated")
    if invoice["status"] == "open" and invoice["amount_remaining"] == 0:
        invoicing.mark_paid(sandbox, invoice, 0)
    elif before:
        intent = sandbox.store.get(invoice["_intent"])
        sandbox.save(intent | {"amount": invoice["amount_remaining"]})
    sandbox.save(note)
    sandbox.emit("credit_note.created", note)
    return note


def _credited_so_far(invoice: dict) -> int:
    return invoice["total"] - invoice["pre_payment_credit_notes_amount"] - invoice["post_payment_credit_notes_amount"]


def _line(sandbox: Sandbox, invoice: dict, row: Params) -> dict:
    type = row.text("type", choices=("custom_line_item", "invoice_line_item"), required=True)
    if type == "custom_line_item":
        unit, quantity = row.integer("unit_amount", low=0, required=True), row.integer("quantity", 1, low=1)
        return _custom(sandbox, row.text("description", required=True), unit, quantity, unit * quantity)
    id = row.text("invoice_line_item", required=True)
    source = next((line for line in invoice["_lines"] if line["id"] == id), None)
    if source is None:
        raise StripeError(f"No such invoice line: '{id}'", row.label("invoice_line_item"), "resource_missing")
    amount = row.integer("amount", source["amount"], low=1, high=max(1, source["amount"]))
    return _custom(sandbox, source["description"], None, row.integer("quantity", 1, low=1), amount) | {"type": type, "invoice_line_item": id}


def _custom(sandbox: Sandbox, description: str, unit: int | None, quantity: int, amount: int) -> dict:
    return {"id": sandbox.new_id("cnli"), "object": "credit_note_line_item", "amount": amount, "description": description, "discount_amount": 0,
            "discount_amounts": [], "livemode": False, "metadata": {}, "pretax_credit_amounts": [], "quantity": quantity, "tax_rates": [], "taxes": [],
            "type": "custom_line_item", "unit_amount": unit, "unit_amount_decimal": None if unit is None else str(unit)}  # fmt: skip


def _give_back(sandbox: Sandbox, note: dict, invoice: dict, params: Params, amount: int) -> None:
    """`amount` cents that were paid go back: refund_amount (a new refund), refunds (existing ones), credit_amount, out_of_band_amount."""
    refund, credit, outside = (params.integer(n, 0, low=0) for n in ("refund_amount", "credit_amount", "out_of_band_amount"))
    linked = [(sandbox.get("refund", row.text("refund", required=True), row.label("refund")), row.integer("amount_refunded", low=0)) for row in params.children("refunds")]
    sums = refund + credit + outside + sum(given if given is not None else found["amount"] for found, given in linked)
    if sums != amount:
        raise StripeError(f"The sum of credit_amount, refund_amount, out_of_band_amount and refunds ({sums}) must equal what was paid of it ({amount}).", "refund_amount")
    if refund:
        charge = sandbox.store.get(sandbox.store.get(invoice["_intent"])["latest_charge"])
        linked.append((refund_make(sandbox, charge, refund), refund))
    note["refunds"] = [{"amount_refunded": found["amount"] if given is None else given, "payment_record_refund": None, "refund": found["id"], "type": "refund"} for found, given in linked]
    if credit:
        row = balance_add(sandbox, sandbox.store.get(note["customer"]), -credit, "credit_note", credit_note=note["id"], description=note["memo"])
        note["customer_balance_transaction"] = row["id"]
    note["out_of_band_amount"] = outside or None


@route("POST", "/v1/credit_notes/{id}/void")
def note_void(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Only of one that took from an open invoice: what was given back stays given."""
    note = sandbox.get("credit_note", id)
    invoice = sandbox.get("invoice", note["invoice"])
    if note["status"] == "void" or note["post_payment_amount"] or invoice["status"] != "open":
        raise StripeError("This credit note can't be voided.", "id")
    invoice["pre_payment_credit_notes_amount"] -= note["amount"]
    invoice["amount_remaining"] += note["amount"]
    sandbox.save(sandbox.store.get(invoice["_intent"]) | {"amount": invoice["amount_remaining"]})
    sandbox.save(invoice, "invoice.updated")
    return sandbox.save(note | {"status": "void", "voided_at": sandbox.now()}, "credit_note.voided")


@route("GET", "/v1/credit_notes/{id}")
def note_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("credit_note", id)


@route("POST", "/v1/credit_notes/{id}")
def note_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    note = sandbox.get("credit_note", id)
    note |= {"memo": params.text("memo", note["memo"]), "metadata": params.mapping("metadata", note["metadata"])}
    return sandbox.save(note, "credit_note.updated")


@route("GET", "/v1/credit_notes/{id}/lines")
def note_lines(sandbox: Sandbox, params: Params, id: str) -> dict:
    limit = params.integer("limit", 10, low=1, high=100)
    rows = sandbox.get("credit_note", id)["_lines"]
    return listing(rows[:limit], f"/v1/credit_notes/{id}/lines", len(rows) > limit)


@route("GET", "/v1/credit_notes")
def note_list(sandbox: Sandbox, params: Params) -> dict:
    return sandbox.page(params, "credit_note", customer=params.text("customer"), invoice=params.text("invoice"))
