"""Plans as a tenant changes them: trial, upgrade, downgrade, cancel and undo, add-ons, currencies; cards that fail."""

from __future__ import annotations

import time

import pytest

from apps.billing import services, wallet
from apps.billing import stripe as payments
from apps.billing.catalog import version_draft, version_publish
from apps.billing.models import Invoice, Plan, Price, Subscription
from apps.common.actors import SYSTEM
from apps.common.errors import AuthenticationRequired, BadRequest, Conflict, NotFound, PaymentRequired
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound, bound_public
from apps.usage.accounts import account_spend

DAY = 86_400
_count = iter(range(10**6))


def workspace(word: str = "bill"):
    return workspace_create(name=word.title(), slug=f"{word}-{time.time_ns() % 10**10}-{next(_count)}", email="owner@example.com")


@pytest.fixture
def tenant(provider):
    with bound_public():
        made = workspace()
        yield made
        if (row := services.subscription_get(made)) and row.customer_id:
            provider.end(row.customer_id)


def ready(tenant, provider, token: str = "pm_card_visa") -> Subscription:
    """A workspace with a customer and a card."""
    wallet.card_begin(tenant=tenant, actor=SYSTEM)
    row = services.subscription_get(tenant)
    provider.card(row.customer_id, token)
    return row


def customer(tenant) -> str:
    return services.subscription_get(tenant).customer_id


def entitlement(tenant) -> int | None:
    tenant.refresh_from_db()
    return tenant.entitlements.get("concurrent_sessions")


def test_pro_is_bought_with_the_previewed_amount_and_its_limits_count_at_once(tenant, provider):
    ready(tenant, provider)
    change, preview, quote = services.plan_preview(tenant=tenant, plan="pro", actor=SYSTEM)
    assert (change.kind, preview.due_cents, preview.currency) == ("new", 4900, "usd")
    row = services.plan_change(tenant=tenant, plan="pro", quote=quote, actor=SYSTEM)
    assert row.status == "active" and entitlement(tenant) == 50
    invoice = Invoice.objects.get(tenant=tenant)
    assert (invoice.status, invoice.total_cents, invoice.paid_cents) == ("paid", 4900, 4900) and invoice.number
    with bound(tenant):
        assert account_spend().currency == "usd"
    provider.deliver(customer(tenant))
    assert Invoice.objects.filter(tenant=tenant).count() == 1


def test_an_upgrade_is_charged_as_previewed_and_a_downgrade_waits_for_the_periods_end(tenant, provider):
    ready(tenant, provider)
    Plan.objects.get(code="enterprise").offered_to.add(tenant)
    row = services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    provider.advance(provider.now() + 11 * DAY)
    change, preview, quote = services.plan_preview(tenant=tenant, plan="enterprise", actor=SYSTEM)
    assert change.kind == "upgrade" and 0 < preview.due_cents < 99_900 - 4900
    assert any(line.amount < 0 for line in preview.lines)
    row = services.plan_change(tenant=tenant, plan="enterprise", quote=quote, actor=SYSTEM)
    assert entitlement(tenant) == 1000 and Invoice.objects.filter(tenant=tenant).first().total_cents == preview.due_cents
    with pytest.raises(Conflict, match="another change"):
        services.plan_change(tenant=tenant, plan="pro", interval="year", quote=quote, actor=SYSTEM)
    row = services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    assert row.version.plan_id == "enterprise" and row.next_version.plan_id == "pro" and entitlement(tenant) == 1000
    provider.deliver(customer(tenant))
    assert services.subscription_get(tenant).version.plan_id == "enterprise"
    provider.advance(int(row.period_end.timestamp()) + 2 * 3600)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert row.version.plan_id == "pro" and row.next_version is None and entitlement(tenant) == 50
    assert Invoice.objects.filter(tenant=tenant).first().total_cents == 4900


def test_a_downgrade_and_a_cancellation_are_taken_back(tenant, provider):
    ready(tenant, provider)
    Plan.objects.get(code="enterprise").offered_to.add(tenant)
    services.plan_change(tenant=tenant, plan="enterprise", actor=SYSTEM)
    services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    assert services.plan_keep(tenant=tenant, actor=SYSTEM).next_version is None
    row = services.plan_cancel(tenant=tenant, actor=SYSTEM)
    assert row.cancel_at_period_end and row.version.plan_id == "enterprise" and row.next_version.plan_id == "free"
    row = services.plan_keep(tenant=tenant, actor=SYSTEM)
    assert not row.cancel_at_period_end and row.next_version is None
    with pytest.raises(Conflict):
        services.plan_keep(tenant=tenant, actor=SYSTEM)
    end = services.plan_cancel(tenant=tenant, actor=SYSTEM).period_end
    provider.advance(int(end.timestamp()) + 3600)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert (row.status, row.version.plan_id, row.provider_id) == ("free", "free", "") and entitlement(tenant) == 2


def test_a_year_goes_on_by_the_month_when_it_has_ended(tenant, provider):
    ready(tenant, provider)
    row = services.plan_change(tenant=tenant, plan="pro", interval="year", currency="eur", actor=SYSTEM)
    assert Invoice.objects.get(tenant=tenant).total_cents == 45_000 and (row.usage_end - row.usage_start).days in (28, 29, 30, 31)
    row = services.plan_change(tenant=tenant, plan="pro", interval="month", actor=SYSTEM)
    assert row.price.interval == "year" and row.next_price.interval == "month"
    provider.advance(int(row.period_end.timestamp()) + 3600)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert (row.status, row.price.interval, row.price.currency) == ("active", "month", "eur")
    assert Invoice.objects.filter(tenant=tenant).exclude(reason="statement").first().total_cents == 4500


def test_a_trial_needs_no_card_comes_once_and_falls_back_to_free(tenant, provider):
    row = services.trial_start(tenant=tenant, actor=SYSTEM)
    assert row.status == "trialing" and (row.trial_end - row.period_start).days == 14 and entitlement(tenant) == 50
    with bound(tenant):
        assert account_spend().plan_cap_micros == 0
    provider.advance(int(row.trial_end.timestamp()) + 3600)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert (row.status, row.version.plan_id) == ("free", "free") and entitlement(tenant) == 2
    with pytest.raises(Conflict):
        services.trial_start(tenant=tenant, actor=SYSTEM)


def test_a_trial_with_a_card_becomes_the_plan(tenant, provider):
    row = services.trial_start(tenant=tenant, actor=SYSTEM)
    provider.card(row.customer_id)
    provider.advance(int(row.trial_end.timestamp()) + 2 * 3600)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert row.status == "active" and Invoice.objects.filter(tenant=tenant).first().paid_cents == 4900


def test_who_pays_during_the_trial_begins_at_once(tenant, provider):
    row = services.trial_start(tenant=tenant, actor=SYSTEM)
    provider.card(row.customer_id)
    change, preview, quote = services.plan_preview(tenant=tenant, plan="pro", actor=SYSTEM)
    assert change.kind == "upgrade" and preview.due_cents == 4900
    row = services.plan_change(tenant=tenant, plan="pro", quote=quote, actor=SYSTEM)
    assert row.status == "active" and Invoice.objects.filter(tenant=tenant).first().paid_cents == 4900


def test_addons_add_to_the_terms_and_follow_the_interval(tenant, provider):
    ready(tenant, provider)
    with pytest.raises(Conflict, match="paid plan"):
        services.addon_set(tenant=tenant, addon="sessions-10", quantity=1, actor=SYSTEM)
    services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    preview, quote = services.addon_preview(tenant=tenant, addon="sessions-10", quantity=2, actor=SYSTEM)
    services.addon_set(tenant=tenant, addon="sessions-10", quantity=2, quote=quote, actor=SYSTEM)
    assert entitlement(tenant) == 70 and Invoice.objects.filter(tenant=tenant).first().total_cents == preview.due_cents
    services.plan_change(tenant=tenant, plan="pro", interval="year", actor=SYSTEM)
    row = services.subscription_get(tenant)
    assert row.price.interval == "year" and row.addons.get().price.interval == "year"
    services.addon_set(tenant=tenant, addon="sessions-10", quantity=0, actor=SYSTEM)
    assert entitlement(tenant) == 50 and not services.subscription_get(tenant).addons.exists()


def test_what_is_refused_changes_nothing(tenant, provider):
    with pytest.raises(Conflict, match="add a card"):
        services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    with pytest.raises(NotFound):
        services.plan_change(tenant=tenant, plan="enterprise", actor=SYSTEM)  # not offered here
    with pytest.raises(BadRequest):
        services.plan_change(tenant=tenant, plan="pro", currency="jpy", actor=SYSTEM)
    ready(tenant, provider, "pm_card_chargeCustomerFail")
    with pytest.raises(PaymentRequired) as refused:
        services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    assert refused.value.status == 402 and refused.value.code.endswith("decline")
    row = services.subscription_get(tenant)
    assert (row.status, row.provider_id) == ("none", "") and entitlement(tenant) is None
    provider.card(row.customer_id)
    services.plan_change(tenant=tenant, plan="pro", currency="gbp", actor=SYSTEM)
    with pytest.raises(Conflict, match="GBP"):
        services.plan_change(tenant=tenant, plan="pro", interval="year", currency="usd", actor=SYSTEM)


def test_a_declined_upgrade_leaves_the_plan_as_it_was(tenant, provider):
    row = ready(tenant, provider)
    Plan.objects.get(code="enterprise").offered_to.add(tenant)
    services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    provider.card(row.customer_id, "pm_card_chargeCustomerFail")
    with pytest.raises(PaymentRequired):
        services.plan_change(tenant=tenant, plan="enterprise", actor=SYSTEM)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert (row.status, row.version.plan_id) == ("active", "pro") and entitlement(tenant) == 50


def test_a_running_subscription_keeps_its_terms_when_the_plan_gets_new_ones(tenant, provider):
    plan = Plan.objects.create(code=f"terms-{time.time_ns() % 10**9}", name="Terms", position=11, listed=False)
    plan.offered_to.add(tenant)

    def sell(sessions: int) -> None:
        draft = version_draft(plan=plan, actor=SYSTEM)
        draft.entitlements = {"concurrent_sessions": sessions}
        draft.save()
        for interval in ("month", "year"):
            Price.objects.get_or_create(version=draft, currency="usd", interval=interval, defaults={"amount_cents": 1000})
        version_publish(version=draft, actor=SYSTEM)

    sell(50)
    ready(tenant, provider)
    services.plan_change(tenant=tenant, plan=plan.code, actor=SYSTEM)
    sell(60)
    provider.deliver(customer(tenant))
    assert entitlement(tenant) == 50 and services.subscription_get(tenant).version.number == 1
    services.plan_change(tenant=tenant, plan=plan.code, interval="year", actor=SYSTEM)
    assert entitlement(tenant) == 60


def test_a_card_that_asks_its_bank_waits_for_the_confirmation(tenant, provider):
    ready(tenant, provider, "pm_card_authenticationRequired")
    row = services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    invoice = Invoice.objects.get(tenant=tenant)
    assert (row.status, invoice.status, invoice.due_cents) == ("incomplete", "open", 4900) and entitlement(tenant) is None
    first = row.provider_id
    provider.card(row.customer_id, "pm_card_authenticationRequired")
    row = services.plan_change(tenant=tenant, plan="pro", interval="year", actor=SYSTEM)  # thinks again
    assert row.provider_id != first and Invoice.objects.filter(tenant=tenant).first().due_cents == 49_000
    provider.deliver(row.customer_id)
    assert services.subscription_get(tenant).provider_id == row.provider_id
    invoice = Invoice.objects.get(tenant=tenant, status="open")
    with pytest.raises(AuthenticationRequired):
        services.invoice_pay(tenant=tenant, invoice=invoice, actor=SYSTEM)
    provider.confirm(payments.confirmation_secret(invoice.provider_id))
    provider.deliver(customer(tenant))
    invoice.refresh_from_db()
    assert services.subscription_get(tenant).status == "active" and invoice.status == "paid" and entitlement(tenant) == 50


def test_a_first_payment_that_is_never_confirmed_leaves_no_plan(tenant, provider):
    ready(tenant, provider, "pm_card_authenticationRequired")
    services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    provider.advance(provider.now() + 2 * DAY)
    provider.deliver(customer(tenant))
    row = services.subscription_get(tenant)
    assert (row.status, row.provider_id) == ("none", "") and entitlement(tenant) is None
