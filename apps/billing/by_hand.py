"""A plan that an operator gives by hand, until a time: its terms hold in place of those of the plan the workspace has.

Nothing is bought or charged for it. A workspace that pays goes on paying and pays units beyond the included ones at the given plan's
price; one that does not has only what is included.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.billing.invoicing import usage_close, usage_collect
from apps.billing.models import Plan, Subscription
from apps.billing.subscriptions import living, subscription_lock, subscription_row
from apps.billing.terms import month_after, terms_apply, terms_clear
from apps.common.actors import Actor
from apps.common.errors import BadRequest
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_override

Status = Subscription.Status


@transaction.atomic
def override_set(*, tenant: Tenant, limits: dict[str, Any], plan: str, until: datetime | None, actor: Actor) -> None:
    """Limits and a plan (its code, "" = none) in place of those of the plan it has, until then (None: no end). Raises Forbidden, BadRequest, Conflict."""
    actor.require("platform")
    known = {p.code for p in Plan.objects.filter(kind=Plan.Kind.BASE) if p.current}
    if plan and plan not in known:
        raise BadRequest(f"no plan {plan[:40]!r}; there are {', '.join(sorted(known))}", param="plan")
    tenant_override(tenant=tenant, actor=actor, limits=limits, plan=plan, until=until)
    if plan or Subscription.objects.filter(tenant=tenant).exclude(by_hand="").exists():
        subscription_row(tenant)
        follow(tenant.id)


def changed() -> list[str]:
    """Tenants whose plan by hand began or ended and is not in force yet, or still."""
    rows = living().exclude(by_hand="", tenant__plan="").select_related("tenant")
    return [row.tenant_id for row in rows if row.tenant.plan_by_hand != row.by_hand]


@transaction.atomic
def follow(tenant_id: str) -> int:
    """Let the plan by hand, or its end, come into force. What was used until now keeps its old price. 1 when something changed."""
    row, now = subscription_lock(tenant_id), timezone.now()
    row.tenant.refresh_from_db()
    if row.by_hand == row.tenant.plan_by_hand:
        return 0
    if row.usage_end is not None:
        usage_close(row, now)
    row.by_hand, row.usage_start = row.tenant.plan_by_hand, now
    row.usage_end = row.usage_end or month_after(now, now.day)
    if row.status == Status.NONE and not row.by_hand:
        terms_clear(row)
        row.usage_end = None
    else:
        terms_apply(row)
    row.save()
    if not row.provider_id:
        usage_collect(row)
    return 1
