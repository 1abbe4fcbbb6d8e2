"""Keys find their tenant; wrong, revoked, expired and suspended ones are refused; the portal shows nobody a foreign thing."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal import auth as totp_auth

from apps.accounts.models import User
from apps.apikeys.models import ApiKey
from apps.apikeys.services import SCOPES, api_key_authenticate, api_key_issue, api_key_revoke
from apps.audit.models import AuditEntry
from apps.common.actors import SYSTEM
from apps.common.errors import AccountDeactivated, BadRequest, Conflict, InvalidApiKey, MissingApiKey
from apps.onboarding.services import workspace_create
from apps.teams.models import Invitation, Membership, Role
from apps.teams.services import invitation_create, invitation_resend, invitation_revoke
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_resume, tenant_suspend
from tests.houses import BACKEND

PASSWORD = "a-long-password-7"


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


# Invitations, and what else people bring that does not do


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user, backend=BACKEND)
    return client


def test_an_invitation_works_once_for_whom_it_was_sent_to_until_it_ends(tenant):
    """Expired, revoked, replaced, reused, foreign and tampered ones: each says so, with its status, and nothing is lost."""
    guest = User.objects.create_user(f"guest-{tenant.id}@example.com", PASSWORD)
    row, first = invitation_create(tenant=tenant, email=guest.email, role="developer", actor=SYSTEM)
    with pytest.raises(Conflict):
        invitation_create(tenant=tenant, email=guest.email.upper(), role="viewer", actor=SYSTEM)
    second = invitation_resend(invitation=row, actor=SYSTEM)
    assert first not in str(row.__dict__) and second not in str(Invitation.objects.get(pk=row.pk).__dict__)  # kept hashed
    page = signed_in(guest)
    other = Client()
    other.force_login(User.objects.create_user(f"other-{tenant.id}@example.com", PASSWORD), backend=BACKEND)
    assert page.post(f"/invitations/{first}").status_code == 404  # replaced by the second
    assert page.post(f"/invitations/{second[:-3]}abc").status_code == 404 and page.post("/invitations/x:y:z").status_code == 404
    assert other.post(f"/invitations/{second}").status_code == 403
    Invitation.objects.filter(pk=row.pk).update(expires_at=timezone.now())
    late = page.post(f"/invitations/{second}")
    assert late.status_code == 410 and b"expired" in late.content and not Membership.objects.filter(user=guest).exists()
    third = invitation_resend(invitation=row, actor=SYSTEM)
    assert page.post(f"/invitations/{third}").status_code == 302 and Membership.objects.get(user=guest, tenant=tenant).role == "developer"
    assert page.post(f"/invitations/{third}").status_code == 410
    gone, token = invitation_create(tenant=tenant, email=f"gone-{tenant.id}@example.com", role="viewer", actor=SYSTEM)
    invitation_revoke(invitation=gone, actor=SYSTEM)
    assert other.get(f"/invitations/{token}").status_code == 410
    with pytest.raises(BadRequest):
        invitation_create(tenant=tenant, email="x@example.com", role="emperor", actor=SYSTEM)


def test_a_sign_in_is_throttled_after_five_wrong_passwords(tenant):
    user = User.objects.create_user(f"throttled-{tenant.id}@example.com", PASSWORD)
    client = Client(REMOTE_ADDR="10.1.2.3")
    for _ in range(5):
        assert client.post("/accounts/login/", {"login": user.email, "password": "wrong"}).status_code == 200
    refused = client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    assert refused.status_code == 200 and b"Too many" in refused.content and "_auth_user_id" not in client.session


@pytest.mark.parametrize("door", ["/accounts/login/", "/accounts/signup/"])
def test_nobody_is_sent_to_another_site(tenant, door):
    user = User.objects.create_user(f"next-{door[10]}-{tenant.id}@example.com", PASSWORD)
    for where in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "https:evil.example"):
        client = Client(REMOTE_ADDR="10.4.5.6")
        body = {"login": user.email, "password": PASSWORD} if "login" in door else {}
        answer = client.post(f"{door}?next={where}", {**body, "next": where})
        assert "evil" not in answer.get("Location", "") and "javascript" not in answer.get("Location", "")


def test_a_second_factor_is_asked_for_and_a_recovery_code_works_once(tenant):
    user = User.objects.create_user(f"mfa-{tenant.id}@example.com", PASSWORD)
    client, secret = Client(), totp_auth.generate_totp_secret()
    totp_auth.TOTP.activate(user, secret)
    codes = RecoveryCodes.activate(user).get_unused_codes()
    for code, good in (("000000", False), (codes[0], True)):
        client = Client(REMOTE_ADDR=f"10.7.8.{9 + good}")
        answer = client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
        assert answer["Location"].startswith("/accounts/2fa/authenticate/") and client.get(f"/t/{tenant.slug}/").status_code == 302
        client.post("/accounts/2fa/authenticate/", {"code": code})
        assert ("_auth_user_id" in client.session) == good
    again = Client(REMOTE_ADDR="10.7.8.11")
    again.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    again.post("/accounts/2fa/authenticate/", {"code": codes[0]})
    assert "_auth_user_id" not in again.session


@pytest.mark.parametrize("slug", ["public", "pg_catalog", "pg-x", "admin", "аdmin", "ａｄｍｉｎ", "x'; DROP SCHEMA public CASCADE; --", "t_demo", "../etc", "a" * 64, "x\u202ey"])
def test_a_slug_that_may_not_be_makes_nothing(tenant, slug):
    with pytest.raises(BadRequest):
        workspace_create(name="x", slug=slug)
    assert not Tenant.objects.filter(slug=slug).exists()


# Over the wire, against whatever deployment is named


def test_a_key_opens_its_own_workspace_at_both_doors_and_none_after_its_end(stack):
    portal = stack.start_portal()
    mine, theirs = stack.new_tenant("wire-mine"), stack.new_tenant("wire-theirs")
    with bound_public():
        key, secret = api_key_issue(tenant=mine[0], name="all", scopes=list(SCOPES), actor=SYSTEM)
        foreign = ApiKey.objects.get(tenant=theirs[0])
    with httpx.Client(base_url=f"{portal}/api/v1/", headers={"Authorization": f"Bearer {secret}"}) as client:
        assert client.get("me").json()["tenant"] == mine[0].slug
        assert client.get(f"keys/{foreign.id}").status_code == 404 and client.delete(f"keys/{foreign.id}").status_code == 404
        new = client.post(f"keys/{key.id}/rotate", json={"grace_seconds": 60}).json()["secret"]
        for working in (secret, new):
            assert httpx.get(f"{stack.base_url}/v1/models", headers={"Authorization": f"Bearer {working}"}).status_code == 200
        assert client.delete(f"keys/{key.id}").status_code == 204 and client.get("me").status_code == 401
    assert httpx.get(f"{stack.base_url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 401
    assert httpx.get(f"{stack.base_url}/v1/models", headers={"Authorization": f"Bearer {new}"}).status_code == 200
    with bound_public():
        tenant_suspend(tenant=mine[0], reason="unpaid", actor=SYSTEM)
    for url in (f"{stack.base_url}/v1/models", f"{portal}/api/v1/me"):
        refused = httpx.get(url, headers={"Authorization": f"Bearer {new}"})
        assert refused.status_code == 403 and refused.json()["error"]["code"] == "account_deactivated"
    assert httpx.get(f"{stack.base_url}/v1/models", headers={"Authorization": f"Bearer {theirs[1]}"}).status_code == 200


def test_a_host_that_belongs_to_nobody_is_refused(stack):
    portal = stack.start_portal()
    assert httpx.get(f"{portal}/", headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(f"{portal}/api/v1/me", headers={"Host": "evil.example"}).json()["error"]["code"] == "invalid_request"
    assert httpx.get(f"{stack.base_url}/v1/models", headers={"Host": "evil.example"}).status_code == 400
    for base in (portal, stack.base_url):  # probers and scrapers name the address they ask
        assert httpx.get(f"{base}/health", headers={"Host": "10.1.2.3:8000"}).status_code == 200
        assert httpx.get(f"{base}/metrics", headers={"Host": "10.1.2.3:8000"}).status_code == 200
