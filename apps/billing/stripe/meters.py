"""Usage at the provider's meters."""

from __future__ import annotations

import threading
from datetime import datetime

import stripe

from apps.billing.stripe.client import calling

_meters: dict[str, str] = {}  # event name -> id, as this process has seen
_meters_lock = threading.Lock()


def _meter(name: str) -> str:
    """The id of our meter, made where there is none."""
    with _meters_lock:
        return _meters.get(name) or _meter_find(name) or _meter_make(name)


def _meter_find(name: str) -> str:
    _meters.update({m.event_name: m.id for m in stripe.billing.Meter.list(status="active", limit=100).auto_paging_iter()})
    return _meters.get(name, "")


def _meter_make(name: str) -> str:
    try:
        made = stripe.billing.Meter.create(display_name=name, event_name=name, default_aggregation={"formula": "sum"},
                                           customer_mapping={"type": "by_id", "event_payload_key": "stripe_customer_id"}, value_settings={"event_payload_key": "value"})  # fmt: skip
    except stripe.InvalidRequestError:
        if found := _meter_find(name):  # another process was first
            return found
        raise
    _meters[name] = made.id
    return made.id


def usage_report(customer_id: str, *, meter: str, units: int, identifier: str, at: datetime) -> None:
    """One ledger entry; a second report with the same identifier changes nothing. What is older than 35 days is reported as of now."""
    name = f"vivavoce_{meter}"
    values = {"event_name": name, "payload": {"stripe_customer_id": customer_id, "value": str(units)}, "identifier": identifier}
    with calling():
        _meter(name)
        try:
            stripe.billing.MeterEvent.create(**values, timestamp=int(at.timestamp()))
        except stripe.InvalidRequestError as error:
            if error.code in ("timestamp_too_far_in_past", "timestamp_in_future"):
                error = _report_now(values)
            if error is not None and "already exists with identifier" not in str(error):
                raise error


def _report_now(values: dict) -> stripe.InvalidRequestError | None:
    try:
        stripe.billing.MeterEvent.create(**values)
    except stripe.InvalidRequestError as error:
        return error
    return None


def usage_reported(customer_id: str, meter: str, starts: datetime, ends: datetime) -> int:
    """What the provider's meter counted for a customer between two times, to the minute."""
    bounds = {"start_time": int(starts.timestamp()) // 60 * 60, "end_time": -(-int(ends.timestamp()) // 60) * 60}
    with calling():
        rows = stripe.billing.Meter.list_event_summaries(_meter(f"vivavoce_{meter}"), customer=customer_id, **bounds, limit=100).auto_paging_iter()
        return sum(int(row.aggregated_value) for row in rows)
