"""Every page of the portal as its user meets it: sign-up, workspace, agents, keys, team, settings, audit; and what is refused."""

from __future__ import annotations

import re
import time

import pytest
from django.test import Client

from apps.accounts.models import User
from apps.agents.models import Agent
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_authenticate
from apps.audit.models import AuditEntry
from apps.common.actors import SYSTEM
from apps.common.errors import Forbidden
from apps.conversations.models import VoiceSession
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership, Role
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_suspend

PASSWORD = "a-long-password-7"
_count = iter(range(10**6))


def unique(word: str) -> str:
    return f"{word}-{time.time_ns() % 10**9}-{next(_count)}"


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace_create(name="Bakery", slug=unique("bakery"))


def member(tenant, role: str) -> Client:
    user = User.objects.create_user(f"{unique(role)}@example.com", PASSWORD)
    Membership.objects.create(tenant=tenant, user=user, role=role)
    client = Client()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    client.user = user
    return client


def test_a_stranger_signs_up_and_has_a_workspace(default_worker, mailbox):
    with bound_public():
        client, email = Client(), f"{unique('ada')}@example.com"
        assert b"Sign up" in client.get("/").content
        form = {"email": email, "password1": PASSWORD, "workspace": unique("Ada's Bakery"), "accept_terms": "on"}
        assert client.post("/accounts/signup/", form).status_code == 302
        answer = client.get("/")
        assert answer.status_code == 302 and answer["Location"].startswith("/progress/")
        assert "is ready" in mailbox.wait(email, "is ready")
        tenant = Tenant.objects.get(memberships__user__email=email)
        quickstart = f"/t/{tenant.slug}/quickstart"
        for unread in ({"sec-purpose": "prefetch"}, {"sec-fetch-dest": "image"}):  # by nobody: they do not use the one look up
            assert b'class="secret"' not in client.get(quickstart, headers=unread).content
        client.head(quickstart)
        assert "vv_" not in str(dict(client.session))
        page = client.get(answer["Location"], follow=True).content.decode()
        assert "Quickstart" in page
        secret = re.search(r'class="secret" id="key">(vv_\w+)', page)[1]
        assert page.count(secret) == 5 and api_key_authenticate(secret=secret).tenant.tenant_id == tenant.id
        assert "first_key" not in client.session and secret not in client.get(quickstart).content.decode()
        with bound(tenant):
            [line] = AuditEntry.objects.filter(action="api_key.issued")
        assert line.target == tenant.api_keys.get().id and line.actor == client.session["_auth_user_id"]
        more = re.search(r'class="secret" id="key">(vv_\w+)', client.post(quickstart).content.decode())[1]
        assert more != secret and tenant.api_keys.count() == 2
        assert "signed_up" in tenant.milestones


def test_sign_up_refuses_weak_passwords_terms_and_says_nothing_of_who_has_an_account(database):
    with bound_public():
        email = f"{unique('eve')}@example.com"
        User.objects.create_user(email, PASSWORD)
        good = {"email": f"{unique('new')}@example.com", "password1": PASSWORD, "workspace": "X", "accept_terms": "on"}
        assert b"too short" in Client().post("/accounts/signup/", {**good, "password1": "short"}).content
        assert b"must be accepted" in Client().post("/accounts/signup/", {k: v for k, v in good.items() if k != "accept_terms"}).content
        known = Client().post("/accounts/signup/", {**good, "email": email})
        assert known.status_code in (200, 302) and email.encode() not in known.content.replace(f'value="{email}"'.encode(), b"")


PAGES = ("", "quickstart", "playground", "agents", "sessions", "keys", "team", "settings", "settings/issuer", "audit", "audit.csv")


@pytest.mark.parametrize("page", PAGES)
def test_it_checks_access(tenant, page):
    owner, path = member(tenant, Role.OWNER), f"/t/{tenant.slug}/{page}"
    stranger = member(workspace_create(name="Other", slug=unique("other")), Role.OWNER)
    assert owner.get(path).status_code == 200
    assert stranger.get(path).status_code == 404
    assert Client().get(path).status_code == 302


def test_an_agent_is_drafted_published_compared_and_rolled_back(tenant):
    owner = member(tenant, Role.OWNER)
    base = f"/t/{tenant.slug}/agents"
    made = owner.post(base, {"name": "Front desk", "template": "front-desk"})
    page = made["Location"]
    form = {"instructions": "Be brief.", "voice": "ash", "language": "en", "tools": "[]", "turn_mode": "server_vad", "silence_duration_ms": "700",
            "create_response": "on", "backchannels": "on", "max_output_tokens": "100"}  # fmt: skip
    assert owner.post(page, form).status_code == 302
    assert b"Draft, version 2" in owner.get(page).content and b"-You are the front desk" in owner.get(page).content
    assert owner.post(f"{page}/publish").status_code == 302
    with bound(tenant):
        agent = Agent.objects.get(name="Front desk")
        assert agent.published.number == 2 and agent.published.voice == "ash" and agent.published.tools == []
        assert agent.published.turn_detection == {"type": "server_vad", "silence_duration_ms": 700, "interrupt_response": False, "preemptive": False}
        assert agent.published.limits == {"max_output_tokens": 100}
    assert b"Be brief." in owner.get(f"{page}/compare/1/2").content
    assert owner.post(f"{page}/rollback", {"number": "1"}).status_code == 302
    with bound(tenant):
        assert Agent.objects.get(name="Front desk").published.number == 1
        assert [e.action for e in AuditEntry.objects.order_by("seq")][-4:] == ["agent.created", "agent.draft_saved", "agent.published", "agent.rolled_back"]
    assert owner.get(f"{page}/compare/1/9").status_code == 404
    bad = owner.post(page, {**form, "tools": '[{"name": "x", "url": "https://10.0.0.1/"}]'}, follow=True)
    assert b"address is not a host name" in bad.content
    assert b"not JSON" in owner.post(page, {**form, "tools": "[1"}).content
    viewer = member(tenant, Role.VIEWER)
    assert viewer.get(page).status_code == 200 and viewer.post(page, form).status_code == 404 and viewer.post(f"{page}/publish").status_code == 404


def test_a_key_is_rotated_with_grace(tenant):
    owner = member(tenant, Role.DEVELOPER)
    page = f"/t/{tenant.slug}/keys"
    shown = owner.post(page, {"name": "app", "scopes": ["realtime:connect"], "concurrent_sessions": "3"}).content.decode()
    old = re.search(r'class="secret">(vv_\w+)', shown)[1]
    key = ApiKey.objects.get(tenant=tenant, name="app")
    assert key.limits == {"concurrent_sessions": 3}
    new = re.search(r'class="secret">(vv_\w+)', owner.post(f"{page}/{key.id}/rotate").content.decode())[1]
    assert api_key_authenticate(secret=old).key_id == key.id and api_key_authenticate(secret=new).key_id != key.id
    assert b"data-until=" in owner.get(page).content and b"</span> more" in owner.get(page).content  # the countdown
    assert owner.post(page, {"name": "app", "scopes": ["tenant:admin"]}, follow=True).content.count(b"You need the permission") == 1


def test_people_are_invited_join_change_roles_and_leave(tenant, default_worker, mailbox):
    owner = member(tenant, Role.OWNER)
    page = f"/t/{tenant.slug}/team"
    email = f"{unique('bob')}@example.com"
    assert owner.post(page, {"email": email, "role": "developer"}).status_code == 302
    link = re.search(r"/invitations/\S+", mailbox.wait(email).replace("=\n", ""))[0]
    stranger = Client()
    assert b"Make an account" in stranger.get(link).content
    assert stranger.get(link[:-2] + ("xx" if link[-2:] != "xx" else "yy")).status_code == 404
    wrong = member(workspace_create(name="Else", slug=unique("else")), Role.OWNER)
    assert wrong.post(link).status_code == 403
    bob = User.objects.create_user(email, PASSWORD)
    client = Client()
    client.force_login(bob, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.post(link).status_code == 302
    assert client.post(link).status_code == 410 and Membership.objects.filter(tenant=tenant, user=bob, role="developer").count() == 1
    mine, his = (Membership.objects.get(tenant=tenant, user=u) for u in (owner.user, bob))
    assert b"needs an owner" in owner.post(f"{page}/{mine.id}/role", {"role": "viewer"}, follow=True).content
    assert b"needs an owner" in owner.post(f"{page}/{mine.id}/remove", follow=True).content
    assert b"expected one of" in owner.post(f"{page}/{his.id}/role", {"role": "emperor"}, follow=True).content
    assert owner.post(f"{page}/{his.id}/role", {"role": "admin"}).status_code == 302
    assert b"Only an owner" in client.post(f"{page}/{mine.id}/role", {"role": "viewer"}, follow=True).content
    assert owner.post(f"{page}/{his.id}/transfer").status_code == 302
    mine.refresh_from_db()
    assert mine.role == Role.ADMIN and Membership.objects.get(pk=his.pk).role == Role.OWNER
    assert owner.post(f"{page}/{mine.id}/remove").status_code == 302  # leaves
    assert owner.get(page).status_code == 404


def test_a_suspended_workspace_says_why(tenant):
    owner = member(tenant, Role.OWNER)
    tenant_suspend(tenant=tenant, reason="The invoice of May is open.", actor=SYSTEM)
    answer = owner.get(f"/t/{tenant.slug}/keys")
    assert answer.status_code == 403 and b"invoice of May" in answer.content


def test_a_workspace_is_closed_and_reopened_by_its_owner(tenant):
    owner, admin = member(tenant, Role.OWNER), member(tenant, Role.ADMIN)
    close = f"/t/{tenant.slug}/settings/close"
    assert admin.post(close, {"confirm": tenant.slug}).status_code == 404
    assert b"Type" in owner.post(close, {"confirm": "no"}, follow=True).content
    owner.post(close, {"confirm": tenant.slug})
    page = owner.get(f"/t/{tenant.slug}/")
    assert page.status_code == 403 and b"Open it again" in page.content
    owner.post(f"/t/{tenant.slug}/settings/reopen")
    assert owner.get(f"/t/{tenant.slug}/").status_code == 200


def test_the_audit_page_filters_and_its_csv_is_safe(tenant):
    owner = member(tenant, Role.OWNER)
    owner.post(f"/t/{tenant.slug}/keys", {"name": "=cmd|' /C calc'!A0", "scopes": ["realtime:connect"]})
    owner.post(f"/t/{tenant.slug}/settings", {"name": "@SUM(1)", "email": "", "tool_hosts": "", "allowed_origins": ""})
    page = owner.get(f"/t/{tenant.slug}/audit", {"action": "api_key"}).content
    line = b'<span class="badge">%s</span>'
    assert line % b"api_key.issued" in page and line % b"tenant.updated" not in page
    part = owner.get(f"/t/{tenant.slug}/audit", {"until": "2020-01-01"}, headers={"HX-Request": "true"}).content  # htmx asks for the table alone
    assert b"Nothing found" in part and b"<html" not in part
    assert b"expected a day" in owner.get(f"/t/{tenant.slug}/audit", {"since": "yesterday"}).content
    text = b"".join(owner.get(f"/t/{tenant.slug}/audit.csv").streaming_content).decode()
    cells = [c.strip('"') for line in text.splitlines() for c in line.split(",")]
    assert "api_key.issued" in text and not [c for c in cells if c.startswith(("=", "+", "@"))]


def test_sessions_are_found_by_state_and_agent(tenant):
    owner, page = member(tenant, Role.OWNER), f"/t/{tenant.slug}/sessions"
    with bound(tenant):
        agent = Agent.objects.get()
        for state in ("live", "closed"):
            VoiceSession.objects.create(id=f"sess_{state}", agent_id=agent.id, agent_version=1, key_id="key_x", state=state)
    live = owner.get(page, {"state": "live", "agent": agent.id}).content
    assert b"sess_live" in live and b"sess_closed" not in live
    assert b"No session matches" in owner.get(page, {"session": "sess_nobody"}).content
    assert owner.get(page, {"state": "nonsense", "page": "x", "session": "\0"}).status_code == 200


def test_signing_out_everywhere_ends_every_browser(tenant):
    first = member(tenant, Role.VIEWER)
    second = Client()
    second.force_login(first.user, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert first.get("/accounts/sessions/").status_code == second.get("/accounts/sessions/").status_code == 200
    assert first.post("/account/sign-out-everywhere").status_code == 302
    assert first.get("/account").status_code == second.get("/account").status_code == 302


def test_forms_without_a_csrf_token_are_refused(tenant):
    client = Client(enforce_csrf_checks=True)
    client.force_login(member(tenant, Role.OWNER).user, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.post(f"/t/{tenant.slug}/keys", {"name": "x"}).status_code == 403


def test_a_host_nobody_owns_is_refused(database):
    assert Client().get("/", headers={"host": "evil.example"}).status_code == 400


def test_an_operator_looks_as_a_member_read_only_and_it_is_written_down(tenant):
    target = member(tenant, Role.OWNER).user
    boss = User.objects.create_superuser(f"{unique('boss')}@example.com", PASSWORD)
    client = Client()
    client.force_login(boss, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.get(f"/t/{tenant.slug}/").status_code == 404
    assert client.post(f"/impersonate/{target.id}").status_code == 302
    page = client.get(f"/t/{tenant.slug}/")
    assert page.status_code == 200 and b"(read only)" in page.content
    refused = client.post(f"/t/{tenant.slug}/keys", {"name": "x", "scopes": ["realtime:connect"]})
    assert refused.status_code == 403 and b"Back to yourself" in refused.content
    assert client.post("/api/v1/keys", "{}", content_type="application/json").json()["error"]["code"] == Forbidden.code
    assert client.post("/impersonation/end").status_code == 302
    assert client.get(f"/t/{tenant.slug}/").status_code == 404
    assert AuditEntry.objects.filter(action="user.impersonated", target=target.id, actor=boss.id).exists()
    assert member(tenant, Role.OWNER).post(f"/impersonate/{target.id}").status_code == 404


def test_a_forgotten_password_is_set_anew_by_the_mailed_link(tenant, default_worker, mailbox):
    user, client, new = member(tenant, Role.VIEWER).user, Client(), "another-long-password-8"
    assert client.post("/accounts/password/reset/", {"email": user.email}).status_code == 302
    link = re.search(r"/accounts/password/reset/key/\S+", mailbox.wait(user.email).replace("=\n", ""))[0]
    page = client.get(link, follow=True)
    assert page.status_code == 200 and b"password1" in page.content
    assert client.post(page.request["PATH_INFO"], {"password1": new, "password2": new}).status_code == 302
    assert not Client().login(username=user.email, password=PASSWORD, email=user.email)
    assert Client().post("/accounts/login/", {"login": user.email, "password": new}).status_code == 302
    assert b"password1" not in Client().get(link, follow=True).content  # once
