"""Sign-in by OpenID Connect: mozilla-django-oidc, with what it leaves open closed (aud, iss, expiry, algorithm, match by `sub`).

It stands here and not in accounts because a sign-in also makes memberships. Providers are rows (accounts.Issuer): the platform's, or a
tenant's own. The library asks for its settings one by one; they are answered from the issuer of the current request.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.db import IntegrityError, transaction
from django.dispatch import Signal
from django.utils import timezone
from mozilla_django_oidc.auth import OIDCAuthenticationBackend
from mozilla_django_oidc.utils import import_from_settings

from apps.accounts.models import Identity, Issuer, Secret, User
from apps.audit.services import audit_record
from apps.common.actors import SYSTEM, Actor
from apps.common.errors import BadRequest, InvalidApiKey
from apps.common.outbound import call
from apps.teams.models import Membership, Role
from apps.teams.services import check_role
from apps.tenants.context import bound
from apps.tenants.models import Tenant

log = logging.getLogger("vivavoce.oidc")
TIMEOUT_S = 5
LEEWAY_S = 30  # between our clock and the provider's
ALGORITHMS = ("RS256", "ES256")
SCOPES = "openid email profile"
OFFLINE = "offline_access"  # asked for where a provider offers it: its refresh token outlives the provider's own session
TRUST_MINUTES = 31 * 24 * 60  # the longest a workspace may go on trusting who cannot be asked about
COOLDOWN_S = 5  # between two looks for a key id we do not know
identity_vouched = Signal()  # user=, at each sign-in
_issuer: ContextVar[Issuer | None] = ContextVar("oidc_issuer", default=None)


@contextmanager
def of_issuer(issuer: Issuer) -> Iterator[None]:
    token = _issuer.set(issuer)
    try:
        yield
    finally:
        _issuer.reset(token)


def answer_setting(attr: str, *args: Any) -> Any:
    """What mozilla-django-oidc's `get_settings` returns here."""
    issuer = _issuer.get()
    ends = issuer.endpoints if issuer else {}
    ours = {
        "OIDC_OP_AUTHORIZATION_ENDPOINT": ends.get("authorization", ""), "OIDC_OP_TOKEN_ENDPOINT": ends.get("token", ""),
        "OIDC_OP_USER_ENDPOINT": ends.get("userinfo", ""), "OIDC_OP_JWKS_ENDPOINT": ends.get("jwks", ""),
        "OIDC_RP_CLIENT_ID": issuer.client_id if issuer else "", "OIDC_RP_CLIENT_SECRET": Secret.open(issuer.client_secret) if issuer else "",
        "OIDC_RP_SIGN_ALGO": "RS256", "OIDC_USE_PKCE": True, "OIDC_USE_NONCE": True, "OIDC_TIMEOUT": TIMEOUT_S, "OIDC_STORE_ID_TOKEN": True,
        "OIDC_RP_SCOPES": f"{SCOPES} {OFFLINE}" if ends.get("offline") else SCOPES, "OIDC_AUTHENTICATION_CALLBACK_URL": "oidc-callback", "LOGIN_REDIRECT_URL": "/", "LOGIN_REDIRECT_URL_FAILURE": "/",
    }  # fmt: skip
    return ours[attr] if attr in ours else import_from_settings(attr, *args)


def ask(issuer: Issuer, method: str, endpoint: str, tail: str = "", **kwargs: Any) -> requests.Response:
    """One request to the provider; a workspace's own may not lead into the installation's network. Raises requests.RequestException."""
    try:
        return call(method, issuer.endpoints[endpoint] + tail, public_only=_guarded(issuer.tenant_id), timeout_s=TIMEOUT_S, **kwargs)
    except BadRequest as error:
        raise requests.RequestException(error.message) from error


def _guarded(tenant_id: str | None) -> bool:
    return bool(tenant_id) and not settings.OIDC_ALLOW_LOCAL


class _Keys(jwt.PyJWKClient):
    """A provider's keys, kept five minutes; an unknown key id asks again (at most every COOLDOWN_S), which is how a rotation is noticed."""

    def __init__(self, issuer: Issuer):
        self._issuer = issuer
        super().__init__(issuer.endpoints["jwks"], cache_jwk_set=True, lifespan=300, timeout=TIMEOUT_S, cooldown_duration=COOLDOWN_S)

    def fetch_data(self) -> Any:
        try:
            answer = ask(self._issuer, "GET", "jwks")
            answer.raise_for_status()
            found = self._as_jwk_set_payload(answer.json())
        except (requests.RequestException, ValueError) as error:
            raise jwt.PyJWKClientConnectionError(f"the provider's keys cannot be read: {error}") from error
        self.jwk_set_cache.put(found)
        return found


_known_keys: dict[tuple[str, str], _Keys] = {}


def _keys(issuer: Issuer) -> _Keys:
    name = (issuer.id, issuer.endpoints["jwks"])
    if name not in _known_keys:
        if len(_known_keys) > 1000:
            _known_keys.clear()
        _known_keys[name] = _Keys(issuer)
    return _known_keys[name]


def token_claims(token: str, issuer: Issuer, audience: str | None = None) -> dict[str, Any]:
    """The claims of a token of that issuer for us. Raises SuspiciousOperation with the reason."""
    try:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise SuspiciousOperation(f"the token is signed with {str(header.get('alg'))[:20]!r}; expected one of {', '.join(ALGORITHMS)}")
        key = _keys(issuer).get_signing_key_from_jwt(token)
        claims = jwt.decode(token, key, algorithms=list(ALGORITHMS), audience=audience or issuer.client_id, issuer=issuer.issuer, leeway=LEEWAY_S,
                            options={"require": ["exp", "iat", "sub", "aud", "iss"]})  # fmt: skip
    except (jwt.PyJWTError, KeyError) as error:
        raise SuspiciousOperation(f"the provider's token is not valid: {error}") from error
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") not in (issuer.client_id, None):
        raise SuspiciousOperation("the provider's token was made for another client")
    return claims


class Backend(OIDCAuthenticationBackend):
    """Signs in who comes back from a provider. Outside a callback it knows nobody."""

    get_settings = staticmethod(answer_setting)

    def authenticate(self, request, **kwargs):
        if _issuer.get() is None or "nonce" not in kwargs:
            return None
        return super().authenticate(request, **kwargs)

    def get_token(self, payload):
        answer = ask(_issuer.get(), "POST", "token", data=payload)
        if answer.status_code != 200:
            raise SuspiciousOperation(f"the provider gave no token (status {answer.status_code})")
        self.tokens = answer.json()
        return self.tokens

    def get_userinfo(self, access_token, id_token, payload):
        answer = ask(_issuer.get(), "GET", "userinfo", headers={"Authorization": f"Bearer {access_token}"})
        answer.raise_for_status()
        if answer.headers.get("content-type", "").lower().startswith("application/jwt"):
            return token_claims(answer.text, _issuer.get())
        return answer.json()

    def verify_token(self, token, **kwargs):
        claims = token_claims(token, _issuer.get())
        if not kwargs.get("nonce") or claims.get("nonce") != kwargs["nonce"]:
            raise SuspiciousOperation("the provider's token carries another nonce")
        return claims

    def get_or_create_user(self, access_token, id_token, payload):
        info = self.get_userinfo(access_token, id_token, payload)
        if info.get("sub") != payload["sub"]:
            raise SuspiciousOperation("the provider speaks of two different people")
        refresh = Secret.seal(self.tokens.get("refresh_token") or "")
        return identity_user(issuer=_issuer.get(), claims={**payload, **info}, signed_in=self.request.user, refresh_token=refresh)


@transaction.atomic
def identity_user(*, issuer: Issuer, claims: dict[str, Any], signed_in: Any, refresh_token: str) -> User:
    """The user of (issuer, sub), made at their first sign-in with their memberships. Raises SuspiciousOperation.

    An existing account is linked only by the person signed in to it: an address that a provider claims proves nothing about ours.
    """
    identity = Identity.objects.select_related("user").filter(issuer=issuer, sub=claims["sub"]).first()
    if identity is None:
        email = str(claims.get("email") or "").strip().lower()
        if not email or claims.get("email_verified") is not True:
            raise SuspiciousOperation("the provider has not verified your e-mail address")
        user = User.objects.filter(email__iexact=email).first()
        if user is not None and not (getattr(signed_in, "is_authenticated", False) and signed_in.pk == user.pk):
            raise SuspiciousOperation("there is an account with this e-mail already: sign in with its password, then link the provider")
        if user is None:
            user = User(email=email, name=str(claims.get("name") or "")[:120])
            user.set_unusable_password()
            user.save()
        identity = Identity.objects.create(user=user, issuer=issuer, sub=claims["sub"])
        for tenant, role in granted(issuer, claims):
            Membership.objects.get_or_create(tenant=tenant, user=user, defaults={"role": role})
            with bound(tenant):
                audit_record(actor=Actor(user.id), action="member.provisioned", target=user.id, after={"role": role, "issuer": issuer.id})
    if not identity.user.is_active:
        raise SuspiciousOperation("this account is switched off")
    Identity.objects.filter(pk=identity.pk).update(refresh_token=refresh_token, checked_at=timezone.now(), unvouched_at=None, ended_at=None)
    identity_vouched.send(sender=Identity, user=identity.user)
    return identity.user


ORDER = (Role.VIEWER, Role.BILLING, Role.DEVELOPER, Role.ADMIN, Role.OWNER)


def granted(issuer: Issuer, claims: dict[str, Any]) -> list[tuple[Tenant, str]]:
    """(tenant, role) that the claims give: by a tenant's own mapping, or `/<slug>/<role>` groups of the platform's provider."""
    values = claims.get(issuer.claim) or []
    values = [values] if isinstance(values, str) else [v for v in values if isinstance(v, str)]
    if issuer.tenant_id:
        roles = [r for v in values if (r := issuer.roles.get(v)) in Role.values] or ([issuer.default_role] if issuer.default_role else [])
        return [(issuer.tenant, max(roles, key=ORDER.index))] if roles else []
    best: dict[str, str] = {}
    for value in values:
        parts = value.strip("/").split("/")
        if len(parts) == 2 and parts[1] in Role.values and (parts[0] not in best or ORDER.index(parts[1]) > ORDER.index(best[parts[0]])):
            best[parts[0]] = parts[1]
    return [(tenant, best[tenant.slug]) for tenant in Tenant.objects.real().filter(slug__in=best)]


def bearer_user(token: str) -> User:
    """The user of a JWT that a known provider made for us. Raises InvalidApiKey."""
    refused = InvalidApiKey("This token is not valid here.")
    try:
        claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.PyJWTError:
        raise refused from None
    for issuer in Issuer.objects.filter(issuer=claimed if isinstance(claimed, str) else "", active=True):
        try:
            claims = token_claims(token, issuer)
        except SuspiciousOperation:
            continue
        found = Identity.objects.select_related("user").filter(issuer=issuer, sub=claims["sub"], user__is_active=True).first()
        since = max((at.timestamp() for at in (found.ended_at, found.unvouched_at) if at), default=0) if found else 0
        if found and claims["iat"] > since:  # made after the provider was known to vouch no more
            return found.user
    raise refused


# Setting providers up


def _check_address(url: str, what: str) -> None:
    """Raises BadRequest unless it is https (or, where that is allowed, on this machine)."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1") and settings.OIDC_ALLOW_LOCAL
        good = parts.hostname and (parts.scheme == "https" or parts.scheme == "http" and local)
    except ValueError:
        good = False
    if not good:
        raise BadRequest(f"the {what} must be an https:// address", param="issuer")


def discover(issuer: str, tenant_id: str | None = None) -> dict[str, Any]:
    """The endpoints from the provider's discovery document, and whether it gives tokens that outlive its session. Raises BadRequest."""
    _check_address(issuer, "issuer")
    try:
        where = issuer.rstrip("/") + "/.well-known/openid-configuration"
        answer = call("GET", where, public_only=_guarded(tenant_id), timeout_s=TIMEOUT_S)
        document = answer.json() if answer.status_code == 200 else {}
    except (requests.RequestException, ValueError) as error:
        raise BadRequest(f"the issuer does not answer with a discovery document ({type(error).__name__})", param="issuer") from error
    if not isinstance(document, dict) or document.get("issuer", "").rstrip("/") != issuer.rstrip("/"):
        raise BadRequest("the discovery document is missing or names another issuer", param="issuer")
    names = {"authorization": "authorization_endpoint", "token": "token_endpoint", "userinfo": "userinfo_endpoint", "jwks": "jwks_uri",
             "end_session": "end_session_endpoint"}  # fmt: skip
    found = {ours: document[theirs] for ours, theirs in names.items() if isinstance(document.get(theirs), str)}
    if missing := {"authorization", "token", "userinfo", "jwks"} - set(found):
        raise BadRequest(f"the discovery document lacks {sorted(missing)[0]}", param="issuer")
    for name, url in found.items():
        _check_address(url, f"{name} endpoint")
    scopes = document.get("scopes_supported")
    return {**found, "issuer": document["issuer"], "offline": isinstance(scopes, list) and OFFLINE in scopes}


USERS = "/admin/realms/"  # Keycloak's admin API stands beside its realms


def endpoints_read(*, issuer: str, client_id: str, client_secret: str, tenant_id: str | None = None) -> dict[str, Any]:
    """What `discover` says, and as `users` where the provider tells this client whether an account is enabled: Keycloak does when the
    client has a service account with the role view-users (of realm-management). Raises BadRequest."""
    found = discover(issuer, tenant_id)
    base, realms, realm = found["issuer"].rstrip("/").rpartition("/realms/")
    if realms and client_secret:
        row = Issuer(issuer=found["issuer"], tenant_id=tenant_id, client_id=client_id, client_secret=Secret.seal(client_secret),
                     endpoints={**found, "users": base + USERS + realm + "/users"})  # fmt: skip
        try:
            answer = ask(row, "GET", "users", "?max=1", headers={"Authorization": f"Bearer {service_token(row)}"})
            if answer.status_code == 200 and isinstance(answer.json(), list):
                return row.endpoints
        except (requests.RequestException, ValueError, PermissionError) as error:
            log.info("issuer %s has no look-up of accounts for us (%s)", found["issuer"], type(error).__name__)
    return found


def service_token(issuer: Issuer) -> str:
    """An access token of the client itself (RFC 6749, 4.4). Raises PermissionError when it gets none, requests.RequestException."""
    form = {"grant_type": "client_credentials", "client_id": issuer.client_id, "client_secret": Secret.open(issuer.client_secret)}
    answer = ask(issuer, "POST", "token", data=form)
    if answer.status_code >= 500:
        raise requests.RequestException(f"status {answer.status_code}")
    body = answer.json()
    if answer.status_code != 200 or not isinstance(body, dict) or not isinstance(body.get("access_token"), str):
        raise PermissionError(f"the client has no service account (status {answer.status_code})")
    return body["access_token"]


def issuer_save(*, tenant: Tenant | None, actor: Actor, name: str, issuer: str, client_id: str, client_secret: str, claim: str = "groups",
                roles: dict[str, str] | None = None, default_role: str = "", trust_minutes: int = 0) -> Issuer:  # fmt: skip
    """Add or change a provider. Raises Forbidden, BadRequest, Conflict."""
    actor.require("tenant.write" if tenant else "platform", tenant.id if tenant else "")
    for role in [*(roles or {}).values(), *([default_role] if default_role else [])]:
        if check_role(role) == Role.OWNER:
            raise BadRequest("a provider gives no ownership; make owners in the team page", param="roles")
    if not 0 <= trust_minutes <= TRUST_MINUTES:
        raise BadRequest(f"trust_minutes={trust_minutes}: between 0 and {TRUST_MINUTES}", param="trust_minutes")
    known = Issuer.objects.filter(issuer__in=[issuer.strip(), issuer.strip().rstrip("/")], client_id=client_id.strip(), tenant=tenant).first()
    ends = endpoints_read(issuer=issuer.strip(), client_id=client_id.strip(), tenant_id=tenant.id if tenant else None,
                          client_secret=client_secret or (Secret.open(known.client_secret) if known else ""))  # fmt: skip
    values = {"name": name.strip()[:80] or "Single sign-on", "endpoints": ends, "claim": claim[:80] or "groups", "roles": roles or {}, "default_role": default_role,
              "trust_minutes": trust_minutes}  # fmt: skip
    if client_secret:
        values["client_secret"] = Secret.seal(client_secret)
    try:
        with transaction.atomic():
            row, made = Issuer.objects.update_or_create(issuer=ends["issuer"], client_id=client_id.strip(), tenant=tenant, defaults=values)
            line = {"actor": actor, "action": "issuer.saved", "target": row.id,
                    "after": {"issuer": row.issuer, "client_id": row.client_id, "checked_by": row.checked_by, "trust_minutes": trust_minutes}}  # fmt: skip
            if tenant is None:
                audit_record(**line)
            else:
                with bound(tenant):
                    audit_record(**line)
    except IntegrityError as error:
        raise BadRequest("another workspace uses this client of this issuer", param="client_id") from error
    return row


def issuer_remove(*, issuer: Issuer, actor: Actor) -> None:
    """Nobody signs in by it any more; the browsers of those who did are signed out. Their accounts and memberships stay. Raises Forbidden."""
    actor.require("tenant.write" if issuer.tenant_id else "platform", issuer.tenant_id or "")
    with transaction.atomic():
        for session in UserSession.objects.filter(user__identities__issuer=issuer).distinct():
            session.end()
        line = {"actor": actor, "action": "issuer.removed", "target": issuer.id, "before": {"issuer": issuer.issuer, "client_id": issuer.client_id}}
        if issuer.tenant is None:
            audit_record(**line)
        else:
            with bound(issuer.tenant):
                audit_record(**line)
        issuer.delete()
