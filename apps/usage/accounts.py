"""The account of a tenant: prices of the open billing period, its close, the spend cap. Call with the tenant bound.

Money is in integer micro-units of the account's currency; see money.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction

from apps.audit.services import audit_record
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict, NotFound
from apps.tenants.context import current
from apps.tenants.models import Tenant
from apps.usage import rollups
from apps.usage.ledger import account_get, account_ready, check_meters
from apps.usage.models import Account, ClosedPeriod, OpenPeriod, tightest
from apps.usage.money import LARGEST_MICROS, Rate, check_rates, cost_micros

ALERTS = [50, 80, 100]  # per cent of the cap


@dataclass(frozen=True, slots=True)
class Spend:
    """What the open period has cost so far, and what it may."""

    currency: str
    spent_micros: int  # of the ledger's entries, to the last one
    held_micros: int  # more, that live sessions hold and may still use
    cap_micros: int | None  # the tenant's own
    plan_cap_micros: int | None  # the plan's: 0 = only what is included
    alerts: list[int]
    period: int
    starts: datetime | None
    ends: datetime | None

    @property
    def limit_micros(self) -> int | None:
        return tightest(self.cap_micros, self.plan_cap_micros)


def account_set_terms(*, currency: str, period_start: datetime, period_end: datetime, rates: Mapping[str, Rate], included: Mapping[str, int],
                      plan_cap_micros: int | None = None) -> None:
    """Prices and bounds of the open period. `rates`: meter -> micro-units a unit, or (micro-units, units); `included`: meter -> units
    without charge; `plan_cap_micros`: what the plan lets a period cost beyond what is included (0: nothing; None: no bound).

    They hold for all that the open period has used: close it first where used units keep their old price.
    Raises BadRequest; Conflict when the currency would change under usage.
    """  # fmt: skip
    if period_end <= period_start:
        raise BadRequest(f"a period from {period_start} to {period_end} has no length", param="period_end")
    if len(currency) != 3 or not currency.isalpha():
        raise BadRequest(f"currency {currency[:10]!r}: three letters, as in ISO 4217", param="currency")
    check_meters(dict(included))
    values = {"currency": currency.lower(), "rates": check_rates(rates), "included": dict(included), "plan_cap_micros": check_cap(plan_cap_micros)}
    account_ready()
    with transaction.atomic():
        OpenPeriod.objects.select_for_update().get(pk=1)
        account = Account.objects.select_for_update().get(pk=1)
        if account.currency and account.currency != values["currency"] and _spend(account).spent_micros:
            raise Conflict(f"this period has usage in {account.currency}; close it before the currency becomes {values['currency']}", param="currency")
        Account.objects.filter(pk=1).update(**values)
        OpenPeriod.objects.filter(pk=1).update(starts=period_start, ends=period_end)
        _tell_gateways(values["plan_cap_micros"], account.cap_micros)


def check_cap(cap_micros: int | None) -> int | None:
    """Raises BadRequest."""
    if cap_micros is not None and (type(cap_micros) is not int or not 0 <= cap_micros <= LARGEST_MICROS):
        raise BadRequest(f"a cap of {str(cap_micros)[:40]}: 0 or more micro-units, or none", param="cap")
    return cap_micros


def account_set_cap(*, cap_micros: int | None, alerts: list[int], actor: Actor) -> None:
    """The tenant's own spend cap a period, and at which per cent of it its owners get mail. Raises Forbidden, BadRequest."""
    actor.require("billing.write")
    check_cap(cap_micros)
    alerts = sorted(set(alerts))
    if not all(type(a) is int and 1 <= a <= 100 for a in alerts) or len(alerts) > 10:
        raise BadRequest(f"alerts {str(alerts)[:60]}: at most ten whole numbers from 1 to 100, per cent of the cap", param="alerts")
    account_ready()
    with transaction.atomic():
        account = Account.objects.select_for_update().get(pk=1)
        before = {"cap_micros": account.cap_micros, "alerts": account.alerts}
        Account.objects.filter(pk=1).update(cap_micros=cap_micros, alerts=alerts)
        _tell_gateways(account.plan_cap_micros, cap_micros)
        audit_record(actor=actor, action="cap.changed", target="account", before=before, after={"cap_micros": cap_micros, "alerts": alerts})


def _tell_gateways(*caps: int | None) -> None:
    """Their patrol reads it within seconds: sessions under a cap hold their usage ahead, the others do nothing."""
    Tenant.objects.filter(pk=current().tenant_id).update(capped=any(c is not None for c in caps))


def account_spend() -> Spend:
    return _spend(account_get())


def _spend(account: Account) -> Spend:
    period = OpenPeriod.objects.get(pk=1)
    used = rollups.totals(period.number)
    together = {m: account.used.get(m, 0) + account.held.get(m, 0) for m in {*account.used, *account.held}}  # of one moment: as the cap counts
    spent = cost_micros(used, account.rates, account.included)
    held = max(0, cost_micros(together, account.rates, account.included) - spent)  # what is not in the sums yet is spent, and still held too
    return Spend(account.currency, spent, held, account.cap_micros, account.plan_cap_micros, list(account.alerts), period.number, period.starts,
                 period.ends)  # fmt: skip


# Periods


@transaction.atomic
def period_close(*, ends: datetime) -> ClosedPeriod:
    """Close the open period at `ends` and open the next one: what is written from now on belongs to that. A repeat with the same `ends`
    gives the same period. Raises Conflict for an end at or before the open period's start (a clock that went back)."""
    account_ready()
    period = OpenPeriod.objects.select_for_update().get(pk=1)  # waits for entries under way; those that come wait for us
    if closed := ClosedPeriod.objects.filter(ends=ends).first():
        return closed
    last = ClosedPeriod.objects.order_by("-number").first()
    latest = max((t for t in (period.starts, last and last.ends) if t), default=None)
    if latest and ends <= latest:
        raise Conflict(f"period {period.number} began {latest.isoformat()}: it cannot have ended {ends.isoformat()}", param="ends")
    with connection.cursor() as cursor:
        rollups.lock(cursor)
        while rollups.roll_step(cursor):
            pass
        account = Account.objects.select_for_update().get(pk=1)
        closed = ClosedPeriod.objects.create(number=period.number, starts=period.starts, ends=ends, currency=account.currency, rates=account.rates,
                                             included=account.included, totals=rollups.totals(period.number))  # fmt: skip
        OpenPeriod.objects.filter(pk=1).update(number=period.number + 1, starts=ends, ends=None)
        rollups.settle([])
    return closed


def period_totals(number: int) -> dict[str, int]:
    """meter -> units of a period; final once it is closed. Raises NotFound."""
    account_ready()
    if not 1 <= number <= OpenPeriod.objects.get(pk=1).number:
        raise NotFound(f"no billing period {number}")
    return rollups.totals(number)

