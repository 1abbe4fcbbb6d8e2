"""Invoice items: charges and credits that wait for the next invoice, or join a draft."""

from __future__ import annotations

from decimal import Decimal

from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.lines import invoice_item_make, pending_line, totals, usage_amount
from tools.billing_sandbox.resources.subscriptions import check_currency
from tools.billing_sandbox.resources.tax_rates import rates_named
from tools.billing_sandbox.sandbox import CURRENCIES, Sandbox, route


@route("POST", "/v1/invoiceitems")
def item_create(sandbox: Sandbox, params: Params) -> dict:
    customer = sandbox.get("customer", params.text("customer", required=True), "customer")
    subscription = params.text("subscription")
    if subscription and sandbox.get("subscription", subscription, "subscription")["customer"] != customer["id"]:
        raise StripeError("The subscription belongs to another customer.", "subscription")
    price, unit, quantity = _amounts(sandbox, params)
    amount = params.integer("amount", low=-99_999_999) if "amount" in params else usage_amount({"unit_amount_decimal": str(unit)}, Decimal(quantity))
    currency = price["currency"] if price else params.text("currency", choices=CURRENCIES, required=True)
    check_currency(sandbox, customer, currency)
    period, now = params.child("period"), sandbox.now()
    item = invoice_item_make(
        sandbox, customer=customer["id"], amount=amount, currency=currency, description=params.text("description") or (price or {}).get("nickname"),
        start=period.integer("start", now), end=period.integer("end", now), quantity=quantity, price=price,
        unit_amount=f"{unit:f}" if unit is not None else str(amount), subscription=subscription, discountable=params.boolean("discountable", amount > 0),
        metadata=params.mapping("metadata"), tax_rates=rates_named(sandbox, params.texts("tax_rates"), "tax_rates"),
    )  # fmt: skip
    if invoice_id := params.text("invoice"):
        join(sandbox, item, sandbox.get("invoice", invoice_id, "invoice"))
    return item


def _amounts(sandbox: Sandbox, params: Params) -> tuple[dict | None, Decimal | None, int]:
    """(price, unit amount, quantity) of what was passed: a price, a unit amount, or a plain amount (None)."""
    quantity = params.integer("quantity", 1, low=0)
    price_id = params.child("pricing").text("price") or params.text("price")
    if price_id:
        price = sandbox.get("price", price_id, "pricing[price]")
        return price, Decimal(price["unit_amount_decimal"]), quantity
    if "unit_amount_decimal" in params:
        return None, params.decimal("unit_amount_decimal"), quantity
    if "amount" not in params:
        raise missing("amount")
    return None, None, quantity


def join(sandbox: Sandbox, item: dict, invoice: dict) -> None:
    """Make `item` a line of the draft `invoice`. Raises StripeError when that is finalised, another customer's or of another currency."""
    if invoice["status"] != "draft":
        raise StripeError("This invoice is no longer editable.", "invoice", "invoice_not_editable")
    if (invoice["customer"], invoice["currency"]) != (item["customer"], item["currency"]):
        raise StripeError("The invoice has another customer or currency.", "invoice")
    sandbox.save(item | {"invoice": invoice["id"]})
    item["invoice"] = invoice["id"]
    invoice["_lines"].append(pending_line(sandbox, item))
    totals(sandbox, invoice)
    sandbox.save(invoice, "invoice.updated")


@route("GET", "/v1/invoiceitems/{id}")
def item_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("invoiceitem", id)


@route("POST", "/v1/invoiceitems/{id}")
def item_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    item = sandbox.get("invoiceitem", id)
    if item["invoice"]:
        raise StripeError("This invoice item is on an invoice already.", "id", "invoice_not_editable")
    if "amount" in params:
        item |= {"amount": params.integer("amount", low=-99_999_999)}
        item["net_amount"] = item["amount"]
    if "description" in params:
        item["description"] = params.text("description")
    item["metadata"] = params.mapping("metadata", item["metadata"])
    return sandbox.save(item)


@route("DELETE", "/v1/invoiceitems/{id}")
def item_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    item = sandbox.get("invoiceitem", id)
    if item["invoice"]:
        invoice = sandbox.get("invoice", item["invoice"])
        if invoice["status"] != "draft":
            raise StripeError("This invoice is no longer editable.", "id", "invoice_not_editable")
        invoice["_lines"] = [line for line in invoice["_lines"] if (line["parent"].get("invoice_item_details") or {}).get("invoice_item") != id]
        totals(sandbox, invoice)
        sandbox.save(invoice, "invoice.updated")
    sandbox.emit("invoiceitem.deleted", item)
    sandbox.store.remove(id)
    return {"id": id, "object": "invoiceitem", "deleted": True}


@route("GET", "/v1/invoiceitems")
def item_list(sandbox: Sandbox, params: Params) -> dict:
    pending = params.boolean("pending")
    status = None if pending is None else "pending" if pending else "invoiced"
    return sandbox.page(params, "invoiceitem", customer=params.text("customer"), invoice=params.text("invoice"), status=status)
