"""When a payment fails: the provider's retries, our notices, the grace, the suspension, and back."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from apps.billing import stripe
from apps.billing.facts import InvoiceFact
from apps.billing.invoicing import invoice_sync
from apps.billing.models import Invoice, Subscription
from apps.billing.subscriptions import each, living, subscription_lock
from apps.common.actors import SYSTEM
from apps.common.mail import mail_later
from apps.teams.models import Membership, Role
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_resume, tenant_suspend

Status = Subscription.Status
SUSPENDED = "An invoice is not paid. Pay it on the page Billing and the workspace goes on at once."


@transaction.atomic
def invoice_news(tenant_id: str, invoice: Invoice, fact: InvoiceFact, now: datetime) -> None:
    """What an invoice's state means for its tenant."""
    row = subscription_lock(tenant_id)
    if fact.status == "open" and fact.attempts > 0:
        _failed(row, invoice, fact, now)
    elif fact.status in ("paid", "void", "uncollectible") and row.failed_at is not None and not _owing(tenant_id).exists():
        _recovered(row)


def _owing(tenant_id: str):
    return Invoice.objects.filter(tenant_id=tenant_id, status=Invoice.Status.OPEN, attempts__gt=0)


def _failed(row: Subscription, invoice: Invoice, fact: InvoiceFact, now: datetime) -> None:
    row.failed_at, row.retry_at = row.failed_at or now, fact.next_attempt_at
    notice = f"{invoice.id}:{fact.attempts}"
    if fact.next_attempt_at is None and row.grace_until is None and row.status != Status.INCOMPLETE:
        row.grace_until = now + timedelta(hours=settings.DUNNING_GRACE_HOURS)
    if notice not in row.noticed:
        row.noticed = [*row.noticed, notice][-50:]
        when = f"We try again on {fact.next_attempt_at:%d %B at %H:%M} UTC." if fact.next_attempt_at else (
            f"Without a payment the workspace is suspended on {row.grace_until:%d %B at %H:%M} UTC." if row.grace_until else "")  # fmt: skip
        _tell(row, f"The payment of invoice {invoice} failed", f"We could not collect {money(fact.due, fact.currency)}. {when}\nAdd another card or pay it here:")
    row.save()


def _recovered(row: Subscription) -> None:
    row.failed_at = row.grace_until = row.retry_at = None
    row.noticed, row.status = [], Status.ACTIVE if row.provider_id and row.status in (Status.UNPAID, Status.PAST_DUE) else row.status
    if row.status == Status.UNPAID:  # its subscription ended meanwhile
        row.status = Status.FREE
    row.save()
    if row.tenant.status == Tenant.Status.SUSPENDED and row.tenant.suspended_reason == SUSPENDED:
        tenant_resume(tenant=row.tenant, actor=SYSTEM)
        _tell(row, "Thank you: the workspace goes on", "Your payment arrived; new connections are accepted again.")


def grace_over(now: datetime) -> int:
    """Suspend those whose grace is over and whose invoice is still open at the provider. Returns how many."""
    over = living().filter(grace_until__lte=now).exclude(status=Status.UNPAID)
    return each(list(over.values_list("tenant_id", flat=True)), _suspend)  # nobody is suspended for an outage of the provider's


@transaction.atomic
def _suspend(tenant_id: str) -> int:
    row = subscription_lock(tenant_id)
    for invoice in _owing(tenant_id):
        invoice_sync(row, stripe.invoice_get(invoice.provider_id))
    if not _owing(tenant_id).exists():
        _recovered(row)
        return 0
    row.status = Status.UNPAID
    row.save()
    if row.tenant.status == Tenant.Status.ACTIVE:
        tenant_suspend(tenant=row.tenant, reason=SUSPENDED, actor=SYSTEM)
        _tell(row, "The workspace is suspended", "An invoice was not paid within the time we gave. All data stay; pay it and everything goes on:")
    return 1


def money(cents: int, currency: str) -> str:
    return f"{cents / 100:,.2f} {currency.upper()}"


def _tell(row: Subscription, subject: str, text: str) -> None:
    people = Membership.objects.filter(tenant_id=row.tenant_id, role__in=[Role.OWNER, Role.BILLING]).values_list("user__email", flat=True)
    for address in sorted({*people, *([row.tenant.email] if row.tenant.email else [])}):
        mail_later("billing", address, f"{row.tenant.name}: {subject}", f"{text}\n{settings.PORTAL_URL}/t/{row.tenant.slug}/billing")
