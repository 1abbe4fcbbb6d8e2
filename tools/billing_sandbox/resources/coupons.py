"""Coupons and the discounts made of them (percent or amount off; once, repeating, forever)."""

from __future__ import annotations

from tools.billing_sandbox.clock import add_interval
from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import CURRENCIES, Sandbox, included, route


@route("POST", "/v1/coupons")
def coupon_create(sandbox: Sandbox, params: Params) -> dict:
    percent, amount = params.decimal("percent_off"), params.integer("amount_off", low=1)
    if (percent is None) == (amount is None):
        raise missing("percent_off") if percent is None else StripeError("Coupon cannot have both percent_off and amount_off.", "percent_off")
    if percent is not None and not 0 < percent <= 100:
        raise StripeError("Invalid percent: must be above 0 and at most 100.", "percent_off")
    duration = params.text("duration", "once", choices=("once", "repeating", "forever"))
    coupon = {
        "id": params.text("id") or sandbox.new_id("", 8)[1:], "object": "coupon", "amount_off": amount, "created": sandbox.now(),
        "currency": params.text("currency", choices=CURRENCIES, required=amount is not None), "duration": duration,
        "duration_in_months": params.integer("duration_in_months", low=1, required=duration == "repeating"), "livemode": False,
        "max_redemptions": params.integer("max_redemptions", low=1), "metadata": params.mapping("metadata"), "name": params.text("name"),
        "percent_off": float(percent) if percent is not None else None, "redeem_by": params.integer("redeem_by"), "times_redeemed": 0, "valid": True,
    }  # fmt: skip
    if sandbox.store.get(coupon["id"]):
        raise StripeError("Coupon already exists.", "id", "resource_already_exists")
    return sandbox.save(coupon, "coupon.created")


@included("coupon", "applies_to")
def applies_to(sandbox: Sandbox, coupon: dict) -> dict:
    return {"products": []}


@route("GET", "/v1/coupons/{id}")
def coupon_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("coupon", id)


@route("POST", "/v1/coupons/{id}")
def coupon_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    coupon = sandbox.get("coupon", id)
    coupon |= {"name": params.text("name", coupon["name"]), "metadata": params.mapping("metadata", coupon["metadata"])}
    return sandbox.save(coupon, "coupon.updated")


@route("DELETE", "/v1/coupons/{id}")
def coupon_delete(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Discounts made of it go on."""
    coupon = sandbox.get("coupon", id)
    sandbox.emit("coupon.deleted", coupon)
    sandbox.save(coupon | {"deleted": True, "valid": False})
    return {"id": id, "object": "coupon", "deleted": True}


@route("GET", "/v1/coupons")
def coupon_list(sandbox: Sandbox, params: Params) -> dict:
    return sandbox.page(params, "coupon")


def discounts_make(sandbox: Sandbox, params: list[Params], customer: str, subscription: str | None = None) -> list[str]:
    """Ids of new discounts for a `discounts` parameter. Raises StripeError for a coupon that cannot be redeemed any more."""
    return [p.text("discount") or discount_make(sandbox, p.text("coupon", required=True), customer, subscription)["id"] for p in params]


def discount_make(sandbox: Sandbox, coupon_id: str, customer: str, subscription: str | None = None) -> dict:
    coupon, now = sandbox.get("coupon", coupon_id, "coupon"), sandbox.now()
    spent = coupon["max_redemptions"] and coupon["times_redeemed"] >= coupon["max_redemptions"]
    if spent or (coupon["redeem_by"] and coupon["redeem_by"] < now):
        raise StripeError(f"Coupon {coupon_id} is used up or expired.", "coupon", "coupon_expired")
    coupon["times_redeemed"] += 1
    sandbox.save(coupon)
    end = add_interval(now, "month", coupon["duration_in_months"]) if coupon["duration"] == "repeating" else None
    discount = {"id": sandbox.new_id("di"), "object": "discount", "checkout_session": None, "customer": customer, "customer_account": None, "end": end,
                "invoice": None, "invoice_item": None, "promotion_code": None, "source": {"coupon": coupon["id"], "type": "coupon"}, "start": now,
                "subscription": subscription, "subscription_item": None, "_used": False}  # fmt: skip
    return sandbox.save(discount, "customer.discount.created")


def still_valid(sandbox: Sandbox, discount: dict) -> bool:
    coupon = sandbox.store.get(discount["source"]["coupon"])
    return not (coupon["duration"] == "once" and discount["_used"]) and (discount["end"] is None or sandbox.now() < discount["end"])
