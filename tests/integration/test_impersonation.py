"""Operators look as members: by a secret for /api/v1 and in the browser; read only, for a while, written down where it counts."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.test import Client, override_settings
from django.utils import timezone

from apps.accounts.models import User
from apps.apikeys.models import ApiKey, Impersonation
from apps.apikeys.services import api_key_revoke, operator_key_issue
from apps.audit.models import AuditEntry
from apps.common.actors import SYSTEM
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership
from apps.tenants.context import bound, bound_public
from apps.tenants.services import tenant_close, tenant_erase, tenant_resume, tenant_suspend
from tests.houses import BACKEND

WHY = {"reason": "ticket 7"}


def ask(secret: str, method: str, path: str, body=None, **headers):
    more = {"data": body, "content_type": "application/json"} if body is not None else {}
    return getattr(Client(), method)(f"/api/v1/{path}", headers={"authorization": f"Bearer {secret}", **headers}, **more)


def person(tenant, role: str, **fields) -> Membership:
    user = User.objects.create_user(f"{role}-{time.time_ns()}@example.com", "a-long-password-7", **fields)
    return Membership.objects.create(tenant=tenant, user=user, role=role)


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace_create(name="Looked at", slug=f"looked-{time.time_ns() % 10**10}")


@pytest.fixture
def boss(tenant):
    return operator_key_issue(name="boss", actor=SYSTEM)


@pytest.fixture
def look(tenant, boss):
    """look(body) -> the answer of the API."""
    return lambda **body: ask(boss[1], "post", f"admin/tenants/{tenant.id}/impersonations", {**WHY, **body})


def test_a_secret_sees_what_the_member_sees_and_changes_nothing(tenant, boss, look):
    member = person(tenant, "admin")
    made = look(user=member.user.email.upper()).json()
    assert made["secret"].startswith("vi_") and (made["user_id"], made["tenant_id"], made["writable"], made["state"]) == (member.user_id, tenant.id, False, "active")
    me = ask(made["secret"], "get", "me").json()
    assert me["id"] == member.user_id and me["tenant"] == tenant.slug and set(me["permissions"]) >= {"keys.read", "audit.read"} and "keys.write" not in me["permissions"]
    assert ask(made["secret"], "get", "agents").json()["data"]
    for method, path, body in (("patch", "tenant", {"name": "X"}), ("post", "keys", {"name": "x"}), ("delete", f"members/{member.id}", None)):
        refused = ask(made["secret"], method, path, body)
        assert refused.status_code == 403 and "read only" in refused.json()["error"]["message"], path
    assert ask(made["secret"], "get", "admin/tenants").status_code == 401 and ask(made["secret"], "get", "workspaces").status_code == 401
    with bound(tenant):
        [line] = AuditEntry.objects.filter(action="user.impersonated")
    assert line.after["reason"] == "ticket 7" and line.actor == boss[0].id and line.target == member.user_id
    assert AuditEntry.objects.get(action="user.impersonated", after__impersonation=made["id"]).actor == boss[0].id  # the operators' own log
    with override_settings(ROOT_URLCONF="config.urls.gateway"):
        assert Client().get("/v1/models", headers={"authorization": f"Bearer {made['secret']}"}).status_code == 401  # no key to talk with


def test_with_changes_it_changes_but_makes_nothing_that_outlives_it(tenant, look):
    owner = person(tenant, "owner")
    made = look(role="owner", writable=True, minutes=5).json()
    assert made["user_id"] == owner.user_id
    assert ask(made["secret"], "patch", "tenant", {"name": "Mended"}).status_code == 200
    with bound(tenant):
        line = AuditEntry.objects.filter(action="tenant.updated").first()
    assert (line.actor, line.key_id) == (owner.user_id, made["id"])  # who, and by what
    for method, path, body in (("post", "keys", {"name": "x"}), ("delete", f"members/{owner.id}", None), ("post", "invitations", {"email": "a@example.com", "role": "owner"})):
        assert ask(made["secret"], method, path, body).status_code == 403, path


def test_it_is_listed_and_ends_by_hand_by_time_and_with_the_right_it_came_from(tenant, boss, look):
    member = person(tenant, "viewer")

    def alive(made) -> bool:
        return ask(made["secret"], "get", "me").status_code == 200

    made = look(user=member.user_id).json()
    listed = ask(boss[1], "get", f"admin/impersonations?tenant_id={tenant.id}").json()["data"]
    assert [row["id"] for row in listed] == [made["id"]] and "secret" not in listed[0] and alive(made)
    assert ask(boss[1], "delete", f"admin/impersonations/{made['id']}").status_code == 204 and not alive(made)
    assert ask(boss[1], "delete", f"admin/impersonations/{made['id']}").status_code == 409
    assert ask(boss[1], "get", f"admin/impersonations/{made['id']}").json()["state"] == "ended"
    made = look(user=member.user_id).json()
    Impersonation.objects.filter(pk=made["id"]).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert not alive(made) and ask(boss[1], "get", f"admin/impersonations/{made['id']}").json()["state"] == "expired"
    made = look(user=member.user_id).json()
    tenant_suspend(tenant=tenant, reason="unpaid", actor=SYSTEM)
    assert ask(made["secret"], "get", "me").json()["error"]["code"] == "account_deactivated" and look(user=member.user_id).status_code == 409
    tenant_resume(tenant=tenant, actor=SYSTEM)
    assert alive(made)
    Membership.objects.filter(pk=member.pk).update(role="billing")
    assert "usage.read" in ask(made["secret"], "get", "me").json()["permissions"]  # as the role is now
    api_key_revoke(key=ApiKey.objects.get(pk=boss[0].pk), actor=SYSTEM)
    assert not alive(made)


def test_who_cannot_be_looked_at(tenant, boss, look):
    stranger = User.objects.create_user(f"stranger-{time.time_ns()}@example.com", "a-long-password-7")
    colleague, off = person(tenant, "admin", is_staff=True, is_superuser=True), person(tenant, "viewer", is_active=False)
    assert look(user=colleague.user_id).json()["error"]["code"] == "forbidden"
    assert look(role="admin").status_code == 404  # the only one is an operator
    assert look(user=off.user_id).status_code == 409
    assert look(user=stranger.id).status_code == look(user="usr_nobody").status_code == look(role="owner").status_code == 404
    assert look().status_code == look(user="x", role="owner").status_code == look(role="emperor").status_code == 400
    assert look(user=off.user_id, minutes=0).status_code == look(user=off.user_id, minutes=241).status_code == look(user=off.user_id, reason="").status_code == 422
    assert look(role="viewer", reason="  ").status_code == 400
    assert ask(boss[1], "post", "admin/tenants/ten_none/impersonations", {"role": "owner", **WHY}).status_code == 404
    for secret in ("vi_", "vi_" + "x" * 57, "vi_\N{SNOWMAN}"):
        assert Client().get("/api/v1/me", HTTP_AUTHORIZATION=f"Bearer {secret}").status_code == 401
    tenant_close(tenant=tenant, actor=SYSTEM)
    tenant_erase(tenant=tenant, actor=SYSTEM)
    assert look(role="owner").status_code == 409


def test_a_repeat_with_an_idempotency_key_is_one_impersonation(tenant, boss):
    person(tenant, "owner")
    first, again = (ask(boss[1], "post", f"admin/tenants/{tenant.id}/impersonations", {"role": "owner", **WHY}, **{"idempotency-key": "i1"}) for _ in range(2))
    assert first.status_code == again.status_code == 201 and first.json() == again.json() and Impersonation.objects.filter(tenant=tenant).count() == 1


def test_in_the_browser_it_is_in_the_workspaces_log_ends_by_api_and_makes_no_keys(tenant, boss):
    member, client = person(tenant, "owner"), Client()
    client.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", "a-long-password-7"), backend=BACKEND)
    assert client.post(f"/impersonate/{member.user_id}", {"write": "1", "reason": "ticket 9"}).status_code == 302
    assert client.get(f"/t/{tenant.slug}/keys").status_code == 200
    assert client.post(f"/t/{tenant.slug}/keys", {"name": "x", "scopes": ["realtime:connect"]}).status_code == 404 and not tenant.api_keys.exists()
    assert client.post(f"/t/{tenant.slug}/settings", {"name": "Mended", "email": "", "tool_hosts": "", "allowed_origins": ""}).status_code == 302
    for path in ("/accounts/password/set/", "/accounts/2fa/totp/activate/", "/new", "/api/v1/me/sessions", "/account/sign-out-everywhere"):
        assert client.post(path).status_code == 403, path  # the person's own
    assert client.post(f"/t/{tenant.slug}/team/{member.id}/remove").status_code == 302 and Membership.objects.filter(pk=member.pk).exists()
    row = Impersonation.objects.get(user=member.user)
    with bound(tenant):
        assert AuditEntry.objects.get(action="user.impersonated").after["reason"] == "ticket 9"
        assert AuditEntry.objects.filter(action="tenant.updated").first().key_id == row.id
    assert ask(boss[1], "delete", f"admin/impersonations/{row.id}").status_code == 204
    assert client.get("/api/v1/me").status_code == 401
    assert client.get(f"/t/{tenant.slug}/").status_code == 302  # signed out
