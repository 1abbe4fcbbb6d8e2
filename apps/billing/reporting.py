"""Usage to the provider's meters. The ledger is the outbox: a row says how far it was reported; each entry goes by its own id, so that a
repeat after a crash counts once. While the provider is away the place stays where it is, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
PARALLEL = 8  # requests at once


def _settled() -> int:
    """The newest entry with none still on its way before it: who writes holds the period's row, and we ask for it for an instant."""
    with transaction.atomic():
        list(OpenPeriod.objects.select_for_update().filter(pk=1))
        return UsageEntry.objects.aggregate(last=Max("id"))["last"] or 0


def usage_report(tenant: Tenant, deadline: datetime) -> int:
    """Report what is new in a tenant's ledger; returns how many entries. One caller a tenant at a time. Raises ProviderUnavailable."""
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

    def send(entry: UsageEntry) -> None:
        stripe.usage_report(customer_id, meter=entry.meter, units=entry.quantity, identifier=f"{tenant.id}-{entry.id}", at=entry.at)

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(send, entries))  # the first that fails ends it: all of the batch goes again, and what went counts once
    totals = dict(place.totals)
    for entry in entries:
        totals[entry.meter] = totals.get(entry.meter, 0) + entry.quantity
    with bound_public():
        through = entries[-1].id if len(entries) == BATCH else last
        UsageReport.objects.filter(tenant=tenant).update(through=through, totals=totals, at=timezone.now())
    return len(entries)
