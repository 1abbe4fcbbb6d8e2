"""Subscription schedules: changes that take place at a later moment, e.g. a downgrade at the period's end."""

from __future__ import annotations

from tools.billing_sandbox import changes, lifecycle
from tools.billing_sandbox.clock import add_interval
from tools.billing_sandbox.errors import StripeError, missing
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import Sandbox, route, timer

OPEN = ("not_started", "active")
PRORATIONS = ("create_prorations", "always_invoice", "none")


@route("POST", "/v1/subscription_schedules")
def schedule_create(sandbox: Sandbox, params: Params) -> dict:
    """Only `from_subscription`: a schedule whose first phase is what the subscription is now."""
    subscription = sandbox.get("subscription", params.text("from_subscription", required=True), "from_subscription")
    if subscription["schedule"] or subscription["status"] in lifecycle.ENDED:
        raise StripeError("You cannot migrate a subscription that is already attached to a schedule, or has ended.", "from_subscription")
    start, end = lifecycle.period_of(subscription)
    phase = _phase_of(subscription, start, end)
    schedule = {
        "id": sandbox.new_id("sub_sched"), "object": "subscription_schedule", "application": None, "billing_mode": subscription["billing_mode"], "canceled_at": None,
        "completed_at": None, "created": sandbox.now(), "current_phase": {"end_date": end, "start_date": start}, "customer": subscription["customer"],
        "customer_account": None,
        "default_settings": {"application_fee_percent": None, "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
                             "billing_cycle_anchor": "automatic", "billing_thresholds": None, "collection_method": "charge_automatically",
                             "default_payment_method": None, "description": None, "invoice_settings": {"account_tax_ids": None, "custom_fields": None,
                             "days_until_due": None, "description": None, "footer": None, "issuer": {"type": "self"}}, "on_behalf_of": None, "transfer_data": None},
        "end_behavior": "release", "livemode": False, "metadata": params.mapping("metadata"), "phases": [phase], "released_at": None,
        "released_subscription": None, "status": "active", "subscription": subscription["id"], "test_clock": None,
    }  # fmt: skip
    sandbox.save(subscription | {"schedule": schedule["id"]})
    _arm(sandbox, schedule)
    return sandbox.save(schedule, "subscription_schedule.created")


def _phase_of(subscription: dict, start: int, end: int) -> dict:
    items = [_phase_item(i["price"], i.get("quantity"), i["metadata"]) for i in subscription["_items"]]
    return _phase(items, start, end, "create_prorations", subscription["currency"], {})


def _phase_item(price: str, quantity: int | None, metadata: dict) -> dict:
    return {"billing_thresholds": None, "discounts": [], "metadata": metadata, "plan": price, "price": price, "quantity": quantity, "tax_rates": []}


def _phase(items: list[dict], start: int, end: int, proration: str, currency: str, metadata: dict) -> dict:
    return {
        "add_invoice_items": [], "application_fee_percent": None, "automatic_tax": None, "billing_cycle_anchor": None, "billing_thresholds": None,
        "collection_method": None, "currency": currency, "default_payment_method": None, "default_tax_rates": [], "description": None, "discounts": [],
        "end_date": end, "invoice_settings": None, "items": items, "metadata": metadata, "on_behalf_of": None, "proration_behavior": proration,
        "start_date": start, "transfer_data": None, "trial_end": None,
    }  # fmt: skip


@route("POST", "/v1/subscription_schedules/{id}")
def schedule_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    """New phases: the one that runs must come first, each later one begins where the one before it ends."""
    schedule = _open(sandbox, id)
    subscription = sandbox.get("subscription", schedule["subscription"])
    rows = params.children("phases")
    if rows:
        schedule["phases"] = _phases(sandbox, subscription, rows, schedule["phases"][0]["start_date"])
    if "end_behavior" in params:
        schedule["end_behavior"] = params.text("end_behavior", choices=("release", "cancel"))
    params.text("proration_behavior", choices=PRORATIONS)
    schedule["metadata"] = params.mapping("metadata", schedule["metadata"])
    _arm(sandbox, schedule)
    return sandbox.save(schedule, "subscription_schedule.updated")


def _phases(sandbox: Sandbox, subscription: dict, rows: list[Params], begin: int) -> list[dict]:
    phases: list[dict] = []
    for index, row in enumerate(rows):
        start = row.moment("start_date", sandbox.now(), begin if index == 0 else phases[-1]["end_date"])
        items = []
        for item in row.children("items"):
            price = sandbox.get("price", item.text("price", required=True), item.label("price"))
            if price["currency"] != subscription["currency"]:
                raise StripeError(f"The price specified only supports `{price['currency']}`. This doesn't match the expected currency: `{subscription['currency']}`.", item.label("price"))
            metered = price["recurring"]["usage_type"] == "metered"
            items.append(_phase_item(price["id"], None if metered else item.integer("quantity", 1, low=0), item.mapping("metadata")))
        if not items:
            raise missing(row.label("items"))
        end = _phase_end(sandbox, row, start, items, last=index == len(rows) - 1)
        if end <= start:
            raise StripeError("A phase must end after it starts.", row.label("end_date"))
        proration = row.text("proration_behavior", "create_prorations", choices=PRORATIONS)
        phases.append(_phase(items, start, end, proration, subscription["currency"], row.mapping("metadata")))
    return phases


def _phase_end(sandbox: Sandbox, row: Params, start: int, items: list[dict], last: bool) -> int:
    end, duration = row.integer("end_date"), row.child("duration")
    if end is not None:
        return end
    if "interval" in duration:
        return add_interval(start, duration.text("interval", choices=("day", "week", "month", "year"), required=True), duration.integer("interval_count", 1, low=1))
    if not last:
        raise missing(row.label("end_date"))
    cycle = sandbox.store.get(items[0]["price"])["recurring"]
    return add_interval(start, cycle["interval"], cycle["interval_count"])


def _open(sandbox: Sandbox, id: str) -> dict:
    schedule = sandbox.get("subscription_schedule", id)
    if schedule["status"] not in OPEN:
        raise StripeError(f"This schedule is {schedule['status']}.", "id", "subscription_schedule_unexpected_state")
    return schedule


def _arm(sandbox: Sandbox, schedule: dict) -> None:
    """The next phase's start, or the last one's end."""
    now = sandbox.now()
    coming = [p["start_date"] for p in schedule["phases"] if p["start_date"] > now] or [schedule["phases"][-1]["end_date"]]
    sandbox.timer(schedule, "1_schedule", coming[0])


@timer("1_schedule")
def _step(sandbox: Sandbox, schedule: dict) -> None:
    if schedule["status"] not in OPEN:
        return
    now, subscription = sandbox.now(), sandbox.store.get(schedule["subscription"])
    if subscription["status"] in lifecycle.ENDED:
        _close(sandbox, schedule, "canceled")
        return
    phase = next((p for p in schedule["phases"] if p["start_date"] == now), None)
    if phase is None:
        _finish(sandbox, schedule, subscription)
        return
    _enter(sandbox, subscription, phase)
    schedule["current_phase"] = {"end_date": phase["end_date"], "start_date": phase["start_date"]}
    _arm(sandbox, schedule)
    sandbox.save(schedule, "subscription_schedule.updated")


def _enter(sandbox: Sandbox, subscription: dict, phase: dict) -> None:
    """Give the subscription the phase's items. At a period's end this comes before the renewal, so nothing is left to prorate."""
    wanted = {item["price"]: item for item in phase["items"]}
    rows: list[dict] = []
    for item in subscription["_items"]:
        known = wanted.pop(item["price"], None)
        rows.append({"id": item["id"], "deleted": "true"} if known is None else {"id": item["id"], **_quantity(known)})
    licensed_gone = [r for r in rows if "deleted" in r]
    for item in wanted.values():
        gone = licensed_gone.pop(0) if licensed_gone else None  # the old item takes the new price, as a plan change does
        if gone:
            gone.pop("deleted")
            gone |= {"price": item["price"], **_quantity(item)}
        else:
            rows.append({"price": item["price"], **_quantity(item)})
    boundary = sandbox.now() == lifecycle.period_of(subscription)[1]
    values = {"items": rows, "proration_behavior": "none" if boundary else phase["proration_behavior"]}
    changes.subscription_change(sandbox, subscription, Params(values))


def _quantity(item: dict) -> dict:
    return {} if item["quantity"] is None else {"quantity": str(item["quantity"])}


def _finish(sandbox: Sandbox, schedule: dict, subscription: dict) -> None:
    if schedule["end_behavior"] == "cancel":
        lifecycle.end_with_final_invoice(sandbox, subscription)
    _close(sandbox, schedule, "completed")


def _close(sandbox: Sandbox, schedule: dict, status: str) -> dict:
    """The subscription goes on without it."""
    stamp = {"completed": "completed_at", "released": "released_at", "canceled": "canceled_at"}[status]
    subscription = sandbox.store.get(schedule["subscription"])
    sandbox.save(subscription | {"schedule": None})
    sandbox.timer(schedule, "1_schedule", None)
    schedule |= {"status": status, stamp: sandbox.now(), "current_phase": None}
    if status == "released":
        schedule |= {"released_subscription": schedule["subscription"], "subscription": None}
    return sandbox.save(schedule, f"subscription_schedule.{status}")


@route("POST", "/v1/subscription_schedules/{id}/release")
def schedule_release(sandbox: Sandbox, params: Params, id: str) -> dict:
    params.boolean("preserve_cancel_date")
    return _close(sandbox, _open(sandbox, id), "released")


@route("POST", "/v1/subscription_schedules/{id}/cancel")
def schedule_cancel(sandbox: Sandbox, params: Params, id: str) -> dict:
    """Cancels the subscription too, at once."""
    schedule = _open(sandbox, id)
    subscription = sandbox.get("subscription", schedule["subscription"])
    lifecycle.subscription_end(sandbox, subscription, "canceled", reason="cancellation_requested")
    return _close(sandbox, schedule, "canceled")


@route("GET", "/v1/subscription_schedules/{id}")
def schedule_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("subscription_schedule", id)


@route("GET", "/v1/subscription_schedules")
def schedule_list(sandbox: Sandbox, params: Params) -> dict:
    return sandbox.page(params, "subscription_schedule", customer=params.text("customer"))
