"""Invoice lines and pending invoice items: their shapes, and the sums over them (discounts, taxes, balance)."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from tools.billing_sandbox.proration import allocate, half_up, line_amount, tax_amount
from tools.billing_sandbox.resources.coupons import still_valid
from tools.billing_sandbox.sandbox import Sandbox, columns


def pricing_of(price: dict | None, unit_amount: str | None = None) -> dict | None:
    if price is None:
        return {"price_details": None, "type": "price_details", "unit_amount_decimal": unit_amount} if unit_amount is not None else None
    details = {"price": price["id"], "product": price["product"]}
    return {"price_details": details, "type": "price_details", "unit_amount_decimal": unit_amount or price["unit_amount_decimal"]}


def item_line(sandbox: Sandbox, subscription: dict, item: dict, *, start: int, end: int, amount: int, quantity: int | Decimal, description: str) -> dict:
    """A line for a subscription item during [start, end)."""
    price = sandbox.store.get(item["price"])
    details = {"invoice_item": None, "proration": False, "proration_details": {"credited_items": None}, "subscription": subscription["id"], "subscription_item": item["id"]}
    parent = {"invoice_item_details": None, "subscription_item_details": details, "type": "subscription_item_details"}
    return _line(sandbox, amount=amount, currency=price["currency"], description=description, start=start, end=end, quantity=quantity, pricing=pricing_of(price),
                 parent=parent, metadata=item["metadata"], subscription=subscription["id"], tax_rates=item["tax_rates"])  # fmt: skip


def pending_line(sandbox: Sandbox, item: dict) -> dict:
    """The line an invoice item becomes."""
    subscription = item["_subscription"]
    details = {"invoice_item": item["id"], "proration": item["proration"], "proration_details": {"credited_items": None}, "subscription": subscription}
    parent = {"invoice_item_details": details, "subscription_item_details": None, "type": "invoice_item_details"}
    return _line(sandbox, amount=item["amount"], currency=item["currency"], description=item["description"], start=item["period"]["start"], end=item["period"]["end"],
                 quantity=item["quantity"], pricing=item["pricing"], parent=parent, metadata=item["metadata"], subscription=subscription,
                 tax_rates=item["tax_rates"], discountable=item["discountable"])  # fmt: skip


def _line(sandbox: Sandbox, *, amount: int, currency: str, description: str | None, start: int, end: int, quantity: int | Decimal, pricing: dict | None,
          parent: dict, metadata: dict, subscription: str | None, tax_rates: list[str], discountable: bool = True) -> dict:  # fmt: skip
    return {
        "id": sandbox.new_id("il"), "object": "line_item", "amount": amount, "currency": currency, "description": description, "discount_amounts": [],
        "discountable": discountable, "discounts": [], "invoice": None, "livemode": False, "metadata": metadata, "parent": parent,
        "period": {"end": end, "start": start}, "pretax_credit_amounts": [], "pricing": pricing, "quantity": int(quantity),
        "quantity_decimal": f"{Decimal(quantity).normalize():f}", "subscription": subscription, "subtotal": amount, "taxes": [], "_tax_rates": tax_rates,
    }  # fmt: skip


def invoice_item_make(sandbox: Sandbox, *, customer: str, amount: int, currency: str, description: str | None, start: int, end: int, quantity: int = 1,
                      price: dict | None = None, unit_amount: str | None = None, subscription: str | None = None, subscription_item: str | None = None,
                      proration: bool = False, discountable: bool = True, metadata: dict | None = None, tax_rates: list[str] | None = None,
                      invoice: str | None = None) -> dict:  # fmt: skip
    """A charge (or credit) that waits for the customer's next invoice."""
    parent = {"subscription_details": {"subscription": subscription, "subscription_item": subscription_item}, "type": "subscription_details"} if subscription else None
    item = {
        "id": sandbox.new_id("ii"), "object": "invoiceitem", "amount": amount, "currency": currency, "customer": customer, "customer_account": None,
        "date": sandbox.now(), "description": description, "discountable": discountable, "discounts": [], "invoice": invoice, "livemode": False,
        "metadata": metadata or {}, "net_amount": amount, "parent": parent, "period": {"end": end, "start": start},
        "pricing": pricing_of(price, unit_amount), "proration": proration, "quantity": quantity, "quantity_decimal": str(quantity),
        "tax_rates": tax_rates or [], "test_clock": None, "_subscription": subscription,
    }  # fmt: skip
    return sandbox.save(item, "invoiceitem.created")


@columns("invoiceitem")
def _invoice_item_columns(item: dict) -> dict:
    return {"subscription": item["_subscription"], "status": "pending" if item["invoice"] is None else "invoiced"}


def pending_items(sandbox: Sandbox, customer: str, subscription: str | None = None) -> list[dict]:
    """Oldest first: those of the customer at large, and of `subscription`."""
    found = sandbox.find("invoiceitem", customer=customer, status="pending")
    return [i for i in reversed(found) if i["_subscription"] in (None, subscription)]


def usage_amount(price: dict, quantity: Decimal) -> int:
    return line_amount(Decimal(price["unit_amount_decimal"]), quantity)


def day(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%-d %b %Y}"


# Sums


def totals(sandbox: Sandbox, invoice: dict) -> None:
    """Fill in every sum of a draft: line by line discounts, then taxes, then what the customer's balance takes."""
    lines = invoice["_lines"]
    for line in lines:
        line |= {"discount_amounts": [], "taxes": [], "subtotal": line["amount"], "invoice": invoice["id"]}
    invoice["total_discount_amounts"] = [_discounted(sandbox, lines, id) for id in invoice["discounts"]]
    _taxes(sandbox, invoice)
    subtotal = sum(line["amount"] for line in lines)
    discount = sum(row["amount"] for row in invoice["total_discount_amounts"])
    inclusive = sum(t["amount"] for t in invoice["total_taxes"] if t["tax_behavior"] == "inclusive")
    exclusive = sum(t["amount"] for t in invoice["total_taxes"] if t["tax_behavior"] == "exclusive")
    total = subtotal - discount + exclusive
    invoice |= {"subtotal": subtotal, "total": total, "total_excluding_tax": total - exclusive - inclusive, "subtotal_excluding_tax": subtotal - inclusive}
    customer = sandbox.store.get(invoice["customer"])
    start = customer["balance"] if customer["currency"] in (None, invoice["currency"]) else 0
    due = max(0, total + start) if total >= 0 else 0
    invoice |= {"starting_balance": start, "ending_balance": start + total - due, "amount_due": due, "amount_remaining": due - invoice["amount_paid"]}


def _discounted(sandbox: Sandbox, lines: list[dict], id: str) -> dict:
    discount = sandbox.store.get(id)
    coupon = sandbox.store.get(discount["source"]["coupon"])
    open_lines = [line for line in lines if line["discountable"]]
    left = [line["amount"] - sum(d["amount"] for d in line["discount_amounts"]) for line in open_lines]
    if not still_valid(sandbox, discount):
        amounts = [0] * len(left)
    elif coupon["percent_off"] is not None:
        from fractions import Fraction

        share = Fraction(Decimal(str(coupon["percent_off"]))) / 100
        amounts = [half_up(share * amount) for amount in left]
    else:
        weights = [max(0, amount) for amount in left]
        amounts = allocate(min(coupon["amount_off"], sum(weights)), weights)
    for line, amount in zip(open_lines, amounts, strict=True):
        line["discount_amounts"].append({"amount": amount, "discount": id})
    return {"amount": sum(amounts), "discount": id}


def _taxes(sandbox: Sandbox, invoice: dict) -> None:
    exempt = {"exempt": "customer_exempt", "reverse": "reverse_charge"}.get(invoice["customer_tax_exempt"])
    sums: dict[str, dict] = {}
    for line in invoice["_lines"]:
        taxable = line["amount"] - sum(d["amount"] for d in line["discount_amounts"])
        for id in line["_tax_rates"] or invoice["default_tax_rates"]:
            rate = sandbox.store.get(id)
            amount = 0 if exempt else tax_amount(taxable, Decimal(str(rate["percentage"])), rate["inclusive"])
            tax = {"amount": amount, "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive", "tax_rate_details": {"tax_rate": id},
                   "taxability_reason": exempt or "standard_rated", "taxable_amount": taxable, "type": "tax_rate_details"}  # fmt: skip
            line["taxes"].append(tax)
            if id in sums:
                sums[id] |= {"amount": sums[id]["amount"] + amount, "taxable_amount": sums[id]["taxable_amount"] + taxable}
            else:
                sums[id] = dict(tax)
    invoice["total_taxes"] = list(sums.values())
