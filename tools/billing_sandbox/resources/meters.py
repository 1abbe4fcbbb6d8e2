"""Billing meters, meter events (idempotent by identifier) and their sums."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from tools.billing_sandbox.errors import StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import Sandbox, listing, route

OLDEST_S, NEWEST_S = 35 * 86_400, 300  # how far in the past and future an event may lie
WINDOWS = {"hour": 3600, "day": 86_400}


@route("POST", "/v1/billing/meters")
def meter_create(sandbox: Sandbox, params: Params) -> dict:
    name = params.text("event_name", required=True, limit=100)
    if any(m["event_name"] == name and m["status"] == "active" for m in sandbox.find("billing.meter")):
        raise StripeError(f"An active meter with event_name {name} exists already.", "event_name", "duplicate_meter")
    mapping, value = params.child("customer_mapping"), params.child("value_settings")
    meter = {
        "id": sandbox.new_id("mtr"), "object": "billing.meter", "created": sandbox.now(),
        "customer_mapping": {"event_payload_key": mapping.text("event_payload_key", "stripe_customer_id"), "type": mapping.text("type", "by_id", choices=("by_id",))},
        "default_aggregation": {"formula": params.child("default_aggregation").text("formula", choices=("sum", "count", "last"), required=True)},
        "display_name": params.text("display_name", required=True, limit=250), "event_name": name, "event_time_window": None, "livemode": False,
        "status": "active", "status_transitions": {"deactivated_at": None}, "updated": sandbox.now(),
        "value_settings": {"event_payload_key": value.text("event_payload_key", "value")},
    }  # fmt: skip
    return sandbox.save(meter, "billing.meter.created")


@route("GET", "/v1/billing/meters/{id}")
def meter_get(sandbox: Sandbox, params: Params, id: str) -> dict:
    return sandbox.get("billing.meter", id)


@route("POST", "/v1/billing/meters/{id}")
def meter_update(sandbox: Sandbox, params: Params, id: str) -> dict:
    meter = sandbox.get("billing.meter", id)
    meter |= {"display_name": params.text("display_name", meter["display_name"]), "updated": sandbox.now()}
    return sandbox.save(meter, "billing.meter.updated")


@route("POST", "/v1/billing/meters/{id}/{act}")
def meter_switch(sandbox: Sandbox, params: Params, id: str, act: str) -> dict:
    meter = sandbox.get("billing.meter", id)
    if act not in ("deactivate", "reactivate"):
        raise StripeError(f"Unrecognized request URL (POST: /v1/billing/meters/{id}/{act}).")
    inactive = act == "deactivate"
    meter |= {"status": "inactive" if inactive else "active", "status_transitions": {"deactivated_at": sandbox.now() if inactive else None}}
    return sandbox.save(meter, f"billing.meter.{act}d")


@route("GET", "/v1/billing/meters")
def meter_list(sandbox: Sandbox, params: Params) -> dict:
    return sandbox.page(params, "billing.meter", url="/v1/billing/meters", status=params.text("status"))


@route("POST", "/v1/billing/meter_events")
def meter_event_create(sandbox: Sandbox, params: Params) -> dict:
    """Raises StripeError: a second event with an identifier is refused (400), as Stripe does; the caller takes that for success."""
    name, payload = params.text("event_name", required=True), params.mapping("payload")
    meter = next((m for m in sandbox.find("billing.meter", status="active") if m["event_name"] == name), None)
    if meter is None:
        raise StripeError(f"There is no active meter with event_name {name}.", "event_name", "no_meter")
    customer = payload.get(meter["customer_mapping"]["event_payload_key"], "")
    sandbox.get("customer", customer, f"payload[{meter['customer_mapping']['event_payload_key']}]")
    value = _value(payload, meter)
    now, at = sandbox.now(), params.moment("timestamp", sandbox.now(), sandbox.now())
    if at < now - OLDEST_S:
        raise StripeError(f"The timestamp {at} is more than 35 days in the past (it is {now}).", "timestamp", "timestamp_too_far_in_past")
    if at > now + NEWEST_S:
        raise StripeError(f"The timestamp {at} is more than 5 minutes in the future (it is {now}).", "timestamp", "timestamp_in_future")
    identifier = params.text("identifier", limit=100) or sandbox.new_id("mtrevt")
    if not sandbox.store.add_usage(identifier, name, customer, at, value):
        raise StripeError(f"An event already exists with identifier {identifier}.", "identifier")
    return {"object": "billing.meter_event", "created": now, "event_name": name, "identifier": identifier, "livemode": False, "payload": payload, "timestamp": at}


def _value(payload: dict, meter: dict) -> str:
    key = meter["value_settings"]["event_payload_key"]
    if meter["default_aggregation"]["formula"] == "count":
        return payload.get(key, "1")
    text = payload.get(key, "")
    if not re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,12})?", text):
        raise StripeError(f"Invalid value {text!r}: expected a number of at most 15 digits.", f"payload[{key}]", "invalid_value")
    return text


@route("POST", "/v1/billing/meter_event_adjustments")
def meter_event_adjust(sandbox: Sandbox, params: Params) -> dict:
    """Take one event back, within 24 h of it."""
    name, identifier = params.text("event_name", required=True), params.child("cancel").text("identifier", required=True)
    params.text("type", choices=("cancel",), required=True)
    if not sandbox.store.drop_usage(identifier, name, sandbox.now() - 86_400):
        raise StripeError(f"There is no event {identifier} of the last 24 hours.", "cancel[identifier]", "resource_missing")
    return {"object": "billing.meter_event_adjustment", "cancel": {"identifier": identifier}, "event_name": name, "livemode": False, "status": "complete", "type": "cancel"}


@route("GET", "/v1/billing/meters/{id}/event_summaries")
def meter_summaries(sandbox: Sandbox, params: Params, id: str) -> dict:
    meter = sandbox.get("billing.meter", id)
    customer = sandbox.get("customer", params.text("customer", required=True), "customer")["id"]
    start, end = params.integer("start_time", required=True), params.integer("end_time", required=True)
    window = params.text("value_grouping_window", choices=tuple(WINDOWS))
    limit, after = params.integer("limit", 10, low=1, high=100), params.text("starting_after")
    if start % 60 or end % 60 or start >= end:
        raise StripeError("start_time and end_time must be aligned with minute boundaries, the start before the end.", "start_time")
    step = WINDOWS[window] if window else end - start
    spans = [(t, min(t + step, end)) for t in range(start - start % step if window else start, end, step)]
    rows = [_summary(sandbox, meter, customer, a, b) for a, b in reversed(spans)]
    rows = [row for row in rows if row["aggregated_value"] or not window]
    if after:
        rows = rows[next((i for i, row in enumerate(rows) if row["id"] == after), len(rows)) + 1 :]
    return listing(rows[:limit], f"/v1/billing/meters/{id}/event_summaries", len(rows) > limit)


def _summary(sandbox: Sandbox, meter: dict, customer: str, start: int, end: int) -> dict[str, Any]:
    value = aggregated(sandbox, meter, customer, start, end)
    return {"id": f"mtrusg_{meter['id'][4:]}_{start}_{end}", "object": "billing.meter_event_summary", "aggregated_value": float(value) if value % 1 else int(value),
            "start_time": start, "end_time": end, "livemode": False, "meter": meter["id"]}  # fmt: skip


def aggregated(sandbox: Sandbox, meter: dict, customer: str, start: int, end: int) -> Decimal:
    """What `customer` used in [start, end), by the meter's formula; never below 0."""
    values = sandbox.store.usage(meter["event_name"], customer, start, end)
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return Decimal(len(values))
    numbers = [Decimal(v) for v in values]
    return max(Decimal(0), sum(numbers, Decimal(0)) if formula == "sum" else (numbers[-1] if numbers else Decimal(0)))
