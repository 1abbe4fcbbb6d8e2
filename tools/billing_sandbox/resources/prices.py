"""Prices: one-time, licensed and metered (by a billing meter); per unit only, no tiers."""

from __future__ import annotations

from decimal import Decimal

from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import CURRENCIES, Sandbox, included, route

LONGEST = {"day": 1095, "week": 156, "month": 36, "year": 3}


@route("POST", "/v1/prices")
def price_create(sandbox: Sandbox, params: Params) -> dict:
    if "product_data" in params:
        from tools.billing_sandbox.resources.products import product_create

        return price_make(sandbox, params, product_create(sandbox, params.child("product_data"))["id"])
    return price_make(sandbox, params, sandbox.get("product", params.text("product", required=True), "product")["id"])


def price_make(sandbox: Sandbox, params: Params, product: str) -> dict:
    amount = _unit_amount(params)
    lookup_key = params.text("lookup_key", limit=200)
    if lookup_key:
        _free_lookup_key(sandbox, lookup_key, params.boolean("transfer_lookup_key", False))
    price = {
        "id": sandbox.new_id("price"), "object": "price", "active": params.boolean("active", True),
        "billing_scheme": params.text("billing_scheme", "per_unit", choices=("per_unit",)), "created": sandbox.now(),
        "currency": params.text("currency", choices=CURRENCIES, required=True), "custom_unit_amount": None, "livemode": False, "lookup_key": lookup_key,
        "metadata": params.mapping("metadata"), "nickname": params.text("nickname"), "product": product,
        "recurring": _recurring(sandbox, params.child("recurring")) if "recurring" in params else None,
        "tax_behavior": params.text("tax_behavior", "unspecified", choices=("inclusive", "exclusive", "unspecified")), "tiers_mode": None,
        "transform_quantity": None, "type": "recurring" if "recurring" in params else "one_time",
        "unit_amount": int(amount) if amount == int(amount) else None, "unit_amount_decimal": plain(amount),
    }  # fmt: skip
    return sandbox.save(price, "price.created")


def plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}" if amount else "0"


def _unit_amount(params: Params) -> Decimal:
    if "unit_amount" in params and "unit_amount_decimal" in params:
        raise StripeError("You may only specify one of these parameters: unit_amount, unit_amount_decimal.", "unit_amount")
    amount = params.decimal("unit_amount_decimal") if "unit_amount_decimal" in params else params.integer("unit_amount", low=0)
    if amount is None:
        raise missing("unit_amount")
    if amount < 0:
        raise StripeError("Invalid non-negative decimal", "unit_amount_decimal")
    return Decimal(amount)


def _recurring(sandbox: Sandbox, params: Params) -> dict:
    interval = params.text("interval", choices=tuple(LONGEST), required=True)
    meter, usage_type = params.text("meter"), params.text("usage_type", "licensed", choices=("licensed", "metered"))
    if (usage_type == "metered") != bool(meter):
        raise StripeError("Prices with usage_type=metered must be backed by a meter, and only those (recurring[meter]).", "recurring[meter]")
    if meter and sandbox.get("billing.meter", meter, "recurring[meter]")["status"] != "active":
        raise StripeError(f"The meter {meter} is inactive.", "recurring[meter]")
    return {"interval": interval, "interval_count": params.integer("interval_count", 1, low=1, high=LONGEST[interval]), "meter": meter,
            "trial_period_days": None, "usage_type": usage_type}  # fmt: skip


def _free_lookup_key(sandbox: Sandbox, key: str, transfer: bool | None) -> None:
    for other in sandbox.find("price"):
        if other["lookup_key"] == key:
            if not transfer:
                raise StripeError(f"A price (`{other['id']}`) already uses that lookup key.", "lookup_key")
            sandbox.save(other | {"lookup_key": None}, "price.updated")


@route("GET", "/v1/prices/{id}")
def price_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("price", id)


@route("POST", "/v1/prices/{id}")
def price_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Amounts, currency and interval cannot change: make another price."""
    price = sandbox.get("price", id)
    if "active" in params:
        price["active"] = params.boolean("active")
    if "nickname" in params:
        price["nickname"] = params.text("nickname")
    if "tax_behavior" in params:
        price["tax_behavior"] = params.text("tax_behavior", choices=("inclusive", "exclusive", "unspecified"))
    if "lookup_key" in params:
        key = params.text("lookup_key")
        if key and key != price["lookup_key"]:
            _free_lookup_key(sandbox, key, params.boolean("transfer_lookup_key", False))
        price["lookup_key"] = key
    price["metadata"] = params.mapping("metadata", price["metadata"])
    return sandbox.save(price, "price.updated")


@route("GET", "/v1/prices")
def price_list(sandbox: Sandbox, params: Params) -> dict:
    active, product, currency, type = params.boolean("active"), params.text("product"), params.text("currency"), params.text("type")
    keys, recurring, created = params.texts("lookup_keys"), params.child("recurring"), sandbox.created_filter(params)
    interval, usage_type, meter = recurring.text("interval"), recurring.text("usage_type"), recurring.text("meter")

    def keep(price: dict) -> bool:
        cycle = price["recurring"] or {}
        pairs = ((active, price["active"]), (product, price["product"]), (currency, price["currency"]), (type, price["type"]),
                 (interval, cycle.get("interval")), (usage_type, cycle.get("usage_type")), (meter, cycle.get("meter")))  # fmt: skip
        return all(want is None or want == have for want, have in pairs) and (keys is None or price["lookup_key"] in keys) and created(price)

    return sandbox.page(params, "price", keep)


@included("price", "tiers")
def tiers(sandbox: Sandbox, price: dict) -> None:
    return None


@included("price", "currency_options")
def currency_options(sandbox: Sandbox, price: dict) -> dict:
    one = {"custom_unit_amount": None, "tax_behavior": price["tax_behavior"], "unit_amount": price["unit_amount"], "unit_amount_decimal": price["unit_amount_decimal"]}
    return {price["currency"]: one}


def plan_of(price: dict) -> dict:
    """The old name of a recurring price, still shown in subscription items."""
    cycle = price["recurring"]
    return {
        "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"], "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": "per_unit", "created": price["created"], "currency": price["currency"], "interval": cycle["interval"],
        "interval_count": cycle["interval_count"], "livemode": False, "metadata": price["metadata"], "meter": cycle["meter"],
        "nickname": price["nickname"], "product": price["product"], "tiers_mode": None, "transform_usage": None, "trial_period_days": None,
        "usage_type": cycle["usage_type"],
    }  # fmt: skip
