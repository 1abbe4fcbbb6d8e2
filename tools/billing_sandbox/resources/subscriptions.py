"""Subscriptions and their items: what a caller may ask for. What then happens is in lifecycle.py."""

from __future__ import annotations

from typing import Any

from tools.billing_sandbox import changes, lifecycle
from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.resources.coupons import discounts_make
from tools.billing_sandbox.resources.customers import search
from tools.billing_sandbox.resources.payment_methods import method_resolve
from tools.billing_sandbox.resources.prices import plan_of
from tools.billing_sandbox.resources.setup_intents import setup_make
from tools.billing_sandbox.resources.tax_rates import rates_named
from tools.billing_sandbox.sandbox import Sandbox, listing, route, view

PAYMENT_BEHAVIORS = ("allow_incomplete", "default_incomplete", "error_if_incomplete")  # pending_if_incomplete is not done
PRORATIONS = ("create_prorations", "always_invoice", "none")
MAX_ITEMS = 20


@view("subscription")
def subscription_view(sandbox: Sandbox, subscription: dict) -> dict:
    items = [item_view(sandbox, item) for item in subscription["_items"]]
    return subscription | {"items": listing(items, f"/v1/subscription_items?subscription={subscription['id']}") | {"total_count": len(items)}}


def item_view(sandbox: Sandbox, item: dict) -> dict:
    price = sandbox.store.get(item["price"])
    return {k: v for k, v in item.items() if not k.startswith("_")} | {"price": price, "plan": plan_of(price)}


def item_make(sandbox: Sandbox, params: Params, subscription_id: str, currency: str | None) -> dict:
    """A new item of a `price` or `price_data`. Raises StripeError when the price does not fit."""
    price = _price(sandbox, params, currency)
    metered = price["recurring"]["usage_type"] == "metered"
    if metered and "quantity" in params:
        raise StripeError("You cannot set the quantity for metered plans. Use meter events instead.", params.label("quantity"))
    item = {
        "id": sandbox.new_id("si", 14), "object": "subscription_item", "billing_thresholds": None, "created": sandbox.now(), "current_period_end": 0,
        "current_period_start": 0, "discounts": [], "metadata": params.mapping("metadata"), "price": price["id"], "subscription": subscription_id,
        "tax_rates": rates_named(sandbox, params.texts("tax_rates"), params.label("tax_rates")), "_usage_from": sandbox.now(),
    }  # fmt: skip
    if not metered:
        item["quantity"] = params.integer("quantity", 1, low=0, high=999_999)
    sandbox.store.own(item["id"], subscription_id)
    return item


def _price(sandbox: Sandbox, params: Params, currency: str | None) -> dict:
    if "price_data" in params:
        from tools.billing_sandbox.resources.prices import price_make

        data = params.child("price_data")
        price = price_make(sandbox, data, sandbox.get("product", data.text("product", required=True), data.label("product"))["id"])
    else:
        price = sandbox.get("price", params.text("price", required=True), params.label("price"))
    if not price["active"]:
        raise StripeError(f"The price specified is inactive. This field only accepts active prices: {price['id']}", params.label("price"))
    if price["type"] != "recurring":
        raise StripeError("The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.", params.label("price"))
    if currency and price["currency"] != currency:
        raise StripeError(f"The price specified only supports `{price['currency']}`. This doesn't match the expected currency: `{currency}`.", params.label("price"))
    return price


@route("POST", "/v1/subscriptions")
def subscription_create(sandbox: Sandbox, params: Params) -> dict:
    customer = sandbox.get("customer", params.text("customer", required=True), "customer")
    id, rows = sandbox.new_id("sub"), params.children("items")
    if not rows:
        raise missing("items")
    if len(rows) > MAX_ITEMS:
        raise StripeError(f"A subscription can have up to {MAX_ITEMS} items.", "items")
    items: list[dict] = []
    for row in rows:
        items.append(item_make(sandbox, row, id, items and sandbox.store.get(items[0]["price"])["currency"] or params.text("currency")))
    currency = sandbox.store.get(items[0]["price"])["currency"]
    check_currency(sandbox, customer, currency)
    lifecycle.cycle_of(sandbox, items)
    subscription = _blank(sandbox, id, customer["id"], currency, items)
    take(sandbox, subscription, params)
    subscription["billing_mode"] = {"flexible": None, "type": params.child("billing_mode").text("type", "flexible", choices=("classic", "flexible"))}
    subscription["discounts"] = discounts_make(sandbox, params.children("discounts"), customer["id"], id)
    trial = _trial(sandbox, params)
    if trial:
        subscription |= {"trial_start": sandbox.now(), "trial_end": trial}
    anchor = params.moment("billing_cycle_anchor", sandbox.now())
    if anchor is not None:
        if anchor < sandbox.now():
            raise StripeError("billing_cycle_anchor cannot be in the past.", "billing_cycle_anchor")
        subscription["billing_cycle_anchor"] = anchor
    params.text("proration_behavior", choices=PRORATIONS)
    params.boolean("off_session")
    behavior = params.text("payment_behavior", "allow_incomplete", choices=PAYMENT_BEHAVIORS)
    _check_method(sandbox, subscription, customer, behavior, items)
    lifecycle.subscription_begin(sandbox, subscription, customer, behavior)
    if subscription["status"] == "trialing" and not _default_method(subscription, customer):
        subscription["pending_setup_intent"] = setup_make(sandbox, customer=customer["id"])["id"]
        sandbox.save(subscription)
    return subscription


def check_currency(sandbox: Sandbox, customer: dict, currency: str) -> None:
    """One customer, one currency at a time. Raises StripeError."""
    others = {s["currency"] for s in sandbox.find("subscription", customer=customer["id"]) if s["status"] not in lifecycle.ENDED}
    others |= {i["currency"] for i in sandbox.find("invoiceitem", customer=customer["id"], status="pending")}
    if customer["balance"] and customer["currency"]:
        others.add(customer["currency"])
    if others - {currency}:
        raise StripeError("You cannot combine currencies on a single customer. This customer has an active subscription, subscription schedule, discount, quote, invoice "
                          f"item or balance with currency {(others - {currency}).pop()}.", "currency")  # fmt: skip


def _blank(sandbox: Sandbox, id: str, customer: str, currency: str, items: list[dict]) -> dict:
    now = sandbox.now()
    return {
        "id": id, "object": "subscription", "application": None, "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None}, "billing_cycle_anchor": None, "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": None, "type": "flexible"}, "billing_schedules": [], "billing_thresholds": None, "cancel_at": None, "cancel_at_period_end": False,
        "canceled_at": None, "cancellation_details": {"comment": None, "feedback": None, "feedback_option": None, "reason": None}, "collection_method": "charge_automatically",
        "created": now, "currency": currency, "customer": customer, "customer_account": None, "days_until_due": None, "default_payment_method": None,
        "default_source": None, "default_tax_rates": [], "description": None, "discounts": [], "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "custom_fields": None, "description": None, "footer": None, "issuer": {"type": "self"}},
        "latest_invoice": None, "livemode": False, "metadata": {}, "next_pending_invoice_item_invoice": None, "on_behalf_of": None, "pause_collection": None,
        "payment_settings": {"payment_method_options": None, "payment_method_types": None, "save_default_payment_method": "off"},
        "pending_invoice_item_interval": None, "pending_setup_intent": None, "pending_update": None, "schedule": None, "start_date": now,
        "status": "incomplete", "test_clock": None, "transfer_data": None, "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}}, "trial_start": None, "_items": items,
    }  # fmt: skip


def take(sandbox: Sandbox, subscription: dict, params: Params) -> None:
    """Put the plain parameters (those that need no money) into `subscription`."""
    subscription["metadata"] = params.mapping("metadata", subscription["metadata"])
    if "description" in params:
        subscription["description"] = params.text("description", limit=500)
    if "default_payment_method" in params:
        method = params.text("default_payment_method")
        subscription["default_payment_method"] = _own_method(sandbox, method, subscription["customer"]) if method else None
    if "default_tax_rates" in params:
        subscription["default_tax_rates"] = rates_named(sandbox, params.texts("default_tax_rates"), "default_tax_rates")
    if "collection_method" in params:
        subscription["collection_method"] = params.text("collection_method", choices=("charge_automatically", "send_invoice"))
    if "days_until_due" in params:
        subscription["days_until_due"] = params.integer("days_until_due", low=0, high=365)
    if "trial_settings" in params:
        behavior = params.child("trial_settings").child("end_behavior").text("missing_payment_method", choices=("cancel", "create_invoice", "pause"), required=True)
        subscription["trial_settings"] = {"end_behavior": {"missing_payment_method": behavior}}
    settings = params.child("payment_settings")
    if "save_default_payment_method" in settings:
        saved = settings.text("save_default_payment_method", "off", choices=("off", "on_subscription"))
        subscription["payment_settings"] = subscription["payment_settings"] | {"save_default_payment_method": saved}
    if "payment_method_types" in settings:
        subscription["payment_settings"] = subscription["payment_settings"] | {"payment_method_types": settings.texts("payment_method_types")}
    if params.child("automatic_tax").boolean("enabled", False):
        raise StripeError("The billing sandbox computes no automatic tax; pass default_tax_rates.", "automatic_tax[enabled]")
    if "pause_collection" in params:
        pause = params.child("pause_collection")
        behavior = pause.text("behavior", choices=("keep_as_draft", "mark_uncollectible", "void"))
        subscription["pause_collection"] = {"behavior": behavior, "resumes_at": pause.integer("resumes_at")} if behavior else None


def _own_method(sandbox: Sandbox, id: str, customer: str) -> str:
    method = method_resolve(sandbox, id, "default_payment_method")
    if method["customer"] != customer:
        raise StripeError(f"The customer does not have a payment method with the ID {id}. The payment method must be attached to the customer.",
                          "default_payment_method", "resource_missing")  # fmt: skip
    return method["id"]


def _trial(sandbox: Sandbox, params: Params) -> int | None:
    """The end of the trial asked for, or None."""
    days, end = params.integer("trial_period_days", low=0, high=730), params.moment("trial_end", sandbox.now())
    if days is not None and end is not None:
        raise StripeError("You cannot set both trial_end and trial_period_days.", "trial_end")
    end = sandbox.now() + days * 86_400 if days else end
    if end is not None and end < sandbox.now():
        raise StripeError("Invalid timestamp: must be an integer Unix timestamp in the future.", "trial_end")
    return end if end and end > sandbox.now() else None


def _default_method(subscription: dict, customer: dict) -> str | None:
    return subscription["default_payment_method"] or customer["invoice_settings"]["default_payment_method"]


def _check_method(sandbox: Sandbox, subscription: dict, customer: dict, behavior: str, items: list[dict]) -> None:
    """Charging at once needs something to charge. Raises StripeError."""
    owes = any(i.get("quantity") and float(sandbox.store.get(i["price"])["unit_amount_decimal"]) for i in items) and not subscription["trial_end"]
    if owes and behavior != "default_incomplete" and subscription["collection_method"] == "charge_automatically" and not _default_method(subscription, customer):
        raise StripeError("This customer has no attached payment source or default payment method. Please consider adding a default payment method.",
                          None, "resource_missing")  # fmt: skip


@route("GET", "/v1/subscriptions/search")
def subscription_search(sandbox: Sandbox, params: Params) -> dict:
    return search(sandbox, params, "subscription")


@route("GET", "/v1/subscriptions/{id}")
def subscription_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("subscription", id)


@route("POST", "/v1/subscriptions/{id}")
def subscription_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    return changes.subscription_change(sandbox, sandbox.get("subscription", id), params)


@route("DELETE", "/v1/subscriptions/{id}")
def subscription_cancel(sandbox: Sandbox, params: Params, id: str) -> dict:
    return changes.subscription_cancel(sandbox, sandbox.get("subscription", id), params)


@route("POST", "/v1/subscriptions/{id}/resume")
def subscription_resume(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Only of a paused one (a trial that ended without a card): a new period begins and is billed now."""
    subscription = sandbox.get("subscription", id)
    if subscription["status"] != "paused":
        raise StripeError(f"Only paused subscriptions can be resumed; this one is {subscription['status']}.", None, "subscription_unexpected_state")
    params.text("billing_cycle_anchor", "now", choices=("now",))
    params.text("proration_behavior", choices=PRORATIONS)
    lifecycle.begin_cycle(sandbox, subscription, sandbox.now())
    lines = lifecycle.licensed_lines(sandbox, subscription, *lifecycle.period_of(subscription))
    lifecycle.invoice_now(sandbox, subscription, "allow_incomplete", lines)
    return subscription


@route("GET", "/v1/subscriptions")
def subscription_list(sandbox: Sandbox, params: Params) -> dict:
    """Without a status: all but the canceled ones."""
    status, price, created = params.text("status"), params.text("price"), sandbox.created_filter(params)
    kept = {None: lambda s: s not in ("canceled", "incomplete_expired"), "all": lambda s: True, "ended": lambda s: s in lifecycle.ENDED}.get(status, lambda s: s == status)

    def keep(s: dict[str, Any]) -> bool:
        return kept(s["status"]) and (price is None or any(i["price"] == price for i in s["_items"])) and created(s)

    return sandbox.page(params, "subscription", keep, customer=params.text("customer"))


# Items by themselves


def item_find(sandbox: Sandbox, id: str) -> tuple[dict, dict]:
    """(subscription, item). Raises NotFound."""
    subscription = sandbox.store.get(sandbox.store.owner(id) or "") or {"_items": []}
    for item in subscription["_items"]:
        if item["id"] == id:
            return subscription, item
    return sandbox.get("subscription_item", None), {}


@route("GET", "/v1/subscription_items/{id}")
def item_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return item_view(sandbox, item_find(sandbox, id)[1])


@route("GET", "/v1/subscription_items")
def item_list(sandbox: Sandbox, params: Params) -> dict:
    subscription = sandbox.get("subscription", params.text("subscription", required=True), "subscription")
    limit, after = params.integer("limit", 10, low=1, high=100), params.text("starting_after")
    rows = [item_view(sandbox, item) for item in subscription["_items"]]
    if after:
        rows = rows[next((i for i, row in enumerate(rows) if row["id"] == after), len(rows)) + 1 :]
    return listing(rows[:limit], "/v1/subscription_items", len(rows) > limit)
