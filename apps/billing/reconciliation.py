"""Does it add up? Σ ledger = Σ roll-ups, Σ ledger of closed periods = Σ invoice lines, Σ ledger up to the last report = Σ reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q, Sum
from django.db.models.functions import TruncMonth

from apps.billing.models import Invoice, InvoiceLine, Subscription, UsageReport
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage.models import ClosedPeriod, UsageEntry, UsagePending, UsageRollup


@dataclass(frozen=True, slots=True)
class Standing:
    """One tenant and meter, in units of the meter."""

    tenant: str
    meter: str
    ledger: int
    rollups: int  # and what waits for them
    billed_ledger: int
    invoiced: int
    sent_ledger: int
    reported: int

    @property
    def difference(self) -> int:
        return abs(self.ledger - self.rollups) + abs(self.billed_ledger - self.invoiced) + abs(self.sent_ledger - self.reported)


def _sums(rows, **where) -> dict[str, int]:
    return {row["meter"]: row["units"] for row in rows.filter(**where).values("meter").annotate(units=Sum("quantity")).order_by("meter")}


def standing(tenant: Tenant) -> list[Standing]:
    """Of one tenant, a row a meter."""
    with bound_public():
        place = UsageReport.objects.filter(tenant=tenant).first()
        lines = _sums(InvoiceLine.objects.filter(tenant=tenant, kind=InvoiceLine.Kind.USAGE))
        bills = Subscription.objects.filter(tenant=tenant).exclude(status=Subscription.Status.NONE).exists()
    with bound(tenant):
        ledger, rolled = _sums(UsageEntry.objects.all()), _sums(UsageRollup.objects.filter(grain="day"))
        waiting = _sums(UsageEntry.objects.filter(id__in=UsagePending.objects.values("entry_id")))
        closed = list(ClosedPeriod.objects.values_list("number", flat=True)) if bills else []
        billed = _sums(UsageEntry.objects.filter(period__in=closed)) if closed else {}
        sent = _sums(UsageEntry.objects.filter(id__lte=place.through)) if place else {}
    reported = place.totals if place else {}
    return [Standing(tenant.slug, meter, ledger.get(meter, 0), rolled.get(meter, 0) + waiting.get(meter, 0), billed.get(meter, 0), lines.get(meter, 0), sent.get(meter, 0),
                     reported.get(meter, 0)) for meter in sorted({*ledger, *rolled, *lines, *reported})]  # fmt: skip


def standings() -> list[Standing]:
    with bound_public():
        tenants = list(Tenant.objects.real())
    return [row for tenant in tenants for row in standing(tenant)]


def revenue() -> list[dict[str, Any]]:
    """By month and currency, newest first; drafts and what was voided do not count."""
    counted = Invoice.objects.filter(finalized_at__isnull=False, total_cents__gt=0).exclude(status=Invoice.Status.VOID)
    rows = counted.annotate(at=TruncMonth("created_at")).values("at", "currency").annotate(
        invoiced_cents=Sum("total_cents"), paid_cents=Sum("paid_cents"), refunded_cents=Sum("refunded_cents"), open_cents=Sum("due_cents"))  # fmt: skip
    return [{**row, "month": f"{row['at']:%Y-%m}"} for row in rows.order_by("-at", "currency")]


def recurring() -> list[dict[str, Any]]:
    """Paying workspaces and what they pay a month, by plan and currency; a year counts a twelfth."""
    paying = Subscription.objects.filter(status__in=["active", "past_due"], price__isnull=False)
    rows = paying.values("version__plan__name", "price__currency", "price__interval").annotate(workspaces=Count("tenant_id"), cents=Sum("price__amount_cents"))
    return [{"plan": r["version__plan__name"], "currency": r["price__currency"], "interval": r["price__interval"], "workspaces": r["workspaces"],
             "monthly_cents": round(r["cents"] / (12 if r["price__interval"] == "year" else 1))} for r in rows.order_by("version__plan__name", "price__currency")]  # fmt: skip


def trials() -> dict[str, int]:
    return Subscription.objects.aggregate(trialing=Count("tenant_id", filter=Q(status="trialing")), unpaid=Count("tenant_id", filter=Q(status="unpaid")),
                                          past_due=Count("tenant_id", filter=Q(status="past_due")))  # fmt: skip
