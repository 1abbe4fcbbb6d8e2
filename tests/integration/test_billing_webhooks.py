"""News from the payment provider in any order: each kind twice, shuffled, with forged ones between, always ends in the same state."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
import stripe
from django.db.models import Sum
from djstripe.models import WebhookEventTrigger

from apps.billing import services
from apps.billing import stripe as payments
from apps.billing.models import Adjustment, Invoice, InvoiceLine
from apps.billing.subscriptions import turn
from apps.common.actors import SYSTEM
from apps.tenants.context import bound, bound_public
from apps.usage.accounts import account_spend
from apps.usage.services import usage_record
from tests.integration.test_billing_plans import DAY, ready, workspace

KINDS = 20


def history(provider, tenant) -> str:
    """Half a year in a tenant's life of which we hear nothing yet: bought, used, declined, authenticated, paid, upgraded, credited, refunded."""
    row = ready(tenant, provider)
    row = services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    customer = row.customer_id
    with bound(tenant):
        usage_record(session_id=f"sess_{tenant.id}", turn_id="turn_1", meters={"session_ms": 1500 * 60_000, "tokens_out": 11})
    services.tax_set(tenant=tenant, actor=SYSTEM, name="Bakery GmbH", country="de", tax_id="DE123456789", tax_id_type="eu_vat")
    provider.card(customer, "pm_card_chargeCustomerFail")
    provider.advance(provider.now() + 32 * DAY)  # renewed; the card fails
    good = provider.card(customer)
    for invoice in stripe.Invoice.list(customer=customer, status="open").auto_paging_iter():
        stripe.Invoice.pay(invoice.id)
    stripe.Customer.modify(customer, name="Bakery")
    stripe.PaymentMethod.modify(good, billing_details={"name": "Ann"})
    paid = next(i for i in stripe.Invoice.list(customer=customer, status="paid", expand=["data.payments"]).data if i.amount_paid)
    stripe.Refund.create(payment_intent=paid.payments.data[0].payment.payment_intent, amount=100)
    stripe.CreditNote.create(invoice=paid.id, amount=200, credit_amount=200)
    stripe.InvoiceItem.create(customer=customer, amount=700, currency="usd", description="set-up")
    stripe.Subscription.modify(row.provider_id, cancel_at_period_end=True)
    stripe.Subscription.modify(row.provider_id, cancel_at_period_end=False)
    stripe.SetupIntent.create(customer=customer, payment_method=good, confirm=True, return_url="http://localhost/")
    stripe.PaymentMethod.detach(stripe.PaymentMethod.attach("pm_card_mastercard", customer=customer).id)
    provider.advance(provider.now() + 30 * DAY)  # renewed and paid
    return customer


def about(event: dict, customer: str) -> bool:
    return customer in (event["data"]["object"].get("id"), event["data"]["object"].get("customer"))


def state(tenant) -> dict:
    """What we hold of a tenant's billing, without ids and times that differ from tenant to tenant."""
    row = services.subscription_get(tenant)
    tenant.refresh_from_db()
    invoices = [(i.status, i.reason, i.currency, i.total_cents, i.paid_cents, i.refunded_cents, bool(i.finalized_at), bool(i.number))
                for i in Invoice.objects.filter(tenant=tenant).order_by("created_at", "total_cents")]  # fmt: skip
    lines = sorted(InvoiceLine.objects.filter(tenant=tenant).values_list("kind", "meter", "period", "quantity", "amount_cents"))
    usage = InvoiceLine.objects.filter(tenant=tenant, kind="usage", invoice__isnull=False).aggregate(sum=Sum("quantity"))["sum"]
    with bound(tenant):
        spend = account_spend()
    return {
        "subscription": (row.status, str(row.version), row.cancel_at_period_end, row.currency, row.grace_until, row.noticed, (row.period_end - row.period_start).days > 27),
        "tenant": (tenant.status, tenant.entitlements), "invoices": invoices, "lines": lines, "usage": usage, "spend": (spend.currency, spend.spent_micros, spend.period),
        "adjustments": Adjustment.objects.filter(tenant=tenant).count(),
    }  # fmt: skip


@pytest.mark.timeout(300)
def test_twenty_kinds_twice_in_any_order_with_forged_ones_between(provider, default_worker):
    """A worker of the product's works off the same events beside us."""
    ends = []
    with bound_public():
        for seed in range(3):
            tenant = workspace(f"order{seed}")
            customer = history(provider, tenant)
            shuffled = random.Random(seed)
            for round in range(3):  # what we do about the news makes news of its own
                news = [e for e in provider.events() if about(e, customer)] * 2
                if not news:
                    break
                kinds = {e["type"] for e in news}
                assert round or len(kinds) >= KINDS, sorted(kinds)
                if seed:  # the first tenant hears it in order: what the others are compared with
                    shuffled.shuffle(news)
                for number, event in enumerate(news):
                    assert provider.post(event).status_code == 200
                    if number % 3 == 0:
                        forged = {**event, "data": {"object": {**event["data"]["object"], "status": "canceled", "paid": False}}}
                        assert provider.post(forged, secret="whsec_forged").status_code == 400
                provider.work()
                turn(datetime.fromtimestamp(provider.now(), UTC) + timedelta(hours=3))  # the sweep: usage whose draft went on without it gets an invoice
            assert not WebhookEventTrigger.objects.filter(valid=True, processed=False).exists()
            ends.append(state(tenant))
            provider.end(customer)
    assert ends[0]["usage"] == 1500 * 60_000 + 11 and len(ends[0]["invoices"]) >= 3
    assert all(end == ends[0] for end in ends[1:])
