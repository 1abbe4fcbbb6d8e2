"""Sign-in with a real OpenID provider in a process of its own, over HTTP; and every token that must not do."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from datetime import timedelta
from urllib.parse import urljoin, urlsplit

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.core.exceptions import SuspiciousOperation
from django.test import Client
from django.utils import timezone

from apps.accounts.models import Identity, Issuer, Secret, User
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue
from apps.common.actors import SYSTEM, Actor
from apps.common.errors import BadRequest
from apps.common.launch.servers import die_with_parent, free_port
from apps.onboarding.services import workspace_create
from apps.teams import liveness, oidc
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
    """One with neither offline tokens (signing out there ends the refresh tokens too) nor a look-up of accounts."""
    running = Provider(tmp_path, IDP_OFFLINE="0", IDP_LOOKUP="0")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def offline_provider(database, tmp_path_factory):
    """One whose refresh tokens outlive signing out, without a look-up."""
    running = Provider(tmp_path_factory.mktemp("offline"), IDP_LOOKUP="0")
    yield running
    running.stop()


@pytest.fixture
def issuer(provider):
    """The platform's provider, with the workspace its groups name."""
    with bound_public():
        Tenant.objects.filter(slug="demo").exists() or workspace_create(name="Demo", slug="demo")
        yield oidc.issuer_save(tenant=None, actor=SYSTEM, name="Realm", issuer=provider.url, client_id="voice-portal", client_secret="portal-secret-for-tests")


def save(at: Provider, **values) -> Issuer:
    return oidc.issuer_save(tenant=None, actor=SYSTEM, name="Realm", issuer=at.url, client_id="voice-portal", client_secret="portal-secret-for-tests", **values)


def check_now(user: User) -> int:
    """As if nobody had asked for a minute."""
    Identity.objects.filter(user=user).update(checked_at=timezone.now() - timedelta(seconds=60))
    return liveness.identities_check()


def key_of(user: User):
    """A key that person made, and one made with it."""
    demo = Tenant.objects.get(slug="demo")
    first, _ = api_key_issue(tenant=demo, name="of a person", actor=Actor(user.id, frozenset(PERMISSIONS["admin"])))
    return first, api_key_issue(tenant=demo, name="made by a key", actor=Actor(first.id, frozenset(PERMISSIONS["admin"])))[0]


def anew(email: str) -> None:
    User.objects.filter(email=email).delete()


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


def signed_for(provider: Provider, issuer: Issuer, **changes) -> str:
    kid, now = requests.get(issuer.endpoints["jwks"], timeout=5).json()["keys"][0]["kid"], int(time.time())
    claims = {"iss": issuer.issuer, "aud": issuer.client_id, "iat": now, "exp": now + 60, **changes}
    return jwt.encode(claims, (provider.folder / "signing.pem").read_bytes(), algorithm="RS256", headers={"kid": kid})


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
    keys = key_of(user)
    assert issuer.checked_by == "look-up" and client.get("/t/demo/").status_code == 200
    assert check_now(user) == 0 and client.get("/t/demo/").status_code == 200
    assert Identity.objects.get(user=user).looked_up
    token = signed_for(provider, issuer, sub=Identity.objects.get(user=user).sub)
    assert Client().get("/api/v1/me", headers={"authorization": f"Bearer {token}"}).status_code == 200
    provider.switch_off("admin")
    assert check_now(user) >= 1
    assert client.get("/t/demo/").status_code == 302
    assert all(ApiKey.objects.get(pk=key.pk).revoked_at for key in keys)
    assert Client().get("/api/v1/me", headers={"authorization": f"Bearer {token}"}).status_code == 401  # made before it was switched off
    assert check_now(user) == 0  # ended once


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


def test_a_key_outlives_a_sign_out_but_not_the_account(issuer, offline_provider):
    """Offline tokens: signing out of portal and provider says nothing about the account; switching it off ends the key."""
    anew("owner@example.org")
    offline = save(offline_provider)
    assert offline.checked_by == "offline token"
    client, _, _ = sign_in(offline, "owner")
    user = User.objects.get(email="owner@example.org")
    key, _ = key_of(user)
    out = client.post("/accounts/logout/")
    requests.get(out["Location"], timeout=10, allow_redirects=False)
    for gone in (False, True):
        if gone:
            offline_provider.switch_off("owner")
        check_now(user)
        key.refresh_from_db()
        assert (key.revoked_at is not None) == gone


def test_who_signed_out_and_is_switched_off_loses_the_keys_within_a_minute_on_the_clock(issuer, provider):
    """The worst case: nobody is signed in any more, and no token of theirs lives. As the worker does it, every ten seconds."""
    anew("billing@example.org")
    client, _, _ = sign_in(issuer, "billing")
    user = User.objects.get(email="billing@example.org")
    key, _ = key_of(user)
    requests.get(client.post("/accounts/logout/")["Location"], timeout=10, allow_redirects=False)
    Identity.objects.filter(user=user).update(refresh_token="")
    assert check_now(user) == 0 and ApiKey.objects.get(pk=key.pk).usable  # asked about and alive: this second
    provider.switch_off("billing")
    began = time.monotonic()
    while ApiKey.objects.get(pk=key.pk).usable:
        assert time.monotonic() - began < 60
        time.sleep(10)
        liveness.identities_check()
    print(f"switched off at the provider -> keys revoked: {time.monotonic() - began:.1f} s")


def test_keys_of_whom_nobody_can_be_asked_about_rest_until_they_sign_in_again(issuer, plain_provider):
    anew("viewer@example.org")
    plain = save(plain_provider)
    assert plain.checked_by == "session"
    client, _, _ = sign_in(plain, "viewer")
    user = User.objects.get(email="viewer@example.org")
    keys = key_of(user)

    def states() -> set[str]:
        return {ApiKey.objects.get(pk=key.pk).state for key in keys}

    check_now(user)
    assert states() == {"active"} and Identity.objects.get(user=user).refresh_token
    requests.get(client.post("/accounts/logout/")["Location"], timeout=10, allow_redirects=False)
    assert Identity.objects.get(user=user).refresh_token == ""  # the provider would refuse it now, whoever lives
    liveness.identities_check()
    assert states() == {"active"}  # it vouched for them half a minute ago
    assert check_now(user) == 0 and states() == {"resting"}
    sign_in(plain, "viewer")
    assert states() == {"active"}
    plain.refresh_from_db()
    save(plain_provider, trust_minutes=60)  # a workspace may trust longer
    Identity.objects.filter(user=user).update(refresh_token="", checked_at=timezone.now() - timedelta(minutes=59))
    assert liveness.identities_check() == 0 and states() == {"active"}
    Identity.objects.filter(user=user).update(checked_at=timezone.now() - timedelta(minutes=61))
    assert liveness.identities_check() == 0 and states() == {"resting"}
    with pytest.raises(BadRequest):
        save(plain_provider, trust_minutes=-1)


def test_a_session_refused_there_ends_here_and_an_outage_ends_nobody(issuer, plain_provider):
    anew("developer@example.org")
    plain = save(plain_provider)
    client, _, _ = sign_in(plain, "developer")
    user = User.objects.get(email="developer@example.org")
    keys = key_of(user)
    plain_provider.stop()
    assert check_now(user) == 0 and client.get("/t/demo/").status_code == 200 and ApiKey.objects.get(pk=keys[0].pk).usable
    plain_provider.start()
    plain_provider.switch_off("developer")
    check_now(user)
    assert client.get("/t/demo/").status_code == 302 and not ApiKey.objects.get(pk=keys[0].pk).usable


def test_a_sub_that_the_look_up_does_not_know_is_no_end_but_the_keys_rest(issuer):
    """Pairwise subjects: a 404 about one who was never found there says nothing; they are trusted like whom nobody can be asked about."""
    user = User(email=f"pairwise-{time.time_ns()}@example.org")
    user.set_unusable_password()
    user.save()
    identity = Identity.objects.create(user=user, issuer=issuer, sub="another-name")
    key, _ = key_of(user)
    assert check_now(user) == 0 and ApiKey.objects.get(pk=key.pk).state == "resting"
    identity.refresh_from_db()
    assert identity.ended_at is None and identity.unvouched_at


def test_a_session_is_renewed_without_a_word_and_ends_with_that_of_the_provider(issuer, plain_provider):
    """Of a provider that gives no refresh token: each page, a minute after the last word, asks by way of the browser."""
    anew("developer@example.org")
    plain, browser = save(plain_provider), requests.Session()
    client, _, _ = sign_in(plain, "developer", browser=browser)
    identity = Identity.objects.filter(issuer=plain, user__email="developer@example.org")

    def late() -> None:
        identity.update(refresh_token="", checked_at=timezone.now() - timedelta(seconds=60))

    def renewed(asked):
        begun = client.get(asked)
        assert "prompt=none" in begun["Location"]
        back = browser.get(begun["Location"], timeout=10, allow_redirects=False)
        return client.get(back.headers["Location"].removeprefix("http://testserver"))

    late()
    answer = renewed(client.get("/t/demo/agents")["Location"])
    assert answer.status_code == 302 and answer["Location"] == "/t/demo/agents"
    identity.update(refresh_token="")
    assert client.get("/t/demo/agents").status_code == 200
    late()
    assert client.get("/api/v1/me").status_code == 401  # a program is told
    sent = client.post("/t/demo/agents", {"name": "x"}, headers={"referer": "http://testserver/t/demo/agents"})
    assert "next=%2Ft%2Fdemo%2Fagents" in sent["Location"]
    part = client.get("/t/demo/sessions", headers={"hx-request": "true", "hx-current-url": "http://testserver/t/demo/sessions?x=1"})
    assert "next=%2Ft%2Fdemo%2Fsessions" in part["HX-Redirect"]
    elsewhere = client.get("/t/demo/sessions", headers={"hx-request": "true", "hx-current-url": "https://evil.example/x"})
    assert "next=%2F&" in elsewhere["HX-Redirect"]
    browser.cookies.clear()  # signed out there
    assert renewed(client.get("/t/demo/agents")["Location"])["Location"] == "/accounts/login/" and client.get("/t/demo/agents").status_code == 302


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
        oidc.ask(inside, "GET", "jwks")


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
    anew("developer@example.org")  # of another provider, by now
    assert sign_in(issuer, "developer")[1].status_code == 302
