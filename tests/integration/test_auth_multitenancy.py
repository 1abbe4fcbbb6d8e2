"""Keys find their tenant; wrong, revoked, expired and suspended ones are refused; the portal shows nobody a foreign thing."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from apps.accounts.models import User
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_authenticate, api_key_issue, api_key_revoke
from apps.audit.models import AuditEntry
from apps.common.actors import SYSTEM
from apps.common.errors import AccountDeactivated, Conflict, InvalidApiKey, MissingApiKey
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership, Role
from apps.tenants.context import bound, bound_public
from apps.tenants.services import tenant_resume, tenant_suspend


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace_create(name="Keys", slug=f"keys-{timezone.now().timestamp():.6f}".replace(".", "-"))


def test_a_key_finds_its_tenant_and_is_not_stored(tenant):
    key, secret = api_key_issue(tenant=tenant, name="first", actor=SYSTEM)
    assert api_key_authenticate(secret=secret).tenant.tenant_id == tenant.id
    row = ApiKey.objects.get(pk=key.pk)
    assert secret not in str(row.__dict__) and secret[11:] not in str(row.__dict__)
    with bound(tenant):
        assert AuditEntry.objects.filter(target=key.id, action="api_key.issued").exists()


def test_wrong_keys_are_refused(tenant):
    _, secret = api_key_issue(tenant=tenant, name="first", actor=SYSTEM)
    other = "x" if secret[20] != "x" else "y"
    for wrong in ("vv_", "sk-123", secret[:-1], secret + "x", secret[:20] + other + secret[21:], "é" * 60, "\0" * 60):
        with pytest.raises(InvalidApiKey):
            api_key_authenticate(secret=wrong)
    for none in ("", None):
        with pytest.raises(MissingApiKey):
            api_key_authenticate(secret=none)


def test_revoked_and_expired_keys_are_refused(tenant):
    key, secret = api_key_issue(tenant=tenant, name="first", actor=SYSTEM)
    api_key_revoke(key=key, actor=SYSTEM)
    with pytest.raises(InvalidApiKey):
        api_key_authenticate(secret=secret)
    with pytest.raises(Conflict):
        api_key_revoke(key=key, actor=SYSTEM)
    _, late = api_key_issue(tenant=tenant, name="late", expires_at=timezone.now() - timedelta(seconds=1), actor=SYSTEM)
    with pytest.raises(InvalidApiKey):
        api_key_authenticate(secret=late)


def test_a_suspended_workspace_is_refused_until_it_is_resumed(tenant):
    _, secret = api_key_issue(tenant=tenant, name="first", actor=SYSTEM)
    tenant_suspend(tenant=tenant, reason="unpaid", actor=SYSTEM)
    with pytest.raises(AccountDeactivated):
        api_key_authenticate(secret=secret)
    tenant_resume(tenant=tenant, actor=SYSTEM)
    assert api_key_authenticate(secret=secret)


def test_models_are_listed_for_a_key(stack):
    _, secret = stack.new_tenant("models")
    headers = {"Authorization": f"Bearer {secret}"}
    listed = httpx.get(f"{stack.base_url}/v1/models", headers=headers).json()
    assert {"default", "gpt-realtime"} <= {m["id"] for m in listed["data"]}
    assert httpx.get(f"{stack.base_url}/v1/models/default", headers=headers).json()["pipeline"]["stt"]["engine"] == "faster_whisper"
    refused = httpx.get(f"{stack.base_url}/v1/models")
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "missing_api_key"
    assert httpx.get(f"{stack.base_url}/v1/models/none", headers=headers).status_code == 404
    assert httpx.get(f"{stack.base_url}/v1/realtime", headers=headers).status_code == 426


def test_health_ready_and_metrics(stack):
    assert httpx.get(f"{stack.base_url}/health").json() == {"status": "ok"}
    report = httpx.get(f"{stack.base_url}/ready").json()
    assert set(report["checks"]) == {"postgres", "redis", "workers.stt", "workers.llm", "workers.tts"}
    assert "voice_sessions" in httpx.get(f"{stack.base_url}/metrics").text


def test_commands(tenant, capsys):
    call_command("tenant", "list")
    assert tenant.slug in capsys.readouterr().out
    call_command("apikey", "create", tenant.slug, "--name", "cli")
    key_id, secret = capsys.readouterr().out.split()
    assert api_key_authenticate(secret=secret).key_id == key_id
    call_command("apikey", "revoke", key_id)
    with pytest.raises(InvalidApiKey):
        api_key_authenticate(secret=secret)


def member(tenant, role: str) -> Client:
    user = User.objects.create_user(f"{role}-{tenant.id}@example.com", "a-long-password-7")
    Membership.objects.create(tenant=tenant, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


def test_the_portal_shows_a_workspace_to_its_members_only(tenant):
    owner, viewer = member(tenant, Role.OWNER), member(tenant, Role.VIEWER)
    stranger = member(workspace_create(name="Other", slug=f"other-{tenant.id[-12:]}"), Role.OWNER)
    page = f"/t/{tenant.slug}/"
    assert owner.get(page).status_code == 200 and b"Assistant" in owner.get(page).content
    assert stranger.get(page).status_code == 404
    assert Client().get(page).status_code == 302
    assert viewer.get(page).status_code == 200 and viewer.get(f"{page}keys").status_code == 404
    assert viewer.post(f"{page}keys", {"name": "x"}).status_code == 404


def test_a_key_is_made_shown_once_and_revoked_in_the_portal(tenant):
    owner = member(tenant, Role.OWNER)
    page = owner.post(f"/t/{tenant.slug}/keys", {"name": "portal", "scopes": ["realtime:connect"]}).content.decode()
    key = ApiKey.objects.get(tenant=tenant, name="portal")
    assert f"vv_{key.prefix}" in page and 'class="secret"' in page
    assert 'class="secret"' not in owner.get(f"/t/{tenant.slug}/keys").content.decode()
    stranger = member(workspace_create(name="Other", slug=f"otter-{tenant.id[-12:]}"), Role.OWNER)
    assert stranger.post(f"/t/{tenant.slug}/keys/{key.id}/revoke").status_code == 404
    assert owner.post(f"/t/{tenant.slug}/keys/{key.id}/revoke").status_code == 302
    key.refresh_from_db()
    assert key.revoked_at is not None


def test_sign_in(tenant):
    User.objects.create_user("anna@example.com", "a-long-password-7")
    client = Client()
    page = "/accounts/login/"
    assert b"not correct" in client.post(page, {"login": "anna@example.com", "password": "wrong"}).content
    answer = client.post(page, {"login": "anna@example.com", "password": "a-long-password-7", "next": "https://evil.example/"})
    assert answer.status_code == 302 and answer["Location"] == "/"
