"""Nobody reaches what is not theirs: a matrix of every route x method x role x whose, generated from the URLconf.

Each workspace holds a canary wherever text is kept; no answer to a stranger may carry it, nor may a log line or a key in Redis name it.
A route without a row in ROUTES fails the test: whoever adds one says who may do what.
"""

from __future__ import annotations

import io
import logging
import os
import time

import pytest
import redis
from django.test import Client

from apps.accounts.models import User
from apps.agents.models import Agent
from apps.agents.services import agent_create, draft_save
from apps.api.v1 import api
from apps.apikeys.services import SCOPES, api_key_issue
from apps.common.actors import SYSTEM
from apps.conversations.models import Item, VoiceSession
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership, Role
from apps.teams.permissions import allowed
from apps.teams.services import invitation_create
from apps.tenants.context import bound, bound_public
from apps.tenants.services import tenant_update
from config.urls.portal import workspace as workspace_urls

BACKEND = "allauth.account.auth_backends.AuthenticationBackend"
# name of the route -> (permission of GET, permission of POST); None = the method is refused
ROUTES = {
    "overview": ("sessions.read", None), "quickstart": ("sessions.read", "keys.write"), "playground": ("talk", None), "playground-secret": (None, "talk"),
    "agents": ("agents.read", "agents.write"), "agent": ("agents.read", "agents.write"), "agent-compare": ("agents.read", None), "agent-act": (None, "agents.write"),
    "sessions": ("sessions.read", None), "session": ("sessions.read", None), "session-end": (None, "sessions.end"),
    "keys": ("keys.read", "keys.write"), "key-revoke": (None, "keys.write"), "key-rotate": (None, "keys.write"),
    "team": ("team.read", "team.write"), "member-role": (None, "team.write"), "member-remove": (None, "tenant.read"), "member-transfer": (None, "tenant.own"),
    "invitation-act": (None, "team.write"), "settings": ("tenant.read", "tenant.write"), "issuer": ("tenant.read", "tenant.write"),
    "workspace-close": (None, "tenant.own"), "workspace-reopen": (None, "tenant.own"), "audit": ("audit.read", None), "audit-export": ("audit.read", None),
}  # fmt: skip


class House:
    """A workspace with something of everything, all of it marked with its canary."""

    def __init__(self, word: str):
        self.canary = f"canary-{word}-{time.time_ns()}"
        self.tenant = workspace_create(name=self.canary, slug=f"{word}-{time.time_ns() % 10**10}")
        tenant_update(tenant=self.tenant, actor=SYSTEM, email=f"{self.canary}@example.com")
        self.members = {role: self._member(role) for role in Role.values}
        self.key, self.secret = api_key_issue(tenant=self.tenant, name=self.canary, scopes=list(SCOPES), actor=SYSTEM)
        self.invitation, _ = invitation_create(tenant=self.tenant, email=f"guest-{self.canary}@example.com", role="viewer", actor=SYSTEM)
        with bound(self.tenant):
            self.agent = agent_create(name=self.canary, instructions=self.canary, actor=SYSTEM)
            draft_save(agent=self.agent, actor=SYSTEM, tool_hosts=[], greeting=self.canary)
            self.session = VoiceSession.objects.create(id=f"sess_{self.canary}", agent_id=self.agent.id, agent_version=1, key_id=self.key.id)
            item = {"id": "item_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": self.canary}]}
            Item.objects.create(session=self.session, item_id="item_1", type="message", role="user", item=item)

    def _member(self, role: str) -> Client:
        user = User.objects.create_user(f"{role}-{self.canary}@example.com", "a-long-password-7")
        membership = Membership.objects.create(tenant=self.tenant, user=user, role=role)
        client = Client()
        client.force_login(user, backend=BACKEND)
        client.membership = membership
        return client

    @property
    def ids(self) -> dict[str, str]:
        return {"agent_id": self.agent.id, "session_id": self.session.id, "key_id": self.key.id, "member_id": self.members["viewer"].membership.id,
                "invitation_id": self.invitation.id, "one": "1", "other": "2", "number": "1", "tenant_id": self.tenant.id}  # fmt: skip


@pytest.fixture(scope="module")
def houses(database):
    with bound_public():
        yield House("mine"), House("theirs")


def routes() -> list[tuple[str, str]]:
    return [(url.name, str(url.pattern)) for url in workspace_urls]


def fill(route: str, ids: dict[str, str]) -> str:
    for name, value in ids.items():
        for kind in ("str", "int"):
            route = route.replace(f"<{kind}:{name}>", value)
    return route.replace("<agentact:what>", "rollback").replace("<invitationact:what>", "resend").replace("{", "").replace("}", "")


def test_every_route_has_a_row():
    assert {name for name, _ in routes()} == set(ROUTES)


@pytest.fixture
def listening():
    """Every log line of the test."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def seen(answer) -> str:
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return body.decode(errors="replace") + str(answer.headers)


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


OPERATIONS = [(path, method) for path, item in api.get_openapi_schema(path_prefix="/api/v1/")["paths"].items() for method in item]


@pytest.mark.parametrize("path,method", OPERATIONS)
def test_an_operation_reaches_only_the_keys_own_workspace(houses, path, method):
    mine, theirs = houses
    wanted = fill(path, theirs.ids)
    if path.endswith("auth/signup"):
        return  # for everybody; tests/integration/test_api.py
    for secret in (mine.secret, ""):
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        answer = getattr(Client(), method)(wanted, headers=headers, content_type="application/json", **({"data": {}} if method in ("post", "patch") else {}))
        assert theirs.canary not in seen(answer).replace(wanted, "").replace(theirs.session.id, "") and answer.status_code < 500
        if not secret or "/admin/" in path:
            assert answer.status_code == 401, (path, method)
        elif "{" in path:
            assert answer.status_code in (403, 404, 422), (path, method, answer.status_code)
    with bound(theirs.tenant):  # and nothing there has changed
        assert Agent.objects.get(pk=theirs.agent.id).deleted_at is None and VoiceSession.objects.get().state == "live"
    theirs.key.refresh_from_db()
    assert theirs.key.usable and Membership.objects.filter(tenant=theirs.tenant).count() == 5


def test_no_canary_in_redis(houses):
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    for key in client.scan_iter(count=1000):
        text = key.decode(errors="replace")
        if client.type(key) == b"string":
            text += (client.get(key) or b"").decode(errors="replace")
        for house in houses:
            assert house.canary not in text
