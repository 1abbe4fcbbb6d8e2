"""Usage held ahead of its use, so that sessions that race one spend cap cannot pass it together.

A session holds units (milliseconds, tokens) before it uses them. Held units count against the cap until the ledger's entries are in
the sums (`settle`), or until the session is over or silent for TTL_S (`expire`): at every moment used + held covers what was used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta

from django.db import connection
from django.utils import timezone

from apps.usage.ledger import account_ready, check_meters
from apps.usage.models import Account, OpenPeriod, PeriodTotal, Reservation, UsagePending
from apps.usage.money import ADD, COST

TTL_S = 60  # a session that was killed gives its units back after this
_CAP = "least(cap_micros, plan_cap_micros)"  # NULL is no cap
_BOTH = ADD.format(a="used", b="held")
_HELD = ADD.format(a="held", b="%(units)s::jsonb")
_RESERVE = f"""
WITH granted AS (
    UPDATE usage_account SET held = {_HELD}
    WHERE id = 1 AND ({_CAP} IS NULL OR {COST.format(units=ADD.format(a=_BOTH, b="%(units)s::jsonb"))} <= {_CAP})
    RETURNING id
)
INSERT INTO usage_reservation AS old (session_id, held, expires_at)
SELECT %(session_id)s, %(units)s::jsonb, now() + %(ttl)s * interval '1 second' FROM granted
ON CONFLICT (session_id) DO UPDATE SET held = {ADD.format(a="old.held", b="EXCLUDED.held")}, expires_at = EXCLUDED.expires_at
RETURNING session_id
"""


def reserve(*, session_id: str, units: Mapping[str, int]) -> bool:
    """Hold these units for a session, or nothing: False where their cost would pass the cap. One conditional UPDATE. Raises BadRequest."""
    check_meters(dict(units))
    account_ready()
    with connection.cursor() as cursor:
        cursor.execute(_RESERVE, {"session_id": session_id, "units": json.dumps(dict(units)), "ttl": TTL_S})
        return cursor.fetchone() is not None


def renew(*, session_id: str) -> None:
    """The session lives on."""
    Reservation.objects.filter(session_id=session_id).update(expires_at=timezone.now() + timedelta(seconds=TTL_S))


def release(*, session_id: str) -> None:
    """The session is over: what it did not use is free as soon as its entries are in the sums."""
    Reservation.objects.filter(session_id=session_id).update(expires_at=timezone.now())


def settle(rows: Iterable[tuple[str, int, str, int]]) -> None:
    """Units that reached the sums are used, no longer held. `rows`: (session, period, meter, units). Call under the roll-up's lock."""
    account = Account.objects.select_for_update().filter(pk=1).first()
    if account is None:
        return
    number = OpenPeriod.objects.values_list("number", flat=True).get(pk=1)
    account.used = dict(PeriodTotal.objects.filter(period=number).values_list("meter", "quantity"))
    if account.held:
        _give_back(account, rows)
    account.save(update_fields=["used", "held"])


def _give_back(account: Account, rows: Iterable[tuple[str, int, str, int]]) -> None:
    used: dict[str, dict[str, int]] = {}
    for session_id, _, meter, units in rows:
        of_session = used.setdefault(session_id, {})
        of_session[meter] = of_session.get(meter, 0) + units
    now = timezone.now()
    for row in Reservation.objects.select_for_update():
        over = row.expires_at <= now and not UsagePending.objects.filter(session_id=row.session_id).exists()
        back = dict(row.held) if over else {m: min(u, row.held.get(m, 0)) for m, u in used.get(row.session_id, {}).items()}
        if over:
            row.delete()
        elif any(back.values()):
            row.held = _less(row.held, back)
            row.save(update_fields=["held"])
        account.held = _less(account.held, back)


def _less(units: dict[str, int], taken: dict[str, int]) -> dict[str, int]:
    left = {m: u - taken.get(m, 0) for m, u in units.items()}
    return {m: u for m, u in left.items() if u > 0}
