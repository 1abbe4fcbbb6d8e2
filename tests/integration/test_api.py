"""/api/v1: everything the pages do, as JSON; and random requests of every role against its own OpenAPI document."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest
from django.db import connection
from django.test import Client
from jsonschema import Draft202012Validator, FormatChecker

from apps.accounts.models import User
from apps.api.explorer import resolved
from apps.api.v1 import api as api_v1
from apps.api.v1.examples import ERRORS
from apps.agents.services import TEXT_CHARS
from apps.apikeys.services import SCOPES, api_key_issue, operator_key_issue
from apps.common.actors import SYSTEM
from apps.common.errors import VivavoceError
from apps.onboarding.services import workspace_create
from apps.teams.models import Membership
from apps.teams.services import invitation_create
from apps.tenants.context import bound_public
from apps.tenants.models import RESERVED_SLUGS
from tests.houses import BACKEND
from tests.openapi import ROLES, fuzz

_count = iter(range(10**6))


def unique(word: str) -> str:
    return f"{word}-{time.time_ns() % 10**9}-{next(_count)}"


class Api:
    """A client with a key, or one that is signed in."""

    def __init__(self, secret: str = "", client: Client | None = None):
        self._client, self._headers = client or Client(), {"authorization": f"Bearer {secret}"} if secret else {}

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


def test_what_a_person_does_without_a_workspace(tenant, default_worker, mailbox):
    """Sees and makes workspaces, joins by invitation, closes and reopens, leaves, signs out elsewhere."""
    user = User.objects.create_user(f"{unique('pat')}@example.com", "a-long-password-7")
    browsers = [Client(), Client()]
    for browser in browsers:
        browser.force_login(user, backend=BACKEND)
    person = Api(client=browsers[0])
    assert person("get", "workspaces").json()["data"] == [] and Api()("get", "workspaces").status_code == 401
    _, token = invitation_create(tenant=tenant, email=user.email, role="viewer", actor=SYSTEM)
    assert person("post", "auth/invitation", {"token": "forged"}).status_code == 404
    assert person("post", "auth/invitation", {"token": token}).json()["role"] == "viewer"
    assert person("post", "auth/invitation", {"token": token}).status_code == 410
    made = person("post", "workspaces", {"name": "Pat's"}, Idempotency_Key="w")
    assert made.status_code == 201 and made.json()["role"] == "owner"
    slug, until = made.json()["slug"], time.monotonic() + 30
    while person("get", f"workspaces/{slug}").json()["status"] != "active":
        assert time.monotonic() < until
        time.sleep(0.2)
    assert Api(made.json()["api_key"])("get", "me").json()["tenant"] == slug
    assert person("post", f"workspaces/{tenant.slug}/close").status_code == 403
    assert person("post", f"workspaces/{slug}/close").json()["status"] == "closed"
    assert person("get", "me", X_Vivavoce_Tenant=slug).status_code == 403
    assert person("post", f"workspaces/{slug}/reopen").json()["status"] == "active"
    assert person("get", "workspaces/none").status_code == 404
    mine = Membership.objects.get(tenant=tenant, user=user)
    assert person("delete", f"members/{mine.id}", X_Vivavoce_Tenant=tenant.slug).status_code == 204
    assert [w["slug"] for w in person("get", "workspaces").json()["data"]] == [slug]
    for browser in browsers:
        browser.get("/account")  # a page by which the session is written down
    assert sorted(b["current"] for b in person("get", "me/sessions").json()) == [False, True]
    assert person("delete", "me/sessions").status_code == 204
    assert browsers[0].get("/account").status_code == 200 and browsers[1].get("/account").status_code == 302


def test_the_last_owner_neither_leaves_nor_is_demoted(tenant):
    client, owner = Client(), User.objects.create_user(f"{unique('o')}@example.com", "a-long-password-7")
    member = Membership.objects.create(tenant=tenant, user=owner, role="owner")
    client.force_login(owner, backend=BACKEND)
    api = Api(client=client)
    assert api("delete", f"members/{member.id}").status_code == 409
    assert api("patch", f"members/{member.id}", {"role": "viewer"}).status_code == 409
    assert api("patch", f"members/{member.id}", {"role": "emperor"}).status_code == 400


def test_two_who_ask_for_one_name_both_get_a_workspace(database):
    """Sign-ups that race for a slug: the loser gets the next number, nothing is lost. One that is asked for by name is refused."""
    name = unique("Race").lower()

    def sign_up(n: int):
        try:
            return Api()("post", "auth/signup", {"email": f"{name}-{n}@example.com", "password": "a-long-password-7", "workspace": name, "accept_terms": True})
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        answers = [copy_context().run for _ in range(6)]
        found = list(pool.map(lambda pair: pair[0](sign_up, pair[1]), zip(answers, range(6), strict=True)))
    assert [a.status_code for a in found] == [201] * 6, [a.content for a in found if a.status_code != 201]
    assert len({a.json()["tenant_slug"] for a in found}) == 6
    with bound_public():
        for reserved in ("Admin", "public", "pg_catalog", "Support", "аdmin", "'; DROP SCHEMA public; --"):
            answer = Api()("post", "auth/signup", {"email": f"{unique('r')}@example.com", "password": "a-long-password-7", "workspace": reserved, "accept_terms": True})
            slug = answer.json()["tenant_slug"]
            assert answer.status_code == 201 and slug not in RESERVED_SLUGS and not slug.startswith("pg-") and slug.isascii()


def test_sign_ups_from_one_address_are_throttled(database, settings):
    settings.SIGNUPS_PER_MINUTE = 3
    with bound_public():
        answers = [Client(REMOTE_ADDR="10.9.8.7").post("/api/v1/auth/signup", {}, content_type="application/json") for _ in range(2)]
        assert [a.status_code for a in answers] == [422, 422]  # not complete: costs nothing
        bodies = [{"email": f"{unique('t')}@example.com", "password": "short", "workspace": "T", "accept_terms": True} for _ in range(5)]
        answers = [Client(REMOTE_ADDR="10.9.8.7").post("/api/v1/auth/signup", b, content_type="application/json") for b in bodies]
    assert [a.status_code for a in answers] == [422] * 3 + [429] * 2 and int(answers[-1]["Retry-After"]) > 0


@pytest.mark.parametrize("name", sorted(TEXT_CHARS))
def test_a_text_too_long_for_its_column_is_refused(api, name):
    path = f"agents/{api('get', 'agents').json()['data'][0]['id']}/draft"
    assert api("patch", path, {name: "x" * (TEXT_CHARS[name] + 1)}).json()["error"]["param"] == name


def test_a_nul_character_is_refused_wherever_it_stands(api):
    for method, path, body in (("patch", "tenant", {"name": "\0"}), ("post", "keys", {"name": "x", "limits": {"\0": 1}}), ("post", "agents", {"name": "a\0"}),
                               ("patch", "tenant", {"tool_hosts": ["a\0"]})):  # fmt: skip
        assert api(method, path, body).status_code == 422, body
    assert api("get", "agents/%00").status_code == 404 and api("get", "audit?action=%00").status_code == 200


@pytest.mark.parametrize(("method", "path", "status", "code"), [("get", "nothing/here", 404, "not_found"), ("put", "agents", 405, "method_not_allowed")])
def test_what_django_refuses_has_the_same_shape(database, method, path, status, code):
    answer = Api()(method, path)
    assert answer.status_code == status and answer.json()["error"]["code"] == code
    assert Client().get("/api/v1/agents", headers={"host": "evil.example"}).json()["error"]["code"] == "invalid_request"


DOCUMENT = api_v1.get_openapi_schema(path_prefix="/api/v1/")
DESCRIBED = [(method, path, operation) for path, item in DOCUMENT["paths"].items() for method, operation in item.items()]


def validator(schema: dict) -> Draft202012Validator:
    """OpenAPI 3.1 speaks JSON Schema 2020-12."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]}, format_checker=FormatChecker())


def test_the_document_is_served_as_it_is_checked_here(database):
    served = Client().get("/api/v1/openapi.json").json()
    assert served == json.loads(json.dumps(DOCUMENT)) and Client().get("/api/v1/docs").status_code == 200


def test_every_creating_post_takes_an_idempotency_key():
    assert DOCUMENT["openapi"].startswith("3.1")
    for method, path, operation in DESCRIBED:
        if 201 in operation["responses"]:
            assert "Idempotency-Key" in [p["name"] for p in operation["parameters"]], (method, path)


@pytest.mark.parametrize(("method", "path", "operation"), DESCRIBED, ids=[f"{m} {p}" for m, p, _ in DESCRIBED])
def test_every_operation_has_valid_examples_of_what_it_takes_and_answers(method, path, operation):
    if body := operation.get("requestBody"):
        schema = body["content"]["application/json"]["schema"]
        fields = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        example = {name: fields["properties"][name]["examples"][0] for name in fields.get("required", ())}
        validator(schema).validate(example)
        for name, value in fields["properties"].items():
            for more in value.get("examples", ()):
                validator(value).validate(more)
    for status, answer in operation["responses"].items():
        assert answer.get("content") or status == 204, f"{status} says nothing of what it holds"
        for kind, content in answer.get("content", {}).items():
            validator(content["schema"]).validate(content["example"])
            assert status < 400 or content["example"]["error"]["code"] == ERRORS[status][0]
            whole(content["schema"], content["example"], f"{method} {path} {status} {kind}")


def whole(schema: dict, value, where: str) -> None:
    """The example shows every field that the schema has, all the way down."""
    schema = resolved(DOCUMENT, schema)
    if isinstance(value, list):
        assert value or "items" not in schema or where.endswith(("scopes", "tools", "overlapped", "allowed_origins")), f"{where}: an empty list shows nothing"
        for part in value:
            whole(schema.get("items", {}), part, where)
    elif isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["properties"]), where
        for name, part in value.items():
            whole(schema["properties"][name], part, f"{where} {name}")


def test_an_error_of_the_document_is_one_that_is_said():
    """Code and type of each example are those of the class that is raised with this status."""
    said = {(e.status, e.code, e.type) for e in every_error(VivavoceError)}
    assert {(status, code, kind) for status, (code, kind, _) in ERRORS.items()} <= said


def every_error(base: type) -> list[type]:
    return [base, *(found for child in base.__subclasses__() for found in every_error(child))]


@pytest.mark.parametrize("role", ROLES)
def test_random_requests_never_break_the_schema(provider, role):
    """The short form of `python -m bench.schemathesis` (100 examples an operation)."""
    with bound_public():
        outcome = fuzz(role, examples=4)
    assert outcome.requests >= outcome.operations > 0
