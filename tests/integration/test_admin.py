"""Operators in Django admin."""

from __future__ import annotations

import time

import pytest
from django.contrib.admin.utils import quote
from django.test import Client

from apps.accounts.models import User
from apps.audit.models import AuditEntry
from apps.conversations.models import VoiceSession
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage.limits import Level, limiter


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace_create(name="Ops", slug=f"ops-{time.time_ns() % 10**10}")


@pytest.fixture
def boss(tenant):
    client = Client()
    client.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", "a-long-password-7"), backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


@pytest.mark.parametrize("page", ["", "tenants/tenant/", "tenants/tenant/add/", "accounts/user/", "accounts/issuer/", "accounts/issuer/add/", "teams/membership/", "apikeys/apikey/", "apikeys/impersonation/",
                                  "audit/auditentry/", "tenants/domain/", "live", "queues"])  # fmt: skip
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
    boss.post(f"/admin/tenants/tenant/{quote(tenant.id)}/change/", {"name": "Ops 2", "email": "", "concurrent_sessions": "3", "plan": "", "override_until_0": "", "override_until_1": ""})
    tenant.refresh_from_db()
    assert (tenant.status, tenant.name, tenant.limits) == ("active", "Ops 2", {"concurrent_sessions": 3})
    assert [e.action for e in AuditEntry.objects.filter(target=tenant.id).order_by("seq")] == [
        "tenant.suspended", "tenant.resumed", "tenant.updated", "tenant.overridden"]  # fmt: skip


def test_live_sessions_are_listed_and_ended(boss, tenant):
    with bound(tenant):
        VoiceSession.objects.create(id=f"sess_{tenant.slug}", agent_id="agt_x", agent_version=1, key_id="key_x")
    limiter().enter((Level(tenant.id, {"concurrent_sessions": 5}),), f"sess_{tenant.slug}")
    assert f"sess_{tenant.slug}".encode() in boss.get("/admin/live").content
    end = f"/admin/live/{tenant.id}/sess_{tenant.slug}/end"
    assert boss.get(end).status_code == 405
    assert b"is told to end" in boss.post(end, follow=True).content
    with bound(tenant):
        assert AuditEntry.objects.filter(action="session.ended", target=f"sess_{tenant.slug}").exists()
    assert boss.post(f"/admin/live/{tenant.id}/sess_nobody/end").status_code == boss.post("/admin/live/ten_x/sess_x/end").status_code == 404


def test_a_bad_slug_is_said_on_the_page(boss):
    assert b"is reserved" in boss.post("/admin/tenants/tenant/add/", {"name": "Admin", "slug": "admin", "email": ""}, follow=True).content


def test_a_member_is_no_operator(tenant):
    client = Client()
    client.force_login(User.objects.create_user(f"u-{time.time_ns()}@example.com", "a-long-password-7"), backend="allauth.account.auth_backends.AuthenticationBackend")
    assert all(client.get(f"/admin/{page}").status_code == 302 for page in ("tenants/tenant/", "live", "queues"))
    assert client.post(f"/admin/live/{tenant.id}/sess_x/end").status_code == 302
    User.objects.filter(pk=client.session["_auth_user_id"]).update(is_staff=True)  # staff without superuser rights
    assert all(client.get(f"/admin/{page}").status_code == 403 for page in ("live", "queues"))
    assert client.post(f"/admin/tenants/tenant/{tenant.id}/act/suspend", {"reason": "x"}).status_code == 302
    tenant.refresh_from_db()
    assert tenant.status == "active"
