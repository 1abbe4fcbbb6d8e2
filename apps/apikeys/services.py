"""API keys: `vv_` + 8 characters to find it by + 43 of secret (256 bits) + 6 of checksum. Shown once, stored hashed.
Operators' keys begin with `vo_`, short-lived secrets for browsers with `ek_`."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.apikeys.models import LIMIT_NAMES, ApiKey, ClientSecret, IdempotentAnswer
from apps.audit.services import audit_record
from apps.common.actors import PERMISSIONS, SYSTEM, Actor, origin
from apps.common.errors import AccountDeactivated, BadRequest, Conflict, EphemeralKeyExpired, InvalidApiKey, MissingApiKey, OriginNotAllowed
from apps.tenants.context import Bound, bound
from apps.tenants.models import Tenant
from apps.tenants.services import end_sessions

# scope -> what it permits
SCOPES: dict[str, frozenset[str]] = {
    "realtime:connect": frozenset({"talk"}),
    "audio:write": frozenset({"talk"}),
    "agents:write": frozenset({"agents.read", "agents.write"}),
    "usage:read": frozenset({"usage.read", "sessions.read"}),
    "tenant:admin": PERMISSIONS - {"platform", "tenant.own", "billing.write"},
}
DEFAULT_SCOPES = ("realtime:connect", "audio:write")
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 3 + 8 + 43 + 6
USED_EVERY = timedelta(minutes=1)  # last_used_at is written at most this often
SECRET_SECONDS = (10, 7200, 600)  # of a client secret: shortest, longest, default (protocol section 8)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is speaking: a key, or a client secret minted by one or by a member."""

    tenant: Bound
    key_id: str
    scopes: frozenset[str]
    origins: tuple[str, ...] = ()
    session: dict[str, Any] = field(default_factory=dict)  # the session a client secret configures
    ephemeral: bool = False
    user_id: str = ""  # of a member who connected as such

    def actor(self) -> Actor:
        granted = frozenset().union(*(SCOPES[s] for s in self.scopes if s in SCOPES)) if self.scopes else frozenset()
        return Actor(self.key_id, granted, self.tenant.tenant_id, key_id=self.key_id)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"[:6]


def new_secret(kind: str) -> tuple[str, str, str]:
    """(prefix, secret, digest)"""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    body = f"{kind}_{prefix}" + "".join(secrets.choice(_ALPHABET) for _ in range(43))
    secret = body + _checksum(body)
    return prefix, secret, digest_of(secret)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def well_formed(secret: str) -> bool:
    return len(secret) == _LENGTH and secret.isascii() and secret[-6:] == _checksum(secret[:-6])


def check_limits(limits: dict[str, Any]) -> dict[str, int]:
    """Raises BadRequest unless each is a known name with a whole number of at least 0."""
    for name, value in limits.items():
        if name not in LIMIT_NAMES or isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise BadRequest(f"limit {str(name)[:40]}={str(value)[:40]}: expected one of {', '.join(LIMIT_NAMES)} and a whole number", param="limits")
    return dict(limits)


def check_origins(origins: list[str]) -> list[str]:
    for value in origins:
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d{1,5})?", value):
            raise BadRequest(f"{value[:80]!r} is not an origin such as https://app.example.com", param="allowed_origins")
    return list(origins)


def api_key_issue(*, tenant: Tenant, name: str, actor: Actor, scopes: tuple[str, ...] | list[str] = DEFAULT_SCOPES, expires_at: datetime | None = None,
                  limits: dict[str, int] | None = None, allowed_origins: list[str] | None = None) -> tuple[ApiKey, str]:  # fmt: skip
    """A new key and its secret, which is shown once and never stored. Raises Forbidden, BadRequest.

    Nobody gives a key more than they may do themselves.
    """
    actor.require("keys.write", tenant.id)
    if unknown := [s for s in scopes if s not in SCOPES]:
        raise BadRequest(f"scope {unknown[0][:40]!r}: expected some of {', '.join(SCOPES)}", param="scopes")
    for scope in scopes:
        for permission in SCOPES[scope]:
            actor.require(permission)
    if not name.strip() or "\0" in name:
        raise BadRequest("the key needs a name", param="name")
    prefix, secret, digest = new_secret("vv")
    with transaction.atomic():
        key = ApiKey.objects.create(tenant=tenant, name=name.strip()[:80], prefix=prefix, digest=digest, scopes=sorted(set(scopes)), expires_at=expires_at,
                                    created_by=actor.id, limits=check_limits(limits or {}), allowed_origins=check_origins(allowed_origins or []))  # fmt: skip
        _audit(tenant, actor, "api_key.issued", key.id, after={"name": key.name, "scopes": key.scopes})
    return key, secret


def first_key_issue(*, tenant: Tenant, user_id: str) -> tuple[ApiKey, str]:
    """The key a workspace begins with, in the transaction that reserves its name; it works once the schema is made.

    The operators' log has its line at once, the workspace's own when there is one (`first_key_note`).
    """
    prefix, secret, digest = new_secret("vv")
    key = ApiKey.objects.create(tenant=tenant, name="first key", prefix=prefix, digest=digest, scopes=sorted(DEFAULT_SCOPES), created_by=user_id)
    audit_record(actor=Actor(user_id), action="api_key.issued", target=key.id, after={"name": key.name, "scopes": key.scopes, "tenant": tenant.id})
    return key, secret


def first_key_note(*, tenant: Tenant) -> None:
    """In the bound workspace, by what makes it."""
    for key in ApiKey.objects.filter(tenant=tenant):
        audit_record(actor=Actor(key.created_by), action="api_key.issued", target=key.id, after={"name": key.name, "scopes": key.scopes})


def api_key_rotate(*, key: ApiKey, actor: Actor, grace_s: int | None = None) -> tuple[ApiKey, str]:
    """Replace `key`; the new row and its secret. The old one works for the grace (default ROTATION_GRACE_SECONDS). Raises Conflict."""
    actor.require("keys.write", key.tenant_id)
    grace = settings.ROTATION_GRACE_SECONDS if grace_s is None else grace_s
    if not 0 <= grace <= 30 * 86400:
        raise BadRequest("the grace lies between 0 seconds and 30 days", param="grace_seconds")
    with transaction.atomic():
        key = ApiKey.objects.select_for_update(of=("self",)).get(pk=key.pk)
        if not key.usable or key.replaced_by_id:
            raise Conflict(f"key {key.id} is {key.state}; only an active key is rotated")
        new, secret = api_key_issue(tenant=key.tenant, name=key.name, scopes=key.scopes, actor=actor, limits=key.limits,
                                    allowed_origins=key.allowed_origins, expires_at=key.expires_at)  # fmt: skip
        ends = timezone.now() + timedelta(seconds=grace)
        key.replaced_by, key.expires_at = new, min(ends, key.expires_at) if key.expires_at else ends
        key.save(update_fields=["replaced_by", "expires_at"])
        _audit(key.tenant, actor, "api_key.rotated", key.id, after={"replaced_by": new.id, "works_until": key.expires_at.isoformat()})
    return new, secret


def api_key_revoke(*, key: ApiKey, actor: Actor) -> None:
    """From now on it is refused; live sessions that used it end within seconds. Raises Conflict if it was revoked already."""
    actor.require("keys.write", key.tenant_id or "")
    with transaction.atomic():
        if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
            raise Conflict(f"key {key.id} is revoked already")
        if key.tenant_id:
            _audit(key.tenant, actor, "api_key.revoked", key.id)
        else:
            audit_record(actor=actor, action="api_key.revoked", target=key.id)
        end_sessions(f"key.{key.id}", "invalid_api_key", "The API key was revoked.")


def operator_key_issue(*, name: str, actor: Actor) -> tuple[ApiKey, str]:
    """A key for /api/v1/admin. Raises Forbidden."""
    actor.require("platform")
    prefix, secret, digest = new_secret("vo")
    with transaction.atomic():
        key = ApiKey.objects.create(name=name.strip()[:80] or "operator", prefix=prefix, digest=digest, scopes=["platform"], created_by=actor.id)
        audit_record(actor=actor, action="operator_key.issued", target=key.id, after={"name": key.name})
    return key, secret


REFUSED = "Incorrect API key: it is unknown, revoked or expired. Make a new one in the portal."


def _key(secret: str) -> ApiKey:
    key = ApiKey.objects.select_related("tenant").filter(prefix=secret[3:11]).first() if well_formed(secret) else None
    if key is None or not hmac.compare_digest(key.digest, digest_of(secret)) or not key.usable:
        raise InvalidApiKey(REFUSED)
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > USED_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now, last_used_ip=origin().ip)
    return key


def holder_of(*, secret: str | None, even_expired: bool = False) -> ApiKey | ClientSecret:
    """The row of a tenant's key or client secret, its tenant read with it. Raises MissingApiKey, InvalidApiKey (unknown, revoked, expired), AccountDeactivated.

    `even_expired`: a client secret may be past its time, for going on with the session it opened.
    """
    if not secret:
        raise MissingApiKey("No API key: send `Authorization: Bearer vv_…`.")
    if not secret.startswith(("vv_", "ek_")):
        raise InvalidApiKey(REFUSED)
    found = _key(secret) if secret.startswith("vv_") else _client_secret(secret, even_expired)
    if found.tenant.status != Tenant.Status.ACTIVE:
        raise AccountDeactivated(f"This workspace is {found.tenant.status}; ask its owner.")
    return found


def principal_of(holder: ApiKey | ClientSecret) -> Principal:
    tenant = Bound(holder.tenant.id, holder.tenant.schema_name, holder.tenant.slug)
    if isinstance(holder, ApiKey):
        return Principal(tenant, holder.id, frozenset(holder.scopes), tuple(holder.allowed_origins or holder.tenant.allowed_origins))
    origins = tuple((holder.key.allowed_origins if holder.key else ()) or holder.tenant.allowed_origins)
    return Principal(tenant, holder.key_id or holder.id, frozenset({"realtime:connect"}), origins, holder.session, ephemeral=True)


def api_key_authenticate(*, secret: str | None) -> Principal:
    """Who holds it. Raises the errors of `holder_of`."""
    return principal_of(holder_of(secret=secret))


def operator_authenticate(*, secret: str | None) -> Actor:
    """Raises MissingApiKey, InvalidApiKey."""
    if not secret:
        raise MissingApiKey("No operator key: send `Authorization: Bearer vo_…`.")
    if not secret.startswith("vo_"):
        raise InvalidApiKey(REFUSED)
    key = _key(secret)
    return Actor(key.id, PERMISSIONS, key_id=key.id, name=key.name)


def check_origin(principal: Principal, header: str | None, installation: list[str]) -> None:
    """Browsers name their origin; no header is no browser. Raises OriginNotAllowed."""
    allowed = principal.origins or tuple(installation)
    if header and allowed and header not in allowed:
        raise OriginNotAllowed(f"Origin {header[:100]} is not allowed for this key.")


# Client secrets (protocol section 8)


def client_secret_mint(*, principal: Principal, session: dict[str, Any], seconds: int | None = None, user_id: str = "") -> tuple[ClientSecret, str]:
    """Only a real key or a member may mint. Raises Forbidden, BadRequest, InvalidApiKey."""
    if principal.ephemeral:
        raise InvalidApiKey("A client secret cannot make client secrets; use an API key.")
    shortest, longest, default = SECRET_SECONDS
    seconds = default if seconds is None else seconds
    if not shortest <= seconds <= longest:
        raise BadRequest(f"expires_after.seconds={seconds}: between {shortest} and {longest}", param="expires_after.seconds")
    _, secret, digest = new_secret("ek")
    row = ClientSecret.objects.create(key_id=principal.key_id or None, tenant_id=principal.tenant.tenant_id, user_id=user_id, digest=digest, session=session,
                                      expires_at=timezone.now() + timedelta(seconds=seconds))  # fmt: skip
    return row, secret


def _client_secret(secret: str, even_expired: bool) -> ClientSecret:
    row = ClientSecret.objects.select_related("key", "tenant").filter(digest=digest_of(secret)).first() if well_formed(secret) else None
    if row is None or row.key is not None and not row.key.usable:
        raise InvalidApiKey(REFUSED)
    if row.expires_at <= timezone.now() and not even_expired:
        raise EphemeralKeyExpired("This client secret has expired; ask your server for a new one.")
    return row


def purge() -> int:
    """Forget client secrets that ended a day ago, and answers kept for an Idempotency-Key for a day. How many rows."""
    before = timezone.now() - timedelta(days=1)
    return ClientSecret.objects.filter(expires_at__lt=before).delete()[0] + IdempotentAnswer.objects.filter(created_at__lt=before).delete()[0]


def _audit(tenant: Tenant, actor: Actor, action: str, target: str, **values) -> None:
    with bound(tenant):
        audit_record(actor=actor, action=action, target=target, **values)


# Keys of people whom an OpenID provider vouches for (apps/teams/liveness.py)


def _made_by(user_id: str):
    """Their keys, and the keys that were made with those."""
    makers, newest = {user_id}, {user_id}
    while newest:
        newest = set(ApiKey.objects.filter(created_by__in=newest).values_list("id", flat=True)) - makers
        makers |= newest
    return ApiKey.objects.select_related("tenant").filter(created_by__in=makers, revoked_at=None, tenant__isnull=False)


def keys_end_with(*, user_id: str) -> None:
    """Revoke the keys a person made, when the account is gone; what they talk with themselves ends too."""
    for key in _made_by(user_id):
        api_key_revoke(key=key, actor=SYSTEM)
    _hang_up(user_id, "The account was switched off.")


def keys_rest(*, user_id: str) -> None:
    """Nobody vouches for who made them: refused, and live sessions end, until that one signs in again."""
    for key in _made_by(user_id).filter(rests_since=None):
        ApiKey.objects.filter(pk=key.pk).update(rests_since=timezone.now())
        _audit(key.tenant, SYSTEM, "api_key.rested", key.id)
        end_sessions(f"key.{key.id}", "invalid_api_key", "The API key rests until who made it signs in again.")
    _hang_up(user_id, "Sign in again to go on.")


def _hang_up(user_id: str, why: str) -> None:
    """End what a person connected as themselves (playground, JWT)."""
    secrets_of = ClientSecret.objects.filter(user_id=user_id)
    for secret in secrets_of:
        end_sessions(f"key.{secret.id}", "invalid_api_key", why)
    secrets_of.filter(expires_at__gt=timezone.now()).update(expires_at=timezone.now())


def keys_work_again(*, user_id: str) -> None:
    for key in _made_by(user_id).filter(rests_since__isnull=False):
        ApiKey.objects.filter(pk=key.pk).update(rests_since=None)
        _audit(key.tenant, SYSTEM, "api_key.resumed", key.id)
