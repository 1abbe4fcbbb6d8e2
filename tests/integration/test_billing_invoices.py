"""Invoices: usage lines that open to their turns, what the database refuses, credit notes and refunds, dunning, meters, webhooks."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import stripe
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from djstripe.models import Event

from apps.billing import dunning, services, tasks, wallet
from apps.billing import stripe as payments
from apps.billing.events import invoice_follow
from apps.billing.invoicing import credit_give, invoice_credit, line_amounts
from apps.billing.models import Adjustment, Invoice, InvoiceLine, PlanVersion, Price, Subscription, UsageReport
from apps.billing.selectors import line_entries
from apps.billing.subscriptions import subscription_lock
from apps.billing.terms import month_after
from apps.common.actors import SYSTEM
from apps.common.errors import BadRequest, Conflict, PaymentRequired, ProviderUnavailable
from apps.tenants.context import bound, bound_public
from apps.usage.models import UsageEntry
from apps.usage.services import usage_record
from tests.integration.test_billing_plans import DAY, customer, ready, tenant, workspace  # noqa: F401

MINUTE_MS = 60_000


def subscribed(tenant, provider, **plan) -> Subscription:
    ready(tenant, provider)
    return services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM, **plan)


def use(tenant, minutes: int, turns: int = 3) -> None:
    with bound(tenant):
        for turn in range(turns):
            usage_record(session_id=f"sess_{tenant.id}", turn_id=f"turn_{tenant.id}_{turn}_{minutes}", meters={"session_ms": minutes * MINUTE_MS // turns, "tokens_in": 7})


def renew(tenant, provider) -> Invoice:
    row = services.subscription_get(tenant)
    provider.advance(int(row.period_end.timestamp()) + 60)
    provider.deliver(row.customer_id)
    return Invoice.objects.filter(tenant=tenant).first()


def test_a_renewal_carries_the_usage_and_each_line_opens_to_its_turns(tenant, provider):  # noqa: F811
    subscribed(tenant, provider)
    use(tenant, 1500)
    invoice = renew(tenant, provider)
    line = invoice.lines.get(meter="session_ms")
    assert (line.quantity, line.included, line.amount_cents) == (1500 * MINUTE_MS, 1000 * MINUTE_MS, 3000)  # 500 minutes at 0.06
    assert invoice.finalized_at and invoice.total_cents == 4900 + 3000 == sum(invoice.lines.values_list("amount_cents", flat=True))
    with bound(tenant):
        entries = line_entries(line)
        assert sum(e.quantity for e in entries) == line.quantity and {e.turn_id for e in entries} == {f"turn_{tenant.id}_{n}_1500" for n in range(3)}
    use(tenant, 60)  # after the close: the next period's
    assert InvoiceLine.objects.filter(tenant=tenant, meter="session_ms").count() == 1
    provider.advance(provider.now() + 2 * 3600)
    provider.deliver(customer(tenant))
    invoice.refresh_from_db()
    assert invoice.status == "paid" and invoice.paid_cents == 7900


def test_the_database_keeps_what_was_agreed_and_billed(tenant, provider):  # noqa: F811
    subscribed(tenant, provider)
    invoice = Invoice.objects.get(tenant=tenant)
    line, version = invoice.lines.first(), PlanVersion.objects.get(plan="pro", number=1)
    for change in (
        lambda: Invoice.objects.filter(pk=invoice.pk).update(total_cents=1), lambda: Invoice.objects.filter(pk=invoice.pk).delete(),
        lambda: InvoiceLine.objects.filter(pk=line.pk).update(amount_cents=1), lambda: InvoiceLine.objects.filter(pk=line.pk).delete(),
        lambda: InvoiceLine.objects.create(tenant=tenant, invoice=invoice, kind="other", description="x", currency="usd", amount_micros=1, amount_cents=1,
                                           starts=timezone.now(), ends=timezone.now()),
        lambda: PlanVersion.objects.filter(pk=version.pk).update(included={}), lambda: Price.objects.filter(version=version).update(amount_cents=1),
    ):  # fmt: skip
        with pytest.raises(IntegrityError), transaction.atomic():
            change()


def test_credit_notes_refunds_and_credits(tenant, provider):  # noqa: F811
    row = subscribed(tenant, provider)
    invoice = Invoice.objects.get(tenant=tenant)
    note = invoice_credit(invoice=invoice, row=row, cents=900, reason="an hour of outage", refund=True, actor=SYSTEM)
    invoice.refresh_from_db()
    assert note.amount_cents == 900 and invoice.refunded_cents == 900 and invoice.total_cents == 4900
    with pytest.raises(BadRequest, match="1 to 4000"):
        invoice_credit(invoice=invoice, row=row, cents=4001, reason="too much", refund=True, actor=SYSTEM)
    invoice_credit(invoice=invoice, row=row, cents=4000, reason="goodwill", refund=False, actor=SYSTEM)
    assert payments.balance_cents(row.customer_id) == 4000
    credit_give(row=row, cents=500, reason="welcome back", actor=SYSTEM)
    assert payments.balance_cents(row.customer_id) == 4500
    assert sorted(Adjustment.objects.filter(tenant=tenant).values_list("kind", "amount_cents")) == [
        ("credit", 500), ("credit_note", 900), ("credit_note", 4000), ("refund", 900)]  # fmt: skip
    assert renew(tenant, provider).total_cents == 4900


def test_a_failed_payment_is_retried_noticed_suspended_after_the_grace_and_resumed_when_paid(tenant, provider):  # noqa: F811
    row = subscribed(tenant, provider)
    provider.card(row.customer_id, "pm_card_chargeCustomerFail")
    provider.advance(int(row.period_end.timestamp()) + 2 * 3600)
    provider.deliver(row.customer_id)
    row = services.subscription_get(tenant)
    assert row.status == "past_due" and row.retry_at and row.grace_until is None and len(row.noticed) == 1
    while row.retry_at:
        provider.advance(int(row.retry_at.timestamp()) + 60)
        provider.deliver(row.customer_id)
        row = services.subscription_get(tenant)
    assert row.retry_at is None and row.grace_until and len(row.noticed) == 4
    assert dunning.grace_over(timezone.now()) == 0
    assert dunning.grace_over(row.grace_until + timedelta(minutes=1)) == 1
    tenant.refresh_from_db()
    assert tenant.status == "suspended" and services.subscription_get(tenant).status == "unpaid"
    invoice = Invoice.objects.filter(tenant=tenant, status="open").first()
    with pytest.raises(PaymentRequired):
        services.invoice_pay(tenant=tenant, invoice=invoice, actor=SYSTEM)
    provider.card(row.customer_id)
    for invoice in Invoice.objects.filter(tenant=tenant, status="open"):
        services.invoice_pay(tenant=tenant, invoice=invoice, actor=SYSTEM)
    provider.deliver(row.customer_id)
    tenant.refresh_from_db()
    row = services.subscription_get(tenant)
    assert tenant.status == "active" and row.status == "active" and row.grace_until is None and row.noticed == []


def test_usage_reaches_the_meters_once_and_waits_while_the_provider_is_away(tenant, provider):  # noqa: F811
    row = subscribed(tenant, provider)
    use(tenant, 30)
    provider.door("outage", seconds=3600)
    use(tenant, 60)
    assert tasks.report() == 0
    with pytest.raises(ProviderUnavailable):
        wallet.card_begin(tenant=tenant, actor=SYSTEM)
    provider.door("outage", seconds=0)
    deadline = timezone.now() + timedelta(seconds=60)
    from apps.billing.reporting import usage_report

    assert usage_report(tenant, deadline) == 12
    UsageReport.objects.filter(tenant=tenant).update(through=0, totals={})  # as if it was killed before it could note its place
    assert usage_report(tenant, deadline) == 12
    with bound(tenant):
        truth = sum(UsageEntry.objects.filter(meter="session_ms").values_list("quantity", flat=True))
    since = datetime.fromtimestamp(provider.now() - 400 * DAY, UTC)
    assert payments.usage_reported(row.customer_id, "session_ms", since, since + timedelta(days=800)) == truth == 90 * MINUTE_MS
    assert UsageReport.objects.get(tenant=tenant).totals["session_ms"] == truth


def test_webhooks_are_verified_stored_once_and_replayed(tenant, provider):  # noqa: F811
    row = subscribed(tenant, provider)
    event = next(e for e in provider.events() if e["type"] == "customer.subscription.created" and e["data"]["object"]["customer"] == row.customer_id)
    assert provider.post(event, secret="whsec_somebody_elses").status_code == 400
    assert provider.post(event, age_s=3600).status_code == 400
    assert provider.client.post("/stripe/webhook", json.dumps(event), content_type="application/json").status_code == 400
    for _ in range(2):
        assert provider.post(event).status_code == 200
    provider.work()
    assert Event.objects.filter(id=event["id"]).count() == 1
    Subscription.objects.filter(tenant=tenant).update(status="past_due")  # something went wrong with us
    assert payments.webhook_replay(event["id"]) == 2
    provider.work()
    assert services.subscription_get(tenant).status == "active"


def test_a_webhook_about_another_tenants_customer_changes_only_that_one(tenant, provider):  # noqa: F811
    other = workspace("other")
    row, theirs = subscribed(tenant, provider), subscribed(other, provider)
    event = next(e for e in provider.events() if e["type"] == "customer.subscription.created" and e["data"]["object"]["customer"] == row.customer_id)
    event["id"] += "x"
    event["data"]["object"] |= {"customer": theirs.customer_id, "status": "canceled"}  # a body that claims what is not so
    assert provider.post(event).status_code == 200
    provider.work()
    for one, before in ((tenant, row), (other, theirs)):
        after = services.subscription_get(one)
        assert (after.status, after.provider_id, after.customer_id) == ("active", before.provider_id, before.customer_id)
    provider.end(theirs.customer_id)


def test_tax_ids_are_kept_at_the_provider(tenant, provider):  # noqa: F811
    services.tax_set(tenant=tenant, actor=SYSTEM, name="Bakery GmbH", country="de", postal_code="10115", tax_id="DE123456789", tax_id_type="eu_vat")
    row = services.tax_set(tenant=tenant, actor=SYSTEM, name="Bakery GmbH", country="de", exempt="reverse", tax_id="DE987654321", tax_id_type="eu_vat")
    assert row.tax["country"] == "DE" and row.tax["tax_id"] == "DE987654321"
    with pytest.raises(BadRequest):
        services.tax_set(tenant=tenant, actor=SYSTEM, country="Germany")
    with pytest.raises(BadRequest):
        services.tax_set(tenant=tenant, actor=SYSTEM, tax_id="DE123456789")


@pytest.mark.parametrize("starts,day,ends", [("2027-01-31", 31, "2027-02-28"), ("2028-01-31", 31, "2028-02-29"), ("2028-02-29", 31, "2028-03-31"), ("2027-12-15", 15, "2028-01-15")])
def test_months_end_where_they_end(starts, day, ends):
    assert month_after(datetime.fromisoformat(starts), day) == datetime.fromisoformat(ends)


@pytest.mark.parametrize("quantity,included,rate,expected", [
    (5000, 0, 1, (5000, 1)), (4999, 0, 1, (4999, 0)), (100, 200, 1, (0, 0)), (10, 0, [1, 3], (3, 0)), (10**12, 0, [60_000, 60_000], (10**12, 10**8)),
])  # fmt: skip
def test_a_line_is_rounded_once(quantity, included, rate, expected):
    assert line_amounts(quantity, included, rate) == expected


def test_a_free_period_ends_in_a_statement(tenant, provider):  # noqa: F811
    from apps.billing.subscriptions import subscription_begin, turn

    row = subscription_begin(tenant=tenant)
    use(tenant, 9)
    turn(row.usage_end + timedelta(seconds=1))
    turn(row.usage_end + timedelta(seconds=1))
    invoice = Invoice.objects.get(tenant=tenant)
    assert (invoice.reason, invoice.status, invoice.total_cents) == ("statement", "paid", 0) and invoice.lines.get(meter="session_ms").quantity == 9 * MINUTE_MS
    with pytest.raises(Conflict):
        invoice_credit(invoice=invoice, row=row, cents=1, reason="x", refund=False, actor=SYSTEM)


@pytest.fixture(autouse=True)
def public(database):
    with bound_public():
        yield


def test_news_that_waited_for_another_process_do_not_bring_back_what_was(tenant, provider):  # noqa: F811
    """The provider is asked when the lock is held, not before: else a slower process writes over the newer state."""
    row = subscribed(tenant, provider)
    provider.card(row.customer_id, "pm_card_chargeCustomerFail")
    use(tenant, 1500)
    invoice = renew(tenant, provider)
    provider.advance(provider.now() + 2 * 3600)
    provider.deliver(row.customer_id)
    invoice.refresh_from_db()
    assert invoice.status == "open"

    def late() -> None:
        try:
            with bound_public():
                invoice_follow(tenant.id, invoice.provider_id)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            subscription_lock(tenant.id)
            following = pool.submit(late)
            time.sleep(0.5)  # it has come as far as it gets
            provider.card(row.customer_id)
            stripe.Invoice.pay(invoice.provider_id)
            invoice_follow(tenant.id, invoice.provider_id)
        following.result(30)
    invoice.refresh_from_db()
    assert (invoice.status, invoice.due_cents) == ("paid", 0) and services.subscription_get(tenant).failed_at is None


def test_a_closed_workspace_is_not_charged_again_and_an_erased_one_stops_nobody(tenant, provider):  # noqa: F811
    from apps.billing.subscriptions import turn
    from apps.tenants.services import tenant_close, tenant_erase

    subscribed(tenant, provider)
    tenant_close(tenant=tenant, actor=SYSTEM)
    turn(timezone.now())
    assert services.subscription_get(tenant).cancel_at_period_end
    tenant_erase(tenant=tenant, actor=SYSTEM)
    turn(timezone.now())
    row = services.subscription_get(tenant)
    assert (row.status, row.provider_id) == ("none", "") and not stripe.Subscription.list(customer=row.customer_id).data
    provider.deliver(row.customer_id)
    turn(timezone.now() + timedelta(days=40))
    other = workspace("lives")
    subscribed(other, provider)
    use(other, 3)
    assert tasks.report() >= 6
    provider.end(services.subscription_get(other).customer_id)
