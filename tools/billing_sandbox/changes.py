"""Changes of a running subscription: other items, another cycle, an end; with prorations as the caller wants them."""

from __future__ import annotations


from tools.billing_sandbox import lifecycle
from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.lifecycle import begin_cycle, bill_usage, cycle_of, holdings, invoice_now, licensed_lines, metered, move, period_of, prorate
from tools.billing_sandbox.resources.coupons import discounts_make
from tools.billing_sandbox.sandbox import Sandbox, timer


def subscription_change(sandbox: Sandbox, subscription: dict, params: Params) -> dict:
    """Raises StripeError on what the subscription's state or currency forbids, CardError for a declined payment under error_if_incomplete."""
    from tools.billing_sandbox.resources import subscriptions as asked

    if subscription["status"] in lifecycle.ENDED:
        return _change_ended(sandbox, subscription, params)
    at = _proration_date(sandbox, subscription, params)
    behavior = params.text("proration_behavior", "create_prorations", choices=asked.PRORATIONS)
    payment_behavior = params.text("payment_behavior", "allow_incomplete", choices=asked.PAYMENT_BEHAVIORS)
    params.boolean("off_session")
    before, old_items, old_cycle = holdings(sandbox, subscription), [dict(i) for i in subscription["_items"]], cycle_of(sandbox, subscription["_items"])
    asked.take(sandbox, subscription, params)
    if "discounts" in params:
        subscription["discounts"] = discounts_make(sandbox, params.children("discounts"), subscription["customer"], subscription["id"])
    _take_end(sandbox, subscription, params)
    _take_items(sandbox, subscription, params.children("items"))
    trial_over = _take_trial(sandbox, subscription, params)
    anchor = params.text("billing_cycle_anchor", "unchanged", choices=("now", "unchanged"))
    new_cycle = anchor == "now" or cycle_of(sandbox, subscription["_items"]) != old_cycle or _begins_to_cost(sandbox, subscription, before)
    invoice = None
    if subscription["status"] == "trialing" and not trial_over:
        pass  # nothing was paid, so nothing is prorated
    elif trial_over or new_cycle:
        invoice = _restart(sandbox, subscription, [] if behavior == "none" or trial_over else before, old_items, at, payment_behavior)
    else:
        _settle_items(sandbox, subscription, before, old_items, at, behavior)
        if behavior == "always_invoice" and subscription["status"] != "incomplete":
            invoice = invoice_now(sandbox, subscription, payment_behavior)
    if invoice is None or subscription["latest_invoice"] == invoice["id"]:
        sandbox.save(subscription, "customer.subscription.updated")
    return subscription


def _change_ended(sandbox: Sandbox, subscription: dict, params: Params) -> dict:
    """Only its metadata and cancellation details."""
    subscription["metadata"] = params.mapping("metadata", subscription["metadata"])
    _take_details(subscription, params)
    try:
        params.refuse_unread()
    except StripeError as error:
        raise StripeError("A canceled subscription can only update its cancellation_details and metadata.", error.param) from error
    return sandbox.save(subscription, "customer.subscription.updated")


def _proration_date(sandbox: Sandbox, subscription: dict, params: Params) -> int:
    at = params.integer("proration_date", sandbox.now())
    start, end = period_of(subscription)
    if not start <= at <= end:
        raise StripeError(f"Cannot specify proration date outside of current subscription period ({start} to {end}).", "proration_date")
    return at


def _take_details(subscription: dict, params: Params) -> None:
    details = params.child("cancellation_details")
    for name in ("comment", "feedback"):
        if name in details:
            subscription["cancellation_details"] = subscription["cancellation_details"] | {name: details.text(name)}


def _take_end(sandbox: Sandbox, subscription: dict, params: Params) -> None:
    """cancel_at_period_end and cancel_at, and taking them back."""
    _take_details(subscription, params)
    if "cancel_at_period_end" in params and "cancel_at" in params:
        raise StripeError("You cannot set both cancel_at and cancel_at_period_end.", "cancel_at")
    wish = None
    if "cancel_at_period_end" in params:
        wish = params.boolean("cancel_at_period_end")
        subscription |= {"cancel_at_period_end": wish, "cancel_at": period_of(subscription)[1] if wish else None}
        sandbox.timer(subscription, "2_cancel", None)
    elif "cancel_at" in params:
        moment = params.integer("cancel_at")
        if moment is not None and moment <= sandbox.now():
            raise StripeError("cancel_at must be in the future.", "cancel_at")
        wish = moment is not None
        subscription |= {"cancel_at": moment, "cancel_at_period_end": False}
        sandbox.timer(subscription, "2_cancel", moment)
    if wish is not None:
        subscription["canceled_at"] = sandbox.now() if wish else None
        subscription["cancellation_details"] = subscription["cancellation_details"] | {"reason": "cancellation_requested" if wish else None}


@timer("2_cancel")
def _cancel_due(sandbox: Sandbox, subscription: dict) -> None:
    if subscription["status"] not in lifecycle.ENDED:
        lifecycle.end_with_final_invoice(sandbox, subscription)


def _take_items(sandbox: Sandbox, subscription: dict, rows: list[Params]) -> None:
    """Named items are changed or (`deleted`) removed, others are added; those not named stay."""
    from tools.billing_sandbox.resources.subscriptions import item_make

    items = [dict(i) for i in subscription["_items"]]
    start, end = period_of(subscription)
    for row in rows:
        id = row.text("id")
        known = next((i for i in items if i["id"] == id), None)
        if id and known is None:
            sandbox.get("subscription_item", id, row.label("id"))
            raise StripeError(f"No such subscription item: '{id}'", row.label("id"), "resource_missing")
        if row.boolean("deleted", False):
            if known is None:
                raise StripeError("Only an item named by its id can be deleted.", row.label("deleted"))
            row.boolean("clear_usage")
            items.remove(known)
        elif known is None:
            new = item_make(sandbox, row, subscription["id"], subscription["currency"])
            if any(i["price"] == new["price"] for i in items):
                raise StripeError(f"Cannot add multiple subscription items with the same price: {new['price']}", row.label("price"))
            items.append(new | {"current_period_start": start, "current_period_end": end})
        else:
            _change_item(sandbox, subscription, known, row)
    if not items:
        raise StripeError("A subscription must have at least one item.", "items")
    subscription["_items"] = items


def _change_item(sandbox: Sandbox, subscription: dict, item: dict, row: Params) -> None:
    from tools.billing_sandbox.resources.subscriptions import item_make

    if "price" in row or "price_data" in row:
        changed = item_make(sandbox, row, subscription["id"], subscription["currency"])
        if changed["price"] != item["price"]:
            item["_usage_from"] = sandbox.now()
        item["price"] = changed["price"]
        if "quantity" in changed and "quantity" not in row and "quantity" in item:
            changed["quantity"] = item["quantity"]
        item.pop("quantity", None)
        item |= {k: changed[k] for k in ("quantity",) if k in changed}
    elif "quantity" in row:
        if metered(sandbox, item):
            raise StripeError("You cannot set the quantity for metered plans. Use meter events instead.", row.label("quantity"))
        item["quantity"] = row.integer("quantity", low=0, high=999_999)
    if "metadata" in row:
        item["metadata"] = row.mapping("metadata", item["metadata"])
    if "tax_rates" in row:
        from tools.billing_sandbox.resources.tax_rates import rates_named

        item["tax_rates"] = rates_named(sandbox, row.texts("tax_rates"), row.label("tax_rates"))


def _take_trial(sandbox: Sandbox, subscription: dict, params: Params) -> bool:
    """Move the trial's end; True when that ends it now."""
    if "trial_end" not in params:
        return False
    now = sandbox.now()
    end = params.moment("trial_end", now)
    if end is None or end <= now:
        if subscription["status"] != "trialing":
            return False
        subscription["trial_end"] = now
        return True
    move(subscription, "trialing")
    subscription |= {"trial_start": subscription["trial_start"] or now, "trial_end": end, "billing_cycle_anchor": end}
    lifecycle.set_period(sandbox, subscription, period_of(subscription)[0], end)
    sandbox.timer(subscription, "trial_notice", max(now, end - lifecycle.TRIAL_NOTICE_S))
    return False


def _begins_to_cost(sandbox: Sandbox, subscription: dict, before: list) -> bool:
    """From free to paid: Stripe moves the cycle to the change and bills at once."""
    was, will = sum(h.amount for h in before), sum(h.amount for h in holdings(sandbox, subscription))
    return subscription["status"] == "active" and was == 0 and will > 0


def _settle_items(sandbox: Sandbox, subscription: dict, before: list, old_items: list[dict], at: int, behavior: str) -> None:
    """Within the period: usage of metered items that go, prorations of what changes."""
    now_prices = {(i["id"], i["price"]) for i in subscription["_items"]}
    for item in old_items:
        if (item["id"], item["price"]) not in now_prices and metered(sandbox, item):
            bill_usage(sandbox, subscription, item, sandbox.now())
    after = holdings(sandbox, subscription)
    if behavior != "none":
        prorate(sandbox, subscription, before, after, at)


def _restart(sandbox: Sandbox, subscription: dict, before: list, old_items: list[dict], at: int, payment_behavior: str) -> dict | None:
    """A new cycle begins now: credit what is left of the old one, bill its usage, and the whole new period at once."""
    if before:
        prorate(sandbox, subscription, before, [], at)
    if subscription["status"] != "trialing":
        for item in old_items:
            if metered(sandbox, item):
                bill_usage(sandbox, subscription, item, sandbox.now())
    else:
        move(subscription, "active")
    for item in subscription["_items"]:
        item["_usage_from"] = sandbox.now()
    begin_cycle(sandbox, subscription, sandbox.now())
    if subscription["cancel_at_period_end"]:
        subscription["cancel_at"] = period_of(subscription)[1]
    return invoice_now(sandbox, subscription, payment_behavior, licensed_lines(sandbox, subscription, *period_of(subscription)))


def subscription_cancel(sandbox: Sandbox, subscription: dict, params: Params) -> dict:
    """End it now. `prorate` credits the unused time, `invoice_now` bills usage and what is pending at once."""
    if subscription["status"] in lifecycle.ENDED:
        raise StripeError(f"No such subscription: '{subscription['id']}'", "id", "resource_missing")
    bill, credit = params.boolean("invoice_now", False), params.boolean("prorate", False)
    _take_details(subscription, params)
    if subscription["status"] not in ("trialing", "incomplete"):
        if credit:
            prorate(sandbox, subscription, holdings(sandbox, subscription), [], sandbox.now())
        if bill:
            for item in subscription["_items"]:
                if metered(sandbox, item):
                    bill_usage(sandbox, subscription, item, sandbox.now())
    if bill:
        invoice_now(sandbox, subscription, "allow_incomplete")
    if sandbox.previewing:
        return subscription
    return lifecycle.subscription_end(sandbox, subscription, "canceled", reason="cancellation_requested")


