"""Operators in Django admin."""

from __future__ import annotations

import time

import pytest
from django.test import Client

from apps.accounts.models import User
from apps.audit.models import AuditEntry
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound_public
from apps.tenants.models import Tenant


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace_create(name="Ops", slug=f"ops-{time.time_ns() % 10**10}")


@pytest.fixture
def boss(tenant):
    client = Client()
    client.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", "a-long-password-7"), backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


@pytest.mark.parametrize("page", ["", "tenants/tenant/", "tenants/tenant/add/", "accounts/user/", "accounts/issuer/", "accounts/issuer/add/", "teams/membership/", "apikeys/apikey/"])
def test_every_list_opens(boss, page):
    assert boss.get(f"/admin/{page}").status_code == 200


def test_a_tenant_is_made_suspended_resumed_and_overridden(boss, tenant):
    slug = f"made-{time.time_ns() % 10**10}"
    made = boss.post("/admin/tenants/tenant/add/", {"name": "Made", "slug": slug, "email": ""})
    assert made.status_code == 302 and Tenant.objects.get(slug=slug).status == "active"
    act = f"/admin/tenants/tenant/{tenant.id}/act"
    assert b"Suspend" in boss.get(f"{act}/suspend").content
    assert b"say why" in boss.post(f"{act}/suspend", {"reason": ""}, follow=True).content
    boss.post(f"{act}/suspend", {"reason": "unpaid"})
    tenant.refresh_from_db()
    assert tenant.status == "suspended" and tenant.suspended_reason == "unpaid"
    boss.post(f"{act}/resume")
    boss.post(f"/admin/tenants/tenant/{tenant.id}/change/", {"limits": '{"concurrent_sessions": 3}', "plan": "", "override_until_0": "", "override_until_1": ""})
    tenant.refresh_from_db()
    assert tenant.status == "active" and tenant.limits == {"concurrent_sessions": 3}
    assert [e.action for e in AuditEntry.objects.filter(target=tenant.id).order_by("seq")] == ["tenant.suspended", "tenant.resumed", "tenant.overridden"]


def test_a_member_is_no_operator(tenant):
    client = Client()
    client.force_login(User.objects.create_user(f"u-{time.time_ns()}@example.com", "a-long-password-7"), backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.get("/admin/tenants/tenant/").status_code == 302
    assert client.post(f"/admin/tenants/tenant/{tenant.id}/act/suspend", {"reason": "x"}).status_code == 302
    tenant.refresh_from_db()
    assert tenant.status == "active"
