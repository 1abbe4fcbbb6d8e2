"""/api/v1: everything the pages do, as JSON; and random requests of every role against its own OpenAPI document."""

from __future__ import annotations

import time

import pytest
from django.core.wsgi import get_wsgi_application
from django.test import Client

from apps.apikeys.services import SCOPES, api_key_issue, operator_key_issue
from apps.common.actors import SYSTEM
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound_public

_count = iter(range(10**6))


def unique(word: str) -> str:
    return f"{word}-{time.time_ns() % 10**9}-{next(_count)}"


class Api:
    """A client with a key."""

    def __init__(self, secret: str = ""):
        self._client, self._headers = Client(), {"authorization": f"Bearer {secret}"} if secret else {}

    def __call__(self, method: str, path: str, body=None, **headers):
        more = {"data": body, "content_type": "application/json"} if body is not None else {}
        return getattr(self._client, method)(f"/api/v1/{path}", headers={**self._headers, **{k.replace("_", "-"): v for k, v in headers.items()}}, **more)


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace_create(name="Api", slug=unique("api"))


@pytest.fixture
def api(tenant):
    return Api(api_key_issue(tenant=tenant, name="admin", scopes=list(SCOPES), actor=SYSTEM)[1])


def test_signing_up_gives_everything_at_once(database):
    with bound_public():
        body = {"email": f"{unique('ada')}@example.com", "password": "a-long-password-7", "workspace": "Ada", "accept_terms": True}
        made = Api()("post", "auth/signup", body)
        assert made.status_code == 201 and set(made.json()) >= {"tenant_id", "user_id", "agent_id", "api_key", "api_key_prefix"}
        assert Api(made.json()["api_key"])("get", "me").json()["tenant"] == made.json()["tenant_slug"]
        again = Api()("post", "auth/signup", body)
        assert again.status_code == 409 and again.json()["error"]["param"] == "email"
        weak = Api()("post", "auth/signup", {**body, "email": f"{unique('x')}@example.com", "password": "short"})
        assert weak.status_code == 422 and "password" in weak.json()["error"]["fields"]
        terms = Api()("post", "auth/signup", {**body, "email": f"{unique('x')}@example.com", "accept_terms": False})
        assert terms.status_code == 422 and "accept_terms" in terms.json()["error"]["fields"]
        assert Api()("post", "auth/signup", {"email": "x"}).status_code == 422


def test_an_agents_life(api):
    made = api("post", "agents", {"name": "Desk", "template": "front-desk"})
    assert made.status_code == 201
    path = f"agents/{made.json()['id']}"
    assert api("patch", f"{path}/draft", {"instructions": "Be brief.", "voice": "ash"}).json()["number"] == 2
    assert api("get", path).json()["published"]["number"] == 1 and api("get", path).json()["draft"]["voice"] == "ash"
    assert api("get", f"{path}/versions/1/compare/2").json()[0]["field"] == "instructions"
    assert api("post", f"{path}/publish").json()["number"] == 2
    assert api("post", f"{path}/publish").status_code == 409
    assert api("post", f"{path}/versions/1/use").json()["number"] == 1
    assert api("patch", f"{path}/draft", {"tools": [{"name": "t", "url": "https://api.example.com/x"}]}).status_code == 400
    assert api("patch", "tenant", {"tool_hosts": ["api.example.com"]}).status_code == 200
    assert api("patch", f"{path}/draft", {"tools": [{"name": "t", "url": "https://api.example.com/x"}]}).status_code == 200
    assert api("delete", path).status_code == 204 and api("get", path).status_code == 404


def test_a_creating_post_with_an_idempotency_key_happens_once(api):
    first = api("post", "keys", {"name": "once"}, Idempotency_Key="k1")
    again = api("post", "keys", {"name": "once"}, Idempotency_Key="k1")
    assert first.status_code == again.status_code == 201 and first.json() == again.json() and again["Idempotent-Replayed"] == "true"
    assert [k["name"] for k in api("get", "keys").json()["data"]].count("once") == 1
    assert api("post", "keys", {"name": "other"}, Idempotency_Key="k1").status_code == 409
    assert api("post", "keys", {"name": ""}, Idempotency_Key="k2").status_code == 400
    assert api("post", "keys", {"name": "now good"}, Idempotency_Key="k2").status_code == 201  # a refusal is not kept


def test_lists_are_paged_by_cursor(api):
    for n in range(7):
        api("post", "keys", {"name": f"key {n}"})
    seen, after = [], ""
    while True:
        answer = api("get", f"keys?limit=3{after}").json()
        seen += [k["name"] for k in answer["data"]]
        if not answer["has_more"]:
            break
        after = f"&after={answer['next']}"
    assert seen == [f"key {n}" for n in reversed(range(7))] + ["admin"]
    assert api("get", "keys?after=key_none").status_code == 400


def test_errors_have_one_shape_and_nothing_works_without_a_key(api):
    for answer in (Api()("get", "agents"), Api("vv_wrong")("get", "agents"), api("get", "agents/none"), api("post", "agents", {"nmae": "x"}),
                   api("get", "keys?limit=1000"), api("get", "admin/tenants")):  # fmt: skip
        assert set(answer.json()["error"]) >= {"message", "type", "code", "param"}
    assert Api()("get", "agents").json()["error"]["code"] == "missing_api_key"
    limited = api("get", "agents")
    assert int(limited["X-RateLimit-Remaining"]) < int(limited["X-RateLimit-Limit"])


def test_operators_run_tenants(database):
    with bound_public():
        boss = Api(operator_key_issue(name="boss", actor=SYSTEM)[1])
        made = boss("post", "admin/tenants", {"name": "Ops", "slug": unique("ops")})
        path = f"admin/tenants/{made.json()['id']}"
        for act, body, status in (("suspend", {"reason": "unpaid"}, "suspended"), ("resume", None, "active"), ("close", None, "closed"),
                                  ("reopen", None, "active"), ("close", None, "closed"), ("erase", None, "erased")):  # fmt: skip
            answer = boss("post", f"{path}/{act}", body) if body else boss("post", f"{path}/{act}")
            assert answer.status_code == 200 and answer.json()["status"] == status, answer.content
        assert boss("post", f"{path}/resume").status_code == 409
        assert boss("get", "admin/workers").json()["postgres"]["ok"]
        assert boss("get", "agents").status_code == 401


ROLES = {"admin": tuple(SCOPES), "reader": ("usage:read",), "caller": ("realtime:connect",), "nobody": ()}


@pytest.mark.parametrize("role", [*ROLES, "operator"])
@pytest.mark.timeout(600)
def test_random_requests_never_break_the_schema(database, role):
    """schemathesis over the whole document, at least 100 examples an operation: no 5xx, no answer the document does not describe."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

    application = get_wsgi_application()  # the portal itself, without a socket between: ten times as many requests a second
    with bound_public():
        owner = workspace_create(name="Fuzz", slug=unique("fuzz"))
        if role == "operator":
            secret = operator_key_issue(name="fuzz", actor=SYSTEM)[1]
        elif role == "nobody":
            secret = ""
        else:
            secret = api_key_issue(tenant=owner, name=role, scopes=list(ROLES[role]), actor=SYSTEM)[1]
    document = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    wanted = [checks.not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    asked = 0
    for result in document.get_all_operations():
        operation = result.ok()
        if (role == "operator") != operation.path.startswith("/api/v1/admin"):
            continue

        @given(case=operation.as_strategy())
        @settings(max_examples=100, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        def ask(case):
            nonlocal asked
            asked += 1
            answer = case.call(headers=headers)
            case.validate_response(answer, checks=wanted)

        ask()
    assert asked > 0
