"""What a webhook leads to: the thing it is about is asked for anew, so that order and repetition do not matter.

It is asked for while the workspace's subscription is locked: an answer from before the lock may be older than what another process wrote.
"""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from apps.billing import stripe
from apps.billing.dunning import invoice_news
from apps.billing.facts import EventFact
from apps.billing.invoicing import invoice_sync, usage_attach, usage_close
from apps.billing.models import Invoice, Subscription
from apps.billing.subscriptions import living, subscription_follow, subscription_lock
from apps.common.errors import NotFound
from apps.tenants.services import milestone


def handle(event: EventFact) -> None:
    """Raises ProviderUnavailable: the event is kept and tried again."""
    row = living().filter(customer_id=event.customer_id).first() if event.customer_id else None
    if row is None:
        return  # not a customer of ours, or no longer
    stripe.mirror_owner(row.customer_id, row.tenant_id)
    try:
        if event.kind == "subscription":
            subscription_follow(row.tenant_id, event.object_id)
        elif event.kind == "invoice" or event.invoice_id:
            invoice_follow(row.tenant_id, event.invoice_id or event.object_id)
        elif event.type == "setup_intent.succeeded":
            card_follow(row, event.object_id)
    except NotFound:
        return  # gone at the provider: there is nothing to follow


@transaction.atomic
def invoice_follow(tenant_id: str, invoice_id: str) -> Invoice | None:
    """Our copy of an invoice and what follows from it. A renewal's draft gets the usage of the period that ended, and is finalised."""
    row = subscription_lock(tenant_id)
    fact = stripe.invoice_get(invoice_id)
    if fact.customer_id != row.customer_id:
        return None
    if fact.subscription_id:
        row = subscription_follow(tenant_id, fact.subscription_id)
    invoice = invoice_sync(row, fact)
    if fact.status == "draft" and fact.reason == "subscription_cycle":
        if fact.ends > row.usage_start:
            usage_close(row, fact.ends)
        usage_attach(row, invoice)
        fact = stripe.invoice_finalize(invoice_id)
        invoice = invoice_sync(row, stripe.invoice_get(invoice_id))
    invoice_news(tenant_id, invoice, fact, timezone.now())
    return invoice


def card_follow(row: Subscription, setup_id: str) -> None:
    """The first card becomes the default."""
    status, card_id = stripe.setup_result(row.customer_id, setup_id)
    if status == "succeeded" and card_id:
        if not any(card.default for card in stripe.cards(row.customer_id)):
            stripe.card_default(row.customer_id, card_id)
        milestone(tenant_id=row.tenant_id, name="payment_method")
