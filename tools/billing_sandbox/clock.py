"""Pure time: billing periods as Stripe counts them, in UTC (docs.stripe.com/billing/subscriptions/billing-cycle).

The k-th boundary is always counted from the anchor, never from the boundary before it: a subscription anchored on 31 January renews
on 28 (29) February, 31 March, 30 April. A yearly one of 29 February renews on 28 February and, in leap years, on the 29th.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

SECONDS = {"day": 86_400, "week": 7 * 86_400}
MONTHS = {"month": 1, "year": 12}


def add_interval(anchor: int, interval: str, count: int) -> int:
    """`anchor` (unix seconds) plus `count` intervals (may be negative); the day is clamped to the month's last. Raises KeyError on an unknown interval."""
    if interval in SECONDS:
        return anchor + count * SECONDS[interval]
    begin = datetime.fromtimestamp(anchor, UTC)
    index = begin.year * 12 + begin.month - 1 + count * MONTHS[interval]
    year, month = divmod(index, 12)
    day = min(begin.day, calendar.monthrange(year, month + 1)[1])
    return int(begin.replace(year=year, month=month + 1, day=day).timestamp())


def period_around(anchor: int, interval: str, interval_count: int, at: int) -> tuple[int, int]:
    """(start, end) of the period with start <= at < end. Periods before the anchor exist too."""
    longest = {"day": 1, "week": 7, "month": 31, "year": 366}[interval] * 86_400 * interval_count
    k = (at - anchor) // longest  # never past the period sought, for at >= anchor
    while add_interval(anchor, interval, k * interval_count) > at:
        k -= 1
    while add_interval(anchor, interval, (k + 1) * interval_count) <= at:
        k += 1
    return add_interval(anchor, interval, k * interval_count), add_interval(anchor, interval, (k + 1) * interval_count)
