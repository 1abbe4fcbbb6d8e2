"""Usage held ahead of its use, so that sessions that race one spend cap cannot pass it together.

A session holds units (milliseconds, tokens) before it uses them. Held units count against the cap until the ledger's entries are in
the sums (`settle`), or until the session is over or silent for TTL_S (`expire`): at every moment used + held covers what was used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta

from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from apps.common.errors import InsufficientQuota
from apps.usage.ledger import account_get, account_ready, check_meters
from apps.usage.models import Account, OpenPeriod, PeriodTotal, Reservation, UsageEntry, UsagePending
from apps.usage.money import ADD, COST, cost_micros

SECOND = {"session_ms": 1000, "audio_in_ms": 1000, "audio_out_ms": 1000}  # the unit of holding
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


def hold(*, session_id: str, units: Mapping[str, int]) -> tuple[bool, dict[str, int]]:
    """Hold those of these units that cost something: (does the cap allow it, which). The session lives on."""
    rates = account_get().rates
    wanted = {m: u for m, u in units.items() if u > 0 and rates.get(m, [0])[0] > 0}
    if not wanted:
        renew(session_id=session_id)
        return True, {}
    return reserve(session_id=session_id, units=wanted), wanted


def within(*, session_id: str, units: Mapping[str, int]) -> dict[str, int]:
    """The part of these units that may be billed: what the session holds, and what the cap still allows. In the entry's transaction."""
    account = account_get()
    if account.limit_micros is None:
        return dict(units)
    with connection.cursor() as cursor:  # in the order of every writer: the period, then the account; no roll between the look and the write
        cursor.execute("SELECT 1 FROM usage_openperiod WHERE id = 1 FOR KEY SHARE")
    Account.objects.select_for_update().get(pk=1)
    held = dict(Reservation.objects.filter(session_id=session_id).values_list("session_id", "held")).get(session_id, {})
    waiting = dict(UsageEntry.objects.filter(pk__in=UsagePending.objects.filter(session_id=session_id).values("entry_id"))
                   .values_list("meter").annotate(Sum("quantity")))  # fmt: skip
    allowed = dict(units)
    for meter, rate in account.rates.items():
        beyond = units.get(meter, 0) - max(0, held.get(meter, 0) - waiting.get(meter, 0))
        if rate[0] and beyond > 0:
            allowed[meter] -= beyond - _reserve_most(session_id, meter, beyond)
    return allowed


def _reserve_most(session_id: str, meter: str, units: int) -> int:
    """Hold as many of these units as the cap allows, to a sixteenth."""
    step, got = units, 0
    while step and got < units:
        if reserve(session_id=session_id, units={meter: min(step, units - got)}):
            got += min(step, units - got)
        elif step <= units // 16:
            break
        else:
            step //= 2
    return got


def check_open() -> None:
    """Is there anything left under the cap, for a second of sound and of the session? Raises InsufficientQuota."""
    account = account_get()
    if (limit := account.limit_micros) is None:
        return
    together = {m: account.used.get(m, 0) + account.held.get(m, 0) + SECOND.get(m, 1) for m in account.rates}
    if cost_micros(together, account.rates, account.included) > limit:
        raise InsufficientQuota(refusal(account)[1])


def refusal(account: Account) -> tuple[str, str]:
    """(code, message) of the cap that holds."""
    own, plan = account.cap_micros, account.plan_cap_micros
    if own is not None and (plan is None or own <= plan):
        return "billing_hard_limit_reached", "The spend cap of this workspace is reached; raise it on the usage page, or wait for the next period."
    return "insufficient_quota", "What the plan of this workspace includes is used up; change the plan, or wait for the next period."


def renew(*, session_id: str) -> None:
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
