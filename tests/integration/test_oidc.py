"""Sign-in with a real OpenID provider in a process of its own, over HTTP; and every token that must not do."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from urllib.parse import urljoin, urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.core.exceptions import SuspiciousOperation
from django.test import Client

from apps.accounts.models import Identity, Issuer, Secret, User
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue
from apps.common.actors import SYSTEM, Actor
from apps.common.errors import BadRequest
from apps.common.launch.servers import die_with_parent, free_port
from apps.onboarding.services import workspace_create
from apps.teams import oidc
from apps.teams.models import Membership
from apps.teams.permissions import PERMISSIONS
from apps.tenants.context import bound_public, in_public
from apps.tenants.models import Tenant
from tests.e2e.client import Client as RealtimeClient
from tests.e2e.client import Refused


class Provider:
    """The provider as a process: its address, its folder (key and accounts)."""

    def __init__(self, folder, **environment: str):
        self.folder, self.port, self.environment = folder, free_port(), environment
        self.url = f"http://localhost:{self.port}/realms/vivavoce"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tools.identity_provider", str(self.folder), "--port", str(self.port), "--redirect", "http://testserver/oidc/callback/"]
        self.process = subprocess.Popen(command, preexec_fn=die_with_parent(), env={**os.environ, **self.environment})
        until = time.monotonic() + 60
        while True:
            try:
                return requests.get(f"{self.url}/.well-known/openid-configuration", timeout=2).raise_for_status()
            except requests.RequestException:
                assert self.process.poll() is None and time.monotonic() < until, "the provider did not come up"
                time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def switch_off(self, name: str) -> None:
        with sqlite3.connect(self.folder / "provider.sqlite3") as database:
            database.execute("UPDATE auth_user SET is_active = 0 WHERE username = ?", [name])


@pytest.fixture(scope="module")
def provider(database, tmp_path_factory):
    running = Provider(tmp_path_factory.mktemp("idp"))
    yield running
    running.stop()


@pytest.fixture
def plain_provider(database, tmp_path):
    """One without offline tokens: signing out there ends the refresh tokens too."""
    running = Provider(tmp_path, IDP_OFFLINE="0")
    yield running
    running.stop()


@pytest.fixture
def issuer(provider):
    """The platform's provider, with the workspace its groups name."""
    with bound_public():
        Tenant.objects.filter(slug="demo").exists() or workspace_create(name="Demo", slug="demo")
        yield oidc.issuer_save(tenant=None, actor=SYSTEM, name="Realm", issuer=provider.url, client_id="voice-portal", client_secret="portal-secret-for-tests")


def sign_in(issuer: Issuer, name: str, client: Client | None = None, next: str = "", browser: requests.Session | None = None):
    """Through the provider's own login form: (client, the portal's answer to the callback, its address)."""
    client, browser = client or Client(), browser or requests.Session()
    begun = client.get(f"/oidc/{issuer.id}", {"next": next} if next else {})
    form = browser.get(begun["Location"], timeout=10)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)[1]
    answer = browser.post(form.url, data={"username": name, "password": f"{name}-password", "csrfmiddlewaretoken": token}, timeout=10, allow_redirects=False)
    while not answer.headers["Location"].startswith("http://testserver/"):
        base = f"{urlsplit(form.url).scheme}://{urlsplit(form.url).netloc}"
        answer = browser.get(answer.headers["Location"] if "://" in answer.headers["Location"] else base + answer.headers["Location"], timeout=10, allow_redirects=False)
    back = answer.headers["Location"].removeprefix("http://testserver")
    return client, client.get(back), back


def test_the_first_sign_in_makes_user_and_membership_and_the_second_finds_them(issuer):
    client, answer, back = sign_in(issuer, "developer")
    assert answer.status_code == 302 and answer["Location"] == "/"
    user = User.objects.get(email="developer@example.org")
    assert Membership.objects.get(user=user, tenant__slug="demo").role == "developer"
    assert client.get("/t/demo/").status_code == 200 and client.get("/t/demo/audit").status_code == 404
    assert client.get(back).status_code == 400  # the same answer twice
    sign_in(issuer, "developer")
    assert Identity.objects.filter(user=user).count() == 1 and not user.has_usable_password()
    out = client.post("/accounts/logout/")
    assert out["Location"].startswith(issuer.endpoints["end_session"]) and "id_token_hint=" in out["Location"]
    assert client.get("/t/demo/").status_code == 302
    assert requests.get(out["Location"], timeout=10, allow_redirects=False).status_code in (200, 302)


def test_an_operator_adds_a_provider_in_the_admin(issuer, provider):
    client = Client()
    client.force_login(User.objects.create_superuser(f"boss-{time.time_ns()}@example.com", "a-long-password-7"), backend="allauth.account.auth_backends.AuthenticationBackend")
    form = {"name": "Second", "client_id": "second", "new_secret": "s", "claim": "groups", "roles": "{}", "default_role": "", "active": "on"}
    wrong = client.post("/admin/accounts/issuer/add/", {**form, "issuer": provider.url + "x"})
    assert wrong.status_code == 200 and b"discovery document" in wrong.content
    assert client.post("/admin/accounts/issuer/add/", {**form, "issuer": provider.url}).status_code == 302
    made = Issuer.objects.get(client_id="second")
    assert made.endpoints["jwks"] == issuer.endpoints["jwks"] and Secret.open(made.client_secret) == "s"


def test_a_foreign_next_is_not_followed(issuer):
    assert sign_in(issuer, "viewer", next="https://evil.example/")[1]["Location"] == "/"


def test_an_account_of_ours_is_not_taken_over_by_its_address(issuer):
    """Only who is signed in to it links it."""
    ours = User.objects.create_user("billing@example.org", "a-long-password-7")
    _, answer, _ = sign_in(issuer, "billing")
    assert answer.status_code == 400 and not Identity.objects.filter(user=ours).exists()
    client = Client()
    client.force_login(ours, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert sign_in(issuer, "billing", client)[1].status_code == 302 and Identity.objects.filter(user=ours).exists()


def test_an_unverified_address_is_refused(issuer):
    assert sign_in(issuer, "unverified")[1].status_code == 400 and not User.objects.filter(email="unverified@example.org").exists()


def test_a_wrong_state_is_refused(issuer):
    client = Client()
    client.get(f"/oidc/{issuer.id}")
    for query in ({"state": "x" * 32, "code": "y"}, {"code": "y"}, {}, {"state": "", "error": "access_denied"}):
        answer = client.get("/oidc/callback/", query)
        assert answer.status_code == 400 and b"not signed in" in answer.content


@pytest.fixture
def signed(issuer, provider):
    """Tokens signed with the provider's own key: signed(claims changed) -> token."""
    key = (provider.folder / "signing.pem").read_bytes()
    kid = requests.get(issuer.endpoints["jwks"], timeout=5).json()["keys"][0]["kid"]
    now = int(time.time())

    def make(algorithm="RS256", with_key=key, header=None, **changes):
        claims = {"iss": issuer.issuer, "aud": issuer.client_id, "sub": "s", "iat": now, "exp": now + 60, "nonce": "n", **changes}
        return jwt.encode({k: v for k, v in claims.items() if v is not None}, with_key, algorithm=algorithm, headers={"kid": kid, **(header or {})})

    return make


def test_every_wrong_token_is_refused(issuer, signed):
    assert oidc.token_claims(signed(), issuer)["sub"] == "s"
    other = rsa.generate_private_key(65537, 2048)
    wrong = {
        "audience": signed(aud="another"), "issuer": signed(iss="https://evil.example"), "expired": signed(exp=int(time.time()) - 3600),
        "no expiry": signed(exp=None), "no subject": signed(sub=None), "key": signed(with_key=other), "key id": signed(header={"kid": "unknown"}),
        "none": signed(algorithm="none", with_key=None), "HS256": signed(algorithm="HS256", with_key="x" * 40),
        "other client": signed(aud=[issuer.client_id, "b"], azp="b"), "garbage": "a.b.c",
    }  # fmt: skip
    for name, token in wrong.items():
        with pytest.raises(SuspiciousOperation):
            oidc.token_claims(token, issuer)
            pytest.fail(name)
    with oidc.of_issuer(issuer):
        backend = oidc.Backend()
        assert backend.verify_token(signed(), nonce="n")
        for nonce in ("m", "", None):
            with pytest.raises(SuspiciousOperation):
                backend.verify_token(signed(), nonce=nonce)


def test_a_bearer_token_of_the_provider_opens_the_api(issuer, signed):
    user = User.objects.create_user(f"jwt-{time.time_ns()}@example.org")
    sub = f"sub-{time.time_ns()}"
    Identity.objects.create(user=user, issuer=issuer, sub=sub)
    Membership.objects.create(user=user, tenant=Tenant.objects.get(slug="demo"), role="viewer")

    def ask(token):
        return Client().get("/api/v1/me", headers={"authorization": f"Bearer {token}"})

    assert ask(signed(sub=sub)).json()["permissions"] == sorted(PERMISSIONS["viewer"])
    assert ask(signed(sub=sub, aud="other")).status_code == 401 and ask(signed(sub="nobody")).status_code == 401


async def test_a_bearer_token_of_the_provider_opens_a_session(stack, issuer, signed):
    """Of a member who may talk; the line may be lost and come back with a newer token of the same person, not with anybody else's."""
    def person(role):
        user, sub = User.objects.create_user(f"{role}-{time.time_ns()}@example.org"), f"{role}-{time.time_ns()}"
        Identity.objects.create(user=user, issuer=issuer, sub=sub)
        Membership.objects.create(user=user, tenant=Tenant.objects.get(slug="demo"), role=role)
        return sub

    developer, other, viewer = [await in_public(person, role) for role in ("developer", "admin", "viewer")]
    async with await RealtimeClient.connect(stack.realtime, signed(sub=developer), "workspace=demo") as client:
        await client.type("what is seven plus five")
        assert (await client.answer())["status"] == "completed"
        await client.vanish()
        client.key = signed(sub=other)
        with pytest.raises(Refused, match="session_not_found"):
            await client.resume()
        client.key = signed(sub=developer, exp=int(time.time()) + 50)
        assert (await client.resume())["resumption"]["resumed"]
    for token, query, code in ((signed(sub=viewer), "", "insufficient_scope"), (signed(sub=developer), "workspace=none", "not_found"),
                               (signed(sub=developer, exp=int(time.time()) - 3600), "", "invalid_api_key"), ("a.b.c", "", "invalid_api_key")):  # fmt: skip
        with pytest.raises(Refused, match=code):
            await RealtimeClient.connect(stack.realtime, token, query)


def test_who_is_switched_off_at_the_provider_is_out_within_a_minute(issuer, provider):
    client, _, _ = sign_in(issuer, "admin")
    user = User.objects.get(email="admin@example.org")
    actor = Actor(user.id, frozenset(PERMISSIONS["admin"]))
    key, _ = api_key_issue(tenant=Tenant.objects.get(slug="demo"), name="of admin", actor=actor)
    assert client.get("/t/demo/").status_code == 200
    Identity.objects.filter(user=user).update(checked_at="2020-01-01T00:00:00Z")
    oidc.identities_check()
    assert client.get("/t/demo/").status_code == 200  # still there: the refresh token was good
    provider.switch_off("admin")
    Identity.objects.filter(user=user).update(checked_at="2020-01-01T00:00:00Z")
    assert oidc.identities_check() >= 1
    assert client.get("/t/demo/").status_code == 302
    assert ApiKey.objects.get(pk=key.pk).revoked_at is not None


def test_a_workspace_brings_its_own_provider(issuer, provider):
    tenant = workspace_create(name="Own", slug=f"own-{time.time_ns() % 10**9}")
    owner = Actor("usr_x", frozenset(PERMISSIONS["owner"]), tenant.id)
    with pytest.raises(BadRequest):  # nobody becomes owner by a claim
        oidc.issuer_save(tenant=tenant, actor=owner, name="X", issuer=provider.url, client_id="c", client_secret="s", roles={"/a": "owner"})
    with pytest.raises(BadRequest):
        oidc.issuer_save(tenant=tenant, actor=owner, name="X", issuer="http://example.com", client_id="c", client_secret="s")
    with pytest.raises(BadRequest):  # the platform's client
        oidc.issuer_save(tenant=tenant, actor=owner, name="X", issuer=provider.url, client_id="voice-portal", client_secret="s")
    row = oidc.issuer_save(tenant=tenant, actor=owner, name="X", issuer=provider.url, client_id="own", client_secret="s", roles={"/staff": "developer"})
    assert oidc.granted(row, {"groups": ["/staff", "/demo/owner"]}) == [(tenant, "developer")] and oidc.granted(row, {"groups": ["/x"]}) == []
    assert Secret.open(row.client_secret) == "s" and "s" != row.client_secret


def test_a_key_outlives_a_sign_out_but_not_the_account(issuer, provider):
    """Offline tokens: signing out of portal and provider says nothing about the account; switching it off ends the key."""
    assert issuer.endpoints["offline"]
    client, _, _ = sign_in(issuer, "owner")
    user = User.objects.get(email="owner@example.org")
    key, _ = api_key_issue(tenant=Tenant.objects.get(slug="demo"), name="of owner", actor=Actor(user.id, frozenset(PERMISSIONS["owner"])))
    out = client.post("/accounts/logout/")
    requests.get(out["Location"], timeout=10, allow_redirects=False)
    for gone in (False, True):
        if gone:
            provider.switch_off("owner")
        Identity.objects.filter(user=user).update(checked_at="2020-01-01T00:00:00Z")
        oidc.identities_check()
        key.refresh_from_db()
        assert (key.revoked_at is not None) == gone


def test_without_offline_tokens_a_sign_out_revokes_no_key(plain_provider, issuer):
    plain = oidc.issuer_save(tenant=None, actor=SYSTEM, name="Plain", issuer=plain_provider.url, client_id="voice-portal", client_secret="portal-secret-for-tests")
    assert not plain.endpoints["offline"]
    Identity.objects.filter(user__email="viewer@example.org").delete()
    User.objects.filter(email="viewer@example.org").delete()
    browser = requests.Session()
    client, _, _ = sign_in(plain, "viewer", browser=browser)
    user = User.objects.get(email="viewer@example.org")
    assert Identity.objects.get(user=user).refresh_token
    requests.get(client.post("/accounts/logout/")["Location"], timeout=10, allow_redirects=False)
    assert Identity.objects.get(user=user).refresh_token == ""  # the provider would refuse it now, whoever lives
    assert oidc.identities_check() == 0


def test_a_session_is_renewed_without_a_word_and_ends_with_that_of_the_provider(issuer):
    browser = requests.Session()
    client, _, _ = sign_in(issuer, "developer", browser=browser)

    def due():
        session = client.session
        session["oidc_renew_at"] = 1
        session.save()
        asked = client.get("/t/demo/agents")
        begun = client.get(asked["Location"])
        assert "prompt=none" in begun["Location"]
        back = browser.get(begun["Location"], timeout=10, allow_redirects=False)
        return client.get(back.headers["Location"].removeprefix("http://testserver"))

    answer = due()
    assert answer.status_code == 302 and answer["Location"] == "/t/demo/agents" and client.get("/t/demo/agents").status_code == 200
    browser.cookies.clear()  # signed out there
    assert due()["Location"] == "/accounts/login/" and client.get("/t/demo/agents").status_code == 302


def test_a_wrong_nonce_ends_the_sign_in(issuer):
    """Through every real part: the provider's code is good, but the browser's session expects another nonce."""
    client, browser = Client(), requests.Session()
    begun = client.get(f"/oidc/{issuer.id}")
    form = browser.get(begun["Location"], timeout=10)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)[1]
    answer = browser.post(form.url, data={"username": "developer", "password": "developer-password", "csrfmiddlewaretoken": token}, timeout=10, allow_redirects=False)
    answer = browser.get(urljoin(form.url, answer.headers["Location"]), timeout=10, allow_redirects=False)
    session = client.session
    states = session["oidc_states"]
    for state in states.values():
        state["nonce"] = "x" * 32
    session["oidc_states"] = states
    session.save()
    refused = client.get(answer.headers["Location"].removeprefix("http://testserver"))
    assert refused.status_code == 400 and b"another nonce" in refused.content


def test_a_workspaces_provider_may_not_lead_into_our_network(issuer, provider, settings):
    """With OIDC_ALLOW_LOCAL off, as in production: neither at set-up nor later, wherever its names lead by then."""
    settings.OIDC_ALLOW_LOCAL = False
    tenant = workspace_create(name="Guard", slug=f"guard-{time.time_ns() % 10**9}")
    owner = Actor("usr_x", frozenset(PERMISSIONS["owner"]), tenant.id)
    for where in (provider.url, "https://localhost/realms/x", "https://127.0.0.1/x", "https://[::1]/x", "https://169.254.169.254/latest", "https://no.such.host.invalid/"):
        with pytest.raises(BadRequest):
            oidc.issuer_save(tenant=tenant, actor=owner, name="X", issuer=where, client_id="c", client_secret="s")
    inside = Issuer.objects.create(tenant=tenant, name="X", issuer="https://x.example", client_id="c", endpoints={n: "https://127.0.0.1/x" for n in ("jwks", "token", "userinfo")})
    with pytest.raises(requests.RequestException, match="public"):
        oidc._ask(inside, "GET", "jwks")


def test_the_provider_rotates_its_keys(issuer, provider, signed):
    """A token by the new key is taken at once (after COOLDOWN_S at most), one by the old key no more."""
    old = signed()
    assert oidc.token_claims(old, issuer)
    provider.stop()
    key = rsa.generate_private_key(65537, 2048)
    (provider.folder / "signing.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    provider.start()
    kid = requests.get(issuer.endpoints["jwks"], timeout=5).json()["keys"][0]["kid"]
    new = signed(with_key=key, header={"kid": kid})
    until = time.monotonic() + oidc.COOLDOWN_S + 5
    while True:
        try:
            assert oidc.token_claims(new, issuer)["sub"] == "s"
            break
        except SuspiciousOperation:
            assert time.monotonic() < until
            time.sleep(0.5)
    with pytest.raises(SuspiciousOperation):
        oidc.token_claims(old, issuer)
    assert sign_in(issuer, "developer")[1].status_code == 302
