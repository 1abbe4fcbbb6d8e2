"""What an operator does with plans: a draft of the next version, and its publication."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from apps.audit.services import audit_record
from apps.billing.models import Plan, PlanVersion, Price
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict
from apps.usage.limits import LIMIT_NAMES
from apps.usage.money import check_rates


@transaction.atomic
def version_draft(*, plan: Plan, actor: Actor) -> PlanVersion:
    """The unpublished version of a plan, a copy of what is sold now where there was none."""
    actor.require("platform")
    last = plan.versions.select_for_update().order_by("-number").first()
    if last is not None and last.published_at is None:
        return last
    terms = {n: getattr(last, n) for n in ("entitlements", "included", "rates", "trial_days")} if last else {}
    draft = PlanVersion.objects.create(plan=plan, number=last.number + 1 if last else 1, **terms)
    Price.objects.bulk_create([Price(version=draft, currency=p.currency, interval=p.interval, amount_cents=p.amount_cents) for p in (last.prices.all() if last else ())])
    return draft


def version_check(version: PlanVersion) -> None:
    """Raises BadRequest for limits, meters or rates that nothing knows."""
    if unknown := set(version.entitlements) - set(LIMIT_NAMES):
        raise BadRequest(f"entitlements: no limit {sorted(unknown)[0]!r}; there are {', '.join(LIMIT_NAMES)}", param="entitlements")
    if bad := {n: v for n, v in version.entitlements.items() if type(v) is not int or v < 0}:
        raise BadRequest(f"entitlements: {bad} are not whole numbers from 0", param="entitlements")
    check_rates(dict.fromkeys(version.included, 0))
    if any(type(units) is not int or units < 0 for units in version.included.values()):
        raise BadRequest("included: whole units from 0", param="included")
    for currency, rates in version.rates.items():
        if currency not in ("usd", "eur", "gbp"):
            raise BadRequest(f"rates: {currency[:10]!r} is not usd, eur or gbp", param="rates")
        check_rates(rates)


@transaction.atomic
def version_publish(*, version: PlanVersion, actor: Actor) -> PlanVersion:
    """Sell it from now on. What runs keeps the version it was bought with. Raises BadRequest, Conflict."""
    actor.require("platform")
    version = PlanVersion.objects.select_for_update().get(pk=version.pk)
    if version.published_at is not None:
        raise Conflict(f"{version} is published already")
    version_check(version)
    if version.plan.versions.aggregate(n=Max("number"))["n"] > version.number:
        raise Conflict(f"{version}: there is a newer version")
    version.published_at = timezone.now()
    version.save()
    prices = {str(p): p.amount_cents for p in version.prices.all()}
    terms = {n: getattr(version, n) for n in ("entitlements", "included", "rates", "trial_days")}
    audit_record(actor=actor, action="plan.published", target=str(version), after={**terms, "prices": prices})
    return version
