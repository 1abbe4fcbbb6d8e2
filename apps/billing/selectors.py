"""Reads: invoices of a tenant, and the way from a line to the turns behind it."""

from __future__ import annotations

from django.db.models import QuerySet

from apps.billing.models import Invoice, InvoiceLine
from apps.common.errors import NotFound
from apps.tenants.models import Tenant
from apps.usage.models import UsageEntry


def invoices(tenant: Tenant) -> QuerySet[Invoice]:
    return Invoice.objects.filter(tenant=tenant)


def invoice_get(tenant: Tenant, invoice_id: str) -> Invoice:
    """Raises NotFound, for another tenant's too."""
    found = None if "\0" in invoice_id else invoices(tenant).filter(pk=invoice_id).first()
    if found is None:
        raise NotFound(f"no invoice {invoice_id[:60]!r}")
    return found


def line_get(invoice: Invoice, line_id: int) -> InvoiceLine:
    """A usage line. Raises NotFound."""
    found = invoice.lines.filter(pk=line_id, kind=InvoiceLine.Kind.USAGE).first() if 0 < line_id < 2**63 else None
    if found is None:
        raise NotFound(f"no usage line {line_id}")
    return found


def line_entries(line: InvoiceLine) -> QuerySet[UsageEntry]:
    """The ledger's entries of a line: exactly those of its period and meter. Call with the tenant bound."""
    return UsageEntry.objects.filter(period=line.period, meter=line.meter).order_by("id")
