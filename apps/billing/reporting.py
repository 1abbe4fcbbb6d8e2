"""Usage to the provider's meters. The ledger is the outbox: a row says how far it was reported; each entry goes by its own id, so that a
repeat after a crash counts once. While the provider is away the place stays where it is, and nothing is lost."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from apps.billing import stripe
from apps.billing.models import Subscription, UsageReport
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage.models import OpenPeriod, UsageEntry

BATCH = 100  # entries between two notes of the place


def _settled() -> int:
    """The newest entry with none still on its way before it: who writes holds the period's row, and we ask for it for an instant."""
    with transaction.atomic():
        list(OpenPeriod.objects.select_for_update().filter(pk=1))
        return UsageEntry.objects.aggregate(last=Max("id"))["last"] or 0


def usage_report(tenant: Tenant, deadline: datetime) -> int:
    """Report what is new in a tenant's ledger; returns how many entries. One caller a tenant at a time. Raises ProviderUnavailable; what was sent is noted."""
    row = Subscription.objects.filter(tenant=tenant).first()
    if row is None or not row.customer_id:
        return 0
    with bound(tenant):
        last = UsageEntry.objects.aggregate(last=Max("id"))["last"] or 0
    place, _ = UsageReport.objects.get_or_create(tenant=tenant)
    if last <= place.through:
        return 0
    with bound(tenant):
        last, sent = _settled(), 0
    while place.through < last and timezone.now() < deadline:
        sent += _batch(tenant, row.customer_id, last)
        place.refresh_from_db()
    return sent


@transaction.atomic
def _batch(tenant: Tenant, customer_id: str, last: int) -> int:
    with bound_public():
        place = UsageReport.objects.select_for_update(skip_locked=True).filter(tenant=tenant).first()
        if place is None:
            return 0
    with bound(tenant):
        entries = list(UsageEntry.objects.filter(id__gt=place.through, id__lte=last).order_by("id")[:BATCH])
    done, totals = place.through, dict(place.totals)
    try:
        for entry in entries:
            stripe.usage_report(customer_id, meter=entry.meter, units=entry.quantity, identifier=f"{tenant.id}-{entry.id}", at=entry.at)
            done, totals[entry.meter] = entry.id, totals.get(entry.meter, 0) + entry.quantity
        done = done if len(entries) == BATCH else last
    except stripe.ProviderUnavailable:
        if done == place.through:
            raise
    with bound_public():
        UsageReport.objects.filter(tenant=tenant).update(through=done, totals=totals, at=timezone.now())
    return len(entries)
