"""The terms a subscription gives: limits, units without charge, rates; and what a change of plan is."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import datetime

from apps.billing.models import Interval, Plan, PlanVersion, Price, Subscription
from apps.tenants.context import bound
from apps.tenants.models import Tenant
from apps.usage.accounts import account_set_terms
from apps.usage.limits import LIMIT_NAMES

DEFAULT_CURRENCY = "usd"
Status = Subscription.Status
CAPPED = {Status.NONE, Status.FREE, Status.TRIALING}  # nothing beyond what is included: nobody pays for it


@dataclass(frozen=True, slots=True)
class Terms:
    currency: str
    entitlements: dict[str, int]
    included: dict[str, int]
    rates: dict[str, int | list[int]]


def free_version() -> PlanVersion:
    return Plan.objects.get(code="free").current


def version_in_force(row: Subscription) -> PlanVersion:
    """What the tenant bought; or what is sold now of the plan an operator gave it, while that holds."""
    given = Plan.objects.filter(code=row.by_hand).first() if row.by_hand else None
    return given and given.current or row.version


def terms_of(row: Subscription) -> Terms:
    """Of the version in force and the add-ons' together."""
    currency, version = row.currency or DEFAULT_CURRENCY, version_in_force(row)
    entitlements, included = dict(version.entitlements), dict(version.included)
    if row.provider_id and row.status != Status.FREE:
        for addon in row.addons.select_related("version"):
            for sums, more in ((entitlements, addon.version.entitlements), (included, addon.version.included)):
                for name, units in more.items():
                    sums[name] = sums.get(name, 0) + units * addon.quantity
    return Terms(currency, entitlements, included, version.rates.get(currency, {}))


def terms_apply(row: Subscription) -> None:
    """Tell the limits and the usage account what holds now; without a plan nothing does."""
    if row.status == Status.NONE and not row.by_hand:
        return
    terms = terms_of(row)
    Tenant.objects.filter(pk=row.tenant_id).update(entitlements={n: v for n, v in terms.entitlements.items() if n in LIMIT_NAMES})
    with bound(row.tenant):
        account_set_terms(currency=terms.currency, period_start=row.usage_start, period_end=row.usage_end, rates=terms.rates, included=terms.included,
                          plan_cap_micros=0 if row.status in CAPPED else None)  # fmt: skip


def terms_clear(row: Subscription) -> None:
    """Nothing holds any more: the installation's limits, no prices, no cap of a plan's."""
    Tenant.objects.filter(pk=row.tenant_id).update(entitlements={})
    with bound(row.tenant):
        account_set_terms(currency=row.currency or DEFAULT_CURRENCY, period_start=row.usage_start, period_end=row.usage_end, rates={}, included={})


def rank(price: Price | None, version: PlanVersion) -> tuple[int, int]:
    """Higher is more: first the plan, then the longer interval."""
    return version.plan.position, int(price is not None and price.interval == Interval.YEAR)


def month_after(moment: datetime, day: int) -> datetime:
    """The same time in the next month, on `day` or that month's last: the 31st of January, the 28th of February, the 31st of March."""
    year, month = moment.year + moment.month // 12, moment.month % 12 + 1
    return moment.replace(year=year, month=month, day=min(day, calendar.monthrange(year, month)[1]))
