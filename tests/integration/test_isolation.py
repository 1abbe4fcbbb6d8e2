"""Nobody reaches what is not theirs: a matrix of every route x method x role x whose, generated from the URLconfs of portal and gateway.

Each workspace holds a canary wherever text is kept; no answer to a stranger may carry it, nor may a log line or a key in Redis name it.
A route without a row fails the test: whoever adds one says who may do what. Operations of /api/v1 and events of the socket have the
same in test_isolation_api.py and test_isolation_socket.py.
"""

from __future__ import annotations

import io
import logging
import os
import re

import pytest
import redis
from django.test import Client
from django.urls import URLPattern, URLResolver

from apps.apikeys.services import SCOPES
from apps.teams.permissions import allowed
from apps.tenants.context import bound_public
from config.urls import gateway, portal
from config.urls.portal import workspace as workspace_urls
from tests.houses import House, contents, fill, seen

# name of the route -> (permission of GET, permission of POST); None = the method is refused
ROUTES = {
    "overview": ("sessions.read", None), "quickstart": ("sessions.read", "keys.write"), "playground": ("talk", None), "playground-secret": (None, "talk"),
    "agents": ("agents.read", "agents.write"), "agent": ("agents.read", "agents.write"), "agent-compare": ("agents.read", None), "agent-act": (None, "agents.write"),
    "sessions": ("sessions.read", None), "session": ("sessions.read", None), "session-end": (None, "sessions.end"),
    "keys": ("keys.read", "keys.write"), "key-revoke": (None, "keys.write"), "key-rotate": (None, "keys.write"),
    "billing": ("billing.read", None), "card-new": (None, "billing.write"), "card-return": ("billing.write", None), "card-act": (None, "billing.write"),
    "invoice": ("billing.read", None), "invoice-line": ("billing.read", None), "invoice-file": ("billing.read", None), "invoice-pay": (None, "billing.write"),
    **{f"billing-{what}": (None, "billing.write") for what in ("plan", "cancel", "keep", "trial", "addon", "tax")},
    "team": ("team.read", "team.write"), "member-role": (None, "team.write"), "member-remove": (None, "tenant.read"), "member-transfer": (None, "tenant.own"),
    "invitation-act": (None, "team.write"), "settings": ("tenant.read", "tenant.write"), "issuer": ("tenant.read", "tenant.write"),
    "usage": ("usage.read", "billing.write"), "usage-export": ("usage.read", None),
    "workspace-close": (None, "tenant.own"), "workspace-reopen": (None, "tenant.own"), "audit": ("audit.read", None), "audit-export": ("audit.read", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def houses(database):
    with bound_public():
        yield House("mine"), House("theirs")


def routes() -> list[tuple[str, str]]:
    return [(url.name, str(url.pattern)) for url in workspace_urls]


# What lies outside /t/<slug>/: route -> who gets its page; everybody else is sent to sign in (302) or told 404. DOOR: leads strangers to the
# provider of a workspace, and so names it
OUTSIDE = {
    "": "anybody", "health": "anybody", "ready": "anybody", "health/ready": "anybody", "metrics": "anybody", "docs": "anybody", "terms": "anybody", "stripe/webhook": "anybody",
    "invitations/<str:token>": "anybody", "oidc/callback/": "anybody", "oidc/<str:issuer_id>": "door", "new": "person", "progress/<slug:slug>": "member",
    "stripe/webhook": "anybody", "account": "person", "account/sign-out-everywhere": "person", "impersonate/<str:user_id>": "operator", "impersonation/end": "operator",
}  # fmt: skip
INCLUDED = {"accounts/": "allauth", "admin/": "operator", "t/<slug:slug>/": "ROUTES", "api/v1/": "tests/integration/test_isolation_api.py"}
# The gateway's REST: path -> scopes of which a key needs one; ANY: whatever they are; None = asks for no key
ANY = frozenset(SCOPES)
TALK, AUDIO = frozenset({"realtime:connect"}), frozenset({"audio:write"})
GATEWAY = {
    "health": None, "ready": None, "health/ready": None, "metrics": None, "v1/models": ANY, "v1/models/<str:name>": ANY,
    "v1/realtime": None, "v1/realtime/calls": None, "v1/realtime/calls/<str:call_id>/<str:verb>": None,  # 426 or 501: not by this way
    "v1/realtime/translations": None, "v1/realtime/translations/client_secrets": None,
    "v1/realtime/client_secrets": TALK, "v1/realtime/sessions": TALK, "v1/realtime/transcription_sessions": TALK,
    "v1/audio/speech": AUDIO, "v1/audio/transcriptions": AUDIO, "v1/audio/translations": AUDIO, "v1/chat/completions": TALK | AUDIO,
}  # fmt: skip


def test_every_route_has_a_row():
    """Whoever adds one says here who may do what."""
    assert {name for name, _ in routes()} == set(ROUTES)
    assert {route for route in leaves(u for u in portal.urlpatterns if isinstance(u, URLPattern)) if not route.startswith(tuple(INCLUDED))} == set(OUTSIDE)
    assert {prefix for url in portal.urlpatterns if isinstance(url, URLResolver) for prefix in INCLUDED if str(url.pattern).startswith(prefix)} == set(INCLUDED)
    assert all(str(url.pattern).startswith(tuple(INCLUDED)) for url in portal.urlpatterns if isinstance(url, URLResolver))
    assert {str(url.pattern) for url in gateway.urlpatterns} == set(GATEWAY)


@pytest.fixture
def listening():
    """Every log line of the test."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def probe(client, method: str, path: str, other: House):
    """Ask, and look for the other workspace's canary in body and headers."""
    answer = getattr(client, method)(path)
    text = seen(answer).replace(path, "")  # a page may say the address it was asked for
    assert other.canary not in text and answer.status_code < 500, (method, path)
    return answer


@pytest.mark.parametrize("name,route", routes())
def test_a_page_is_for_its_members_with_the_permission(houses, listening, name, route):
    mine, theirs = houses
    for method, needed in zip(("get", "post"), ROUTES[name], strict=True):
        own, foreign = (f"/t/{house.tenant.slug}/{fill(route, house.ids)}" for house in (mine, theirs))
        mixed = f"/t/{mine.tenant.slug}/{fill(route, theirs.ids)}"  # my workspace, their thing
        for role, client in mine.members.items():
            answer = probe(client, method, foreign, theirs)
            assert answer.status_code == 404, (role, method, foreign)
            if "<" in route:
                answer = probe(client, method, mixed, theirs)
                assert answer.status_code in (404, 405), (role, method, mixed)
            if method == "get" or needed is None or not allowed(role, needed):  # what would change something has tests of its own
                answer = probe(client, method, own, theirs)
                expected = 405 if needed is None else 200 if allowed(role, needed) else 404
                if needed is None and answer.status_code == 404:
                    continue  # refused for the role before the method was looked at
                assert answer.status_code == expected, (role, method, own)
        assert probe(Client(), method, foreign, theirs).status_code in (302, 403)
    assert theirs.canary not in "".join(line for line in listening.getvalue().splitlines() if "Not Found" not in line and "Not Allowed" not in line)


def leaves(patterns, prefix: str = "") -> list[str]:
    """Every path below, as routes."""
    found = []
    for url in patterns:
        path = prefix + str(url.pattern).replace("^", "").replace("$", "").replace("\\Z", "")
        found += leaves(url.url_patterns, path) if isinstance(url, URLResolver) else [path]
    return found


WHERE = leaves(u for u in portal.urlpatterns if isinstance(u, URLPattern)) + [
    path for url in portal.urlpatterns if isinstance(url, URLResolver) and str(url.pattern).startswith(("accounts/", "admin/")) for path in leaves([url])]  # fmt: skip


def concrete(route: str, house: House) -> str:
    """Groups of whatever kind filled with what the house has."""
    ids = {"token": "x", "user_id": house.members["viewer"].membership.user_id, "slug": house.tenant.slug, "issuer_id": house.issuer.id, "act": "suspend",
           "tenant_id": house.tenant.id, "object_id": house.tenant.id}  # fmt: skip
    return "/" + re.sub(r"\(\?P<\w+>[^/]*\)|<(?:\w+:)?(\w+)>", lambda m: ids.get(m[1] or "", "1"), route)


@pytest.mark.parametrize("route", WHERE)
def test_what_lies_outside_workspaces_shows_nothing_of_others(houses, route):
    mine, theirs = houses
    path = concrete(route, theirs)
    who_may = OUTSIDE.get(route, "")
    for method in ("get", "post"):
        for who, client in [*mine.members.items(), ("nobody", Client())]:
            if method == "post" and client in mine.members.values() and ("logout" in route or "sign-out" in route):
                continue  # the house needs its sessions
            answer = getattr(client, method)(path) if who_may == "door" else probe(client, method, path, theirs)
            if route.startswith("admin/") and "login" not in route and "logout" not in route:
                assert answer.status_code in (302, 404, 405), (who, method, path)
            elif who_may == "operator" or who_may == "member" and who != "nobody":
                assert answer.status_code in (302, 404, 405), (who, method, path)
            elif who_may in ("person", "member") and who == "nobody":
                assert answer.status_code in (302, 405), (who, method, path)


@pytest.fixture(scope="module")
def answering(database):
    """The gateway's REST in this process."""
    from django.test import override_settings

    with override_settings(ROOT_URLCONF="config.urls.gateway"):
        yield Client()


@pytest.mark.parametrize("route", GATEWAY)
def test_the_gateways_paths_ask_for_a_key_and_its_scope(houses, answering, route):
    mine, theirs = houses
    path, needed = "/" + re.sub("<[^>]+>", theirs.agent.id, route), GATEWAY[route]
    keys = {"nobody": "", **mine.secrets}  # a `vi_…` is none: see test_impersonation.py
    for method in ("get", "post"):
        for scope, secret in keys.items():
            answer = getattr(answering, method)(path, headers={"authorization": f"Bearer {secret}"} if secret else {}, content_type="application/json")
            assert theirs.canary not in seen(answer) and (answer.status_code in (501, 503) or answer.status_code < 500), (scope, method, path)
            if needed is not None and not secret:
                assert answer.status_code in (401, 405), (method, path)
            elif needed is not None and scope not in needed:
                assert answer.status_code in (403, 405), (scope, method, path)
            elif needed is not None:
                assert answer.status_code not in (401, 403), (scope, method, path)


def test_no_canary_of_another_in_redis(houses):
    """A value speaks of one workspace at most, and a key that keeps a workspace's text names it (the queue of mails is the installation's)."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    assert client.dbsize()
    for key in client.scan_iter(count=1000):
        for text in contents(client, key):
            holders = [house for house in houses if house.canary in text]
            assert len(holders) < 2, key
            if holders and key != b"default":
                assert any(name in text for name in (holders[0].tenant.schema_name, holders[0].tenant.id, holders[0].session.id)), key
