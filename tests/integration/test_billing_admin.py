"""Operators: plans as versions, credits, revenue, and a reconciliation that reads zero; and pages by role while a workspace is suspended."""

from __future__ import annotations

import time

import pytest
from django.test import Client

from apps.accounts.models import User
from apps.apikeys.services import operator_key_issue
from apps.audit.models import AuditEntry
from apps.billing import reconciliation, services
from apps.billing.models import Invoice, Plan, PlanVersion
from apps.billing.reporting import usage_report
from apps.billing.tasks import report
from apps.common.actors import SYSTEM
from apps.teams.models import Membership
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage.models import UsageEntry
from tests.integration.test_billing_invoices import renew, subscribed, use
from tests.integration.test_billing_plans import ready, tenant, workspace  # noqa: F401

BACKEND = "allauth.account.auth_backends.AuthenticationBackend"


@pytest.fixture
def boss(database):
    client = Client()
    with bound_public():
        client.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", "a-long-password-7"), backend=BACKEND)
        yield client


@pytest.mark.parametrize("page", ["plan/", "plan/add/", "plan/pro/change/", "planversion/", "subscription/", "invoice/", "adjustment/", "subscription/revenue/", "subscription/reconciliation/"])
def test_every_page_opens(boss, page):
    answer = boss.get(f"/admin/billing/{page}")
    assert answer.status_code == 200, answer.get("Location")


def test_an_operator_edits_a_plan_as_a_new_version_and_publishes_it(boss):
    plan = Plan.objects.create(code=f"team-{time.time_ns() % 10**9}", name="Team", position=5)
    page = boss.get(f"/admin/billing/plan/{plan.code}/draft", follow=True)
    draft = plan.versions.get()
    assert page.status_code == 200 and draft.published_at is None
    form = {"entitlements": '{"concurrent_sessions": 7}', "included": "{}", "rates": "{}", "trial_days": "0", "prices-TOTAL_FORMS": "1", "prices-INITIAL_FORMS": "0",
            "prices-0-currency": "usd", "prices-0-interval": "month", "prices-0-amount_cents": "1500", "prices-0-version": draft.pk}  # fmt: skip
    assert boss.post(f"/admin/billing/planversion/{draft.pk}/change/", form).status_code == 302
    assert boss.get(f"/admin/billing/planversion/{draft.pk}/publish/", follow=True).status_code == 200
    assert str(plan.current) == f"{plan.code} v1" and plan.current.prices.get().amount_cents == 1500
    boss.post(f"/admin/billing/planversion/{draft.pk}/change/", {**form, "trial_days": "99"})
    assert PlanVersion.objects.get(pk=draft.pk).trial_days == 0
    assert AuditEntry.objects.filter(action="plan.published", target=str(draft)).exists()
    boss.get(f"/admin/billing/plan/{plan.code}/draft")
    second = plan.versions.get(number=2)
    assert second.entitlements == {"concurrent_sessions": 7} and second.prices.get().amount_cents == 1500
    PlanVersion.objects.filter(pk=second.pk).update(entitlements={"wings": 2})
    assert b"no limit" in boss.get(f"/admin/billing/planversion/{second.pk}/publish/", follow=True).content
    Plan.objects.filter(pk=plan.pk).update(listed=False)


def test_credits_refunds_revenue_and_a_reconciliation_that_reads_zero(boss, tenant, provider):  # noqa: F811
    subscribed(tenant, provider)
    use(tenant, 1100)
    renew(tenant, provider)
    use(tenant, 30)
    report()
    rows = reconciliation.standing(tenant)
    assert rows and all(row.difference == 0 for row in rows) and {r.meter: r.ledger for r in rows}["session_ms"] == 1130 * 60_000 == {r.meter: r.reported for r in rows}["session_ms"]
    assert {r.meter: r.invoiced for r in rows}["session_ms"] == 1100 * 60_000
    invoice = Invoice.objects.filter(tenant=tenant, reason="subscription_create").get()
    boss.post(f"/admin/billing/invoice/{invoice.pk}/credit", {"amount": "9.00", "reason": "an hour of outage", "refund": "on"})
    invoice.refresh_from_db()
    assert invoice.refunded_cents == 900
    secret = operator_key_issue(name="tests", actor=SYSTEM)[1]
    headers = {"authorization": f"Bearer {secret}"}
    answer = Client().post(f"/api/v1/admin/invoices/{invoice.id}/credit-notes", {"amount_cents": 100, "reason": "more"}, "application/json", headers=headers)
    assert answer.status_code == 201 and answer.json()["amount_cents"] == 100
    answer = Client().post(f"/api/v1/admin/tenants/{tenant.id}/credits", {"amount_cents": 100, "reason": "hello"}, "application/json", headers=headers)
    assert answer.status_code == 201 and answer.json()["kind"] == "credit"
    assert any(row["refunded_cents"] >= 900 for row in Client().get("/api/v1/admin/revenue", headers=headers).json())
    page = boss.get("/admin/billing/subscription/reconciliation/").content.decode()
    assert tenant.slug in page
    found = Client().get("/api/v1/admin/reconciliation", headers=headers).json()
    assert [row for row in found["rows"] if row["tenant"] == tenant.slug and row["difference"]] == []


def test_a_planted_difference_shows(boss, tenant, provider):  # noqa: F811
    subscribed(tenant, provider)
    use(tenant, 9)
    with bound(tenant):
        UsageEntry.objects.create(session_id="sess_x", turn_id="turn_x", meter="session_ms", quantity=5, period=1)  # past the one writer: no roll-up knows
    assert sum(row.difference for row in reconciliation.standing(tenant)) >= 5


def member(tenant, role: str) -> Client:  # noqa: F811
    user, client = User.objects.create_user(f"{role}-{time.time_ns()}@example.com", "a-long-password-7"), Client()
    Membership.objects.create(tenant=tenant, user=user, role=role)
    client.force_login(user, backend=BACKEND)
    return client


def test_pages_by_role_and_while_suspended(tenant, provider):  # noqa: F811
    ready(tenant, provider)
    page = f"/t/{tenant.slug}/billing"
    owner, admin, billing, developer = (member(tenant, role) for role in ("owner", "admin", "billing", "developer"))
    assert developer.get(page).status_code == 404 and developer.post(f"{page}/plan", {"plan": "pro"}).status_code == 404
    assert b"4242" in admin.get(page).content and b"Add a card" not in admin.get(page).content and admin.post(f"{page}/plan", {"plan": "pro"}).status_code == 404
    assert b"Pay 49.00 USD" in billing.get(page, {"plan": "pro", "interval": "month"}).content
    assert services.subscription_get(tenant).status == "none"
    billing.post(f"{page}/plan", {"plan": "pro", "interval": "month", "currency": "usd"})
    assert services.subscription_get(tenant).status == "active"
    with bound(tenant):
        assert AuditEntry.objects.filter(action="plan.new", target=tenant.id).exists()
    Tenant.objects.filter(pk=tenant.pk).update(status="suspended", suspended_reason="An invoice is not paid.")
    assert owner.get(page).status_code == 200 and b"Open billing" in owner.get(f"/t/{tenant.slug}/").content
    provider.door("outage", seconds=3600)
    try:
        answer = owner.get(page)
        assert answer.status_code == 200 and b"does not answer" in answer.content
        assert b"nothing was changed" in owner.post(f"{page}/cancel", follow=True, headers={"referer": f"http://testserver{page}"}).content
    finally:
        provider.door("outage", seconds=0)
    assert not services.subscription_get(tenant).cancel_at_period_end
    assert usage_report(workspace("quiet"), None) == 0
