"""/api/v1: every operation x role x whose, generated from the OpenAPI document. An operation without a row in NEEDS fails the test."""

from __future__ import annotations

import pytest
from django.test import Client

from apps.agents.models import Agent
from apps.api.v1 import api
from apps.apikeys.impersonation import NEVER, READS
from apps.apikeys.services import SCOPES
from apps.conversations.models import VoiceSession
from apps.teams.models import Membership
from apps.teams.permissions import allowed
from apps.tenants.context import bound, bound_public
from tests.houses import House, fill, operator_secret, seen

# "METHOD path" -> the permission it needs in the workspace; ANY: any role or scope of it; PERSON: a signed-in person; OPEN: everybody.
# Everything below admin/ is for operators, without a row.
ANY, PERSON, OPEN = "any", "person", "open"
NEEDS = {
    "POST auth/signup": OPEN, "POST auth/invitation": PERSON,
    "GET workspaces": PERSON, "POST workspaces": PERSON, "GET workspaces/{slug}": PERSON, "POST workspaces/{slug}/close": PERSON,
    "POST workspaces/{slug}/reopen": PERSON, "GET me/sessions": PERSON, "DELETE me/sessions": PERSON, "DELETE me/sessions/{browser_id}": PERSON,
    "GET me": ANY, "GET tenant": "agents.read", "PATCH tenant": "tenant.write", "GET limits": "agents.read", "GET roles": ANY,
    "GET tenant/issuers": "tenant.read", "POST tenant/issuers": "tenant.write", "DELETE tenant/issuers/{issuer_id}": "tenant.write",
    "GET agents": "agents.read", "POST agents": "agents.write", "GET agents/templates": "agents.read", "GET agents/{agent_id}": "agents.read",
    "PATCH agents/{agent_id}": "agents.write", "DELETE agents/{agent_id}": "agents.write", "PATCH agents/{agent_id}/draft": "agents.write",
    "DELETE agents/{agent_id}/draft": "agents.write", "POST agents/{agent_id}/publish": "agents.write", "GET agents/{agent_id}/versions": "agents.read",
    "POST agents/{agent_id}/versions/{number}/use": "agents.write", "GET agents/{agent_id}/versions/{one}/compare/{other}": "agents.read",
    "GET keys": "keys.read", "POST keys": "keys.write", "GET keys/{key_id}": "keys.read", "DELETE keys/{key_id}": "keys.write",
    "POST keys/{key_id}/rotate": "keys.write",
    "GET members": "team.read", "PATCH members/{member_id}": "team.write", "DELETE members/{member_id}": ANY,  # oneself; the service asks for others
    "POST members/{member_id}/transfer-ownership": "tenant.own",
    "GET invitations": "team.read", "POST invitations": "team.write", "POST invitations/{invitation_id}/resend": "team.write",
    "DELETE invitations/{invitation_id}": "team.write",
    "GET sessions": "sessions.read", "GET sessions/{session_id}": "sessions.read", "GET sessions/{session_id}/items": "sessions.read",
    "POST sessions/{session_id}/end": "sessions.end", **dict.fromkeys(("GET usage", "GET usage/breakdown", "GET usage/csv", "GET usage/entries", "GET usage/spend"), "usage.read"),
    "PUT usage/cap": "billing.write", "GET audit": "audit.read", "GET audit/csv": "audit.read", "GET audit/verify": "audit.read",
    **dict.fromkeys(("GET billing", "GET billing/plans", "POST billing/preview", "POST billing/addons/preview",
                     "GET billing/cards", "GET billing/invoices", "GET billing/invoices/{invoice_id}",
                     "GET billing/invoices/{invoice_id}/lines/{line_id}/entries", "GET billing/invoices/{invoice_id}/pdf",
                     "GET billing/invoices/{invoice_id}/csv"), "billing.read"),
    **dict.fromkeys(("POST billing/plan", "POST billing/cancel", "POST billing/keep", "POST billing/trial", "POST billing/addons", "PUT billing/tax", "POST billing/cards",
                     "POST billing/cards/finish", "POST billing/cards/{card_id}/default", "DELETE billing/cards/{card_id}", "POST billing/invoices/{invoice_id}/pay"),
                    "billing.write"),
}  # fmt: skip
DOCUMENT = api.get_openapi_schema(path_prefix="/api/v1/")
OPERATIONS = [(method.upper(), path.removeprefix("/api/v1/")) for path, item in DOCUMENT["paths"].items() for method in item]


def test_every_operation_has_a_row():
    assert {f"{m} {p}" for m, p in OPERATIONS if not p.startswith("admin/")} == set(NEEDS)


@pytest.fixture(scope="module")
def houses(database, provider):
    with bound_public():
        yield House("mine"), House("theirs")


@pytest.fixture(scope="module")
def operator(houses):
    with bound_public():
        return operator_secret()


def example(method: str, path: str) -> dict:
    """A body whose required fields are the document's examples."""
    body = DOCUMENT["paths"][f"/api/v1/{path}"][method.lower()].get("requestBody")
    if body is None:
        return {}
    schema = DOCUMENT["components"]["schemas"][body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]]
    return {name: schema["properties"][name]["examples"][0] for name in schema.get("required", ())}


def ask(client: Client, method: str, path: str, secret: str = "", tenant: str = "", data: dict | None = None):
    headers = ({"authorization": f"Bearer {secret}"} if secret else {}) | ({"x-vivavoce-tenant": tenant} if tenant else {})
    body = {"data": data or {}, "content_type": "application/json"} if method in ("POST", "PATCH", "PUT") else {}
    return getattr(client, method.lower())(f"/api/v1/{path}", headers=headers, **body)


def callers(house: House):
    """(who, client, secret, may(permission)) of every role and scope of a workspace, and of operators who look as its members."""
    for role, client in house.members.items():
        yield role, client, "", lambda permission, role=role: allowed(role, permission)
    for scope, secret in house.secrets.items():
        yield scope, Client(), secret, lambda permission, scope=scope: permission in SCOPES[scope]
    for (role, writable), secret in house.looking.items():
        yield f"looking as {role}", Client(), secret, lambda permission, role=role, writable=writable: allowed(role, permission) and (
            permission not in NEVER if writable else permission in READS)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_is_for_its_own_workspace_and_permission(houses, operator, method, path):
    mine, theirs = houses
    needed = "platform" if path.startswith("admin/") else NEEDS[f"{method} {path}"]
    foreign = fill(path, theirs.ids)
    nothing = fill(path, dict.fromkeys(mine.ids, "9999") | {"one": "1", "other": "2", "number": "1"})  # so that a write that is allowed changes nothing
    own = fill(path, mine.ids) if method == "GET" else nothing

    def see(answer, who):
        text = seen(answer).replace(foreign, "").replace(theirs.session.id, "").replace(theirs.tenant.slug, "")
        assert theirs.canary not in text and answer.status_code < 500, (who, method, path, answer.content[:300])
        return answer.status_code

    assert needed == OPEN or see(ask(Client(), method, foreign), "nobody") == 401
    for who, client, secret, may in callers(mine):
        if needed == OPEN or needed == PERSON and method == "DELETE" and not secret:
            continue  # signing out is tested in test_api.py
        granted = not secret if needed == PERSON else needed == ANY or may(needed) if needed != "platform" else False
        granted &= method == "GET" or secret not in (house_secret for (_, writable), house_secret in mine.looking.items() if not writable)
        status = see(ask(client, method, own, secret, data={} if granted else example(method, path)), who)
        refused = (401,) if needed in (PERSON, "platform") else (403,)
        assert (status not in (401, 403)) if granted else (status in refused), (who, method, own, status)
        if "{" in path:
            status = see(ask(client, method, foreign, secret), who)
            assert status in (401, 403, 404, 422), (who, method, foreign, status)
        if not secret and needed not in (PERSON, "platform"):  # my session, their workspace named
            assert see(ask(client, method, foreign, tenant=theirs.tenant.slug), who) == 404
    if needed not in (OPEN, "platform"):
        assert see(ask(Client(), method, foreign, operator), "operator") == 401  # an operator's key opens no workspace


def test_nothing_of_theirs_has_changed(houses):
    _, theirs = houses
    with bound(theirs.tenant):
        assert Agent.objects.get(pk=theirs.agent.id).deleted_at is None and VoiceSession.objects.get().state == "live"
    theirs.key.refresh_from_db()
    theirs.invitation.refresh_from_db()
    theirs.tenant.refresh_from_db()
    assert theirs.key.usable and theirs.invitation.state == "open" and theirs.tenant.status == "active"
    assert Membership.objects.filter(tenant=theirs.tenant).count() == 5 and theirs.tenant.issuers.count() == 1
