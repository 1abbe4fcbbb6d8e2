"""A workspace's own host name leads to its pages, to no other's, and to nothing of the installation."""

from __future__ import annotations

import re
import time

import pytest
from django.test import Client
from django.test import override_settings

from apps.accounts.models import User
from apps.apikeys.services import api_key_issue
from apps.audit.models import AuditEntry
from apps.common.actors import SYSTEM
from apps.common.errors import BadRequest, Conflict
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership
from apps.tenants.context import bound, bound_public
from apps.tenants.hosts import domain_add, domain_remove
from tests.houses import BACKEND, operator_secret

PASSWORD = "a-long-password-7"


@pytest.fixture
def house(database):
    """(workspace, its host, another workspace, somebody who is a member of both)"""
    with bound_public():
        stamp = time.time_ns() % 10**10
        mine, theirs = (workspace_create(name=w, slug=f"{w}-{stamp}") for w in ("mine", "theirs"))
        user = User.objects.create_user(f"u-{stamp}@example.com", PASSWORD)
        for tenant in (mine, theirs):
            Membership.objects.create(tenant=tenant, user=user, role="owner")
        yield mine, domain_add(tenant=mine, host=f"Voice-{stamp}.example.com.", actor=SYSTEM).domain, theirs, user


def test_its_members_sign_in_there_and_see_that_workspace_alone(house):
    mine, host, theirs, user = house
    client = Client(enforce_csrf_checks=True, headers={"host": f"{host}:8443"}, SERVER_NAME=host)
    assert client.get("/")["Location"] == "/accounts/login/"
    page = client.get("/accounts/login/").content.decode()
    assert "Sign up" not in page
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    form = {"login": user.email, "password": PASSWORD, "csrfmiddlewaretoken": token}
    assert client.post("/accounts/login/", form, headers={"origin": "http://evil.example"}).status_code == 403
    signed = client.post("/accounts/login/", form, headers={"origin": f"http://{host}:8443"})
    assert signed.status_code == 302 and not client.cookies["sessionid"]["domain"]  # the cookie is of this host alone
    assert client.get("/")["Location"] == f"/t/{mine.slug}/" and client.get(f"/t/{mine.slug}/").status_code == 200
    assert client.get("/api/v1/me").json()["tenant"] == mine.slug  # no header needed
    assert client.get("/api/v1/me", headers={"x-vivavoce-tenant": theirs.slug}).status_code == 404
    for path in (f"/t/{theirs.slug}/", "/t/none/", "/new", "/accounts/signup/", "/invitations/x", "/api/v1/workspaces"):
        assert client.get(path).status_code == 404, path
    assert theirs.slug not in client.get("/account").content.decode()
    ours = Client()
    ours.force_login(user, backend=BACKEND)
    assert ours.get(f"/t/{theirs.slug}/").status_code == 200  # at the installation's own host, as before


def test_nobody_gets_there_what_is_not_that_workspaces(house):
    mine, host, theirs, _ = house
    there = Client(headers={"host": host})
    boss = Client(headers={"host": host})
    boss.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", PASSWORD), backend=BACKEND)
    for path in ("/admin/", "/admin/live", "/api/v1/admin/tenants", f"/t/{mine.slug}/", f"/t/{theirs.slug}/"):
        assert boss.get(path).status_code == 404, path
    secrets = {t.slug: api_key_issue(tenant=t, name="k", actor=SYSTEM, scopes=["agents:write"])[1] for t in (mine, theirs)}
    assert there.get("/api/v1/agents", headers={"authorization": f"Bearer {secrets[mine.slug]}"}).status_code == 200
    assert there.get("/api/v1/agents", headers={"authorization": f"Bearer {secrets[theirs.slug]}"}).status_code == 404
    stranger = Client(headers={"host": host})
    stranger.force_login(User.objects.create_user(f"s-{time.time_ns()}@example.com", PASSWORD), backend=BACKEND)
    assert stranger.get("/", follow=True).status_code == 404


def test_a_host_that_is_nobodys_or_no_more_is_refused(house):
    mine, host, _, _ = house
    assert Client(headers={"host": host}).get("/accounts/login/").status_code == 200
    for wrong in (f"x.{host}", "evil.example", f"{host}/x", f"{host}@evil.example", f"{host}\t"):
        assert Client(headers={"host": wrong}).get("/accounts/login/").status_code == 400, wrong
    domain_remove(domain=mine.domains.get(), actor=SYSTEM)
    assert Client(headers={"host": host}).get("/accounts/login/").status_code == 400
    with bound(mine):
        assert [e.action for e in AuditEntry.objects.filter(action__startswith="domain.").order_by("seq")] == ["domain.added", "domain.removed"]


def test_what_is_no_host_name_of_theirs(house):
    mine, host, theirs, _ = house
    for bad in ("", "localhost", "nodots", "a b.example", "https://x.example", "x.example:80", "-x.example", "*.example.com", "10.0.0.1", "xn--.", "a" * 64 + ".example", "app.localhost"):
        with pytest.raises(BadRequest):
            domain_add(tenant=mine, host=bad, actor=SYSTEM)
    with pytest.raises(Conflict):
        domain_add(tenant=theirs, host=host.upper(), actor=SYSTEM)
    with override_settings(ALLOWED_HOSTS=[".example.org"]), pytest.raises(BadRequest):
        domain_add(tenant=mine, host="portal.example.org", actor=SYSTEM)


def test_operators_set_them_in_the_admin_and_by_api(house):
    mine, host, _, _ = house
    boss = Client()
    boss.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", PASSWORD), backend=BACKEND)
    other = f"b-{time.time_ns()}.example.com"
    assert boss.post("/admin/tenants/domain/add/", {"tenant": mine.id, "domain": other}).status_code == 302
    assert b"not a host name" in boss.post("/admin/tenants/domain/add/", {"tenant": mine.id, "domain": "nodots"}, follow=True).content
    key = {"headers": {"authorization": f"Bearer {operator_secret()}"}, "content_type": "application/json"}
    path = f"/api/v1/admin/tenants/{mine.id}/domains"
    assert Client().get(path, **key).json() == sorted([host, other])
    row = mine.domains.get(domain=other)
    boss.post("/admin/tenants/domain/", {"action": "remove", "_selected_action": [row.pk]})
    assert Client().post(path, {"host": other}, **key).status_code == 201 and Client().post(path, {"host": other}, **key).status_code == 409
    assert Client().delete(f"{path}/{other}", **key).status_code == 204 and Client().delete(f"{path}/{other}", **key).status_code == 404
    assert Client(headers={"host": other}).get("/accounts/login/").status_code == 400
