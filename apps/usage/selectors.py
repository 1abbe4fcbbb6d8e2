"""What the usage pages and API show. Sums of a range by day, agent, key and meter, to the last entry committed; the forecast of a period."""

from __future__ import annotations

import calendar
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from apps.common.errors import BadRequest
from apps.conversations.models import VoiceSession
from apps.usage.accounts import Spend, account_spend
from apps.usage.ledger import account_get
from apps.usage.models import Grain, Meter, UnbilledEntry
from apps.usage.money import cost_micros, line_micros
from apps.usage.rollups import totals

LONGEST_DAYS = 400
BY = ("day", "agent", "key")
ZONES = frozenset(available_timezones())

_WAITING = """
    SELECT e.at, e.agent_id, e.key_id, e.meter, e.quantity FROM usage_usageentry AS e JOIN usage_usagepending AS p ON p.entry_id = e.id
    WHERE e.at >= %(first)s AND e.at < %(end)s
"""
# Each agent and key over all days: whole days of UTC, at the edges hours and minutes. Each day of the zone: out of quarters of an hour, for
# zones lie whole quarters apart (IANA database, since 1972). What still waits is added from the ledger itself.
_SUMS = f"""
WITH waiting AS MATERIALIZED ({_WAITING}),
    parts AS (
        SELECT r.agent_id, r.key_id, r.meter, r.quantity
        FROM unnest(%(grains)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[]) AS piece (grain, starts, ends)
        JOIN usage_usagerollup AS r ON r.grain = piece.grain AND r.starts >= piece.starts AND r.starts < piece.ends
        UNION ALL SELECT agent_id, key_id, meter, quantity FROM waiting
    ),
    moments AS (
        SELECT starts AS at, meter, quantity FROM usage_usagerollup WHERE grain = '15min' AND starts >= %(first)s AND starts < %(end)s
        UNION ALL SELECT at, meter, quantity FROM waiting
    )
SELECT NULL, agent_id, key_id, meter, sum(quantity)::bigint FROM parts GROUP BY GROUPING SETS ((agent_id, meter), (key_id, meter), (meter))
UNION ALL SELECT (at AT TIME ZONE %(zone)s)::date AS day, NULL, NULL, meter, sum(quantity)::bigint FROM moments GROUP BY day, meter
"""
# Whole days of a zone out of the coarsest sums that fit it.
_PARTS = f"""
    SELECT starts AS at, agent_id, key_id, meter, quantity FROM usage_usagerollup WHERE grain = %(grain)s AND starts >= %(first)s AND starts < %(end)s
    UNION ALL {_WAITING}
"""
_ROWS = f"""
SELECT day, agent_id, key_id, meter, sum(quantity)::bigint
FROM (SELECT (at AT TIME ZONE %(zone)s)::date AS day, agent_id, key_id, meter, quantity FROM ({_PARTS}) AS parts) AS days
GROUP BY day, agent_id, key_id, meter ORDER BY day, agent_id, key_id, meter
"""


@dataclass(frozen=True, slots=True)
class Range:
    """Whole days of a zone, both ends included."""

    first: date
    last: date
    zone: str = "UTC"

    def __post_init__(self):
        if self.zone not in ZONES:
            raise BadRequest(f"time zone {self.zone[:40]!r}: a name of the IANA database, as Europe/Berlin", param="zone")
        if not date(2000, 1, 1) <= self.first <= self.last <= date(2200, 1, 1):
            raise BadRequest(f"from {self.first} to {self.last} is not a range of days", param="first")
        if (self.last - self.first).days >= LONGEST_DAYS:
            raise BadRequest(f"from {self.first} to {self.last} are more than {LONGEST_DAYS} days", param="last")

    def values(self) -> dict[str, Any]:
        zone = ZoneInfo(self.zone)
        first, end = (datetime(d.year, d.month, d.day, tzinfo=zone).astimezone(UTC) for d in (self.first, self.last + timedelta(days=1)))
        offsets = {datetime(d.year, d.month, d.day, tzinfo=zone).utcoffset().total_seconds() for d in self.days}
        grain = Grain.DAY if offsets == {0} else Grain.HOUR if all(o % 3600 == 0 for o in offsets) else Grain.MINUTE
        grains, starts, ends = zip(*_pieces(first, end), strict=True)
        return {"first": first, "end": end, "zone": self.zone, "grain": grain, "grains": list(grains), "starts": list(starts), "ends": list(ends)}

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]


def _pieces(first: datetime, end: datetime) -> Iterator[tuple[Grain, datetime, datetime]]:
    """The same time in as few sums as can be: (grain, from, to)."""
    hour, day = timedelta(hours=1), timedelta(days=1)
    bounds = [first, *(_up(first, grain) for grain in (hour, day)), *(_down(end, grain) for grain in (day, hour)), end]
    if bounds[2] > bounds[3]:  # no whole day
        bounds[2] = bounds[3] = min(max(bounds[1], bounds[3]), end)
    for grain, starts, ends in zip((Grain.MINUTE, Grain.HOUR, Grain.DAY, Grain.HOUR, Grain.MINUTE), bounds, bounds[1:], strict=False):
        if starts < ends:
            yield grain, starts, ends


def _down(moment: datetime, grain: timedelta) -> datetime:
    return moment - (moment - datetime(2000, 1, 1, tzinfo=UTC)) % grain


def _up(moment: datetime, grain: timedelta) -> datetime:
    return _down(moment + grain - timedelta(microseconds=1), grain)


@dataclass
class Usage:
    """Units by meter: of each day, agent and key, and of all."""

    days: dict[date, dict[str, int]] = field(default_factory=dict)
    agents: dict[str, dict[str, int]] = field(default_factory=dict)
    keys: dict[str, dict[str, int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    def by(self, what: str) -> dict[Any, dict[str, int]]:
        return {"day": self.days, "agent": self.agents, "key": self.keys}[what]


def usage_of(span: Range) -> Usage:
    usage = Usage()
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, span.values())
        for day, agent_id, key_id, meter, units in cursor.fetchall():
            if day is not None:
                usage.days.setdefault(day, {})[meter] = units
            elif agent_id is not None:
                usage.agents.setdefault(agent_id, {})[meter] = units
            elif key_id is not None:
                usage.keys.setdefault(key_id, {})[meter] = units
            else:
                usage.totals[meter] = units
    usage.days = {day: usage.days.get(day, {}) for day in span.days}
    return usage


def usage_csv(span: Range) -> Iterator[str]:
    """Lines: day, agent, key, meter, units."""
    with connection.cursor() as cursor:
        cursor.execute(_ROWS, span.values())
        for row in [("day", "agent_id", "key_id", "meter", "units"), *cursor.fetchall()]:
            line = io.StringIO()
            csv.writer(line).writerow(row)
            yield line.getvalue()


def unbilled_of(span: Range) -> dict[str, int]:
    """Units that no client got, by meter."""
    at = span.values()
    rows = UnbilledEntry.objects.filter(at__gte=at["first"], at__lt=at["end"]).values_list("meter").annotate(Sum("quantity"))
    return dict(rows)


def running_ms() -> int:
    """How long live sessions have lasted since their last turn: not in the ledger yet."""
    now = timezone.now()
    live = VoiceSession.objects.filter(state=VoiceSession.State.LIVE, opened_at__gt=now - timedelta(seconds=settings.MAX_SESSION_SECONDS + 300))
    return sum(max(0, round((now - opened).total_seconds() * 1000) - known) for opened, known in live.values_list("opened_at", "session_ms"))


# Money


@dataclass(frozen=True, slots=True)
class Line:
    meter: str
    units: int
    included: int
    micros: int
    forecast_units: int
    forecast_micros: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The open period: what it cost so far and, if it goes on as it began, will cost at its end."""

    spend: Spend
    starts: datetime
    ends: datetime
    elapsed: float  # share of the period, 0-1
    lines: list[Line]
    forecast_micros: int

    @property
    def per_cent(self) -> int | None:
        """Of the tightest cap."""
        limit = self.spend.limit_micros
        return None if limit is None else 100 if not limit else min(100, self.spend.spent_micros * 100 // limit)


def month_of(moment: datetime) -> tuple[datetime, datetime]:
    """The calendar month in UTC."""
    starts = moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return starts, starts + timedelta(days=calendar.monthrange(starts.year, starts.month)[1])


def forecast(now: datetime | None = None) -> Forecast:
    """Without a billing period of its own a workspace has calendar months."""
    now, account, spend = now or timezone.now(), account_get(), account_spend()
    month = month_of(now)
    starts, ends = spend.starts or month[0], spend.ends or month[1]
    elapsed = min(1.0, max(0.0, (now - starts) / (ends - starts))) if ends > starts else 1.0
    used = totals(spend.period) if spend.starts else usage_of(Range(starts.date(), max(starts, min(now, ends - timedelta(seconds=1))).date())).totals
    later = {m: round(units / elapsed) if elapsed > 0.001 else units for m, units in used.items()}
    lines = [_line(m, used.get(m, 0), later.get(m, 0), account.rates, account.included) for m in Meter.values if m in used or m in account.rates]
    return Forecast(spend, starts, ends, elapsed, lines, cost_micros(later, account.rates, account.included))


def _line(meter: str, units: int, later: int, rates: Mapping[str, list[int]], included: Mapping[str, int]) -> Line:
    rate, free = rates.get(meter, [0, 1]), included.get(meter, 0)
    return Line(meter, units, free, line_micros(units, rate, free), later, line_micros(later, rate, free))
