"""API keys: `vv_` + 8 characters to find it by + 43 of secret (256 bits) + 6 of checksum. Shown once, stored hashed."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from apps.apikeys.models import ApiKey
from apps.audit.services import audit_record
from apps.common.errors import AccountDeactivated, Conflict, InvalidApiKey, MissingApiKey
from apps.tenants.context import Bound
from apps.tenants.models import Tenant
from apps.tenants.services import end_sessions

SCOPES = ("realtime:connect", "audio:write", "agents:write", "usage:read", "tenant:admin")
DEFAULT_SCOPES = ("realtime:connect", "audio:write")
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = len("vv_") + 8 + 43 + 6
USED_EVERY = timedelta(minutes=1)  # last_used_at is written at most this often


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is speaking."""

    tenant: Bound
    key_id: str
    scopes: frozenset[str]


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"[:6]


def api_key_issue(*, tenant: Tenant, name: str, scopes: tuple[str, ...] = DEFAULT_SCOPES, expires_at: datetime | None = None,
                  actor: str = "system") -> tuple[ApiKey, str]:  # fmt: skip
    """A new key and its secret, which is shown once and never stored."""
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    body = f"vv_{prefix}" + "".join(secrets.choice(_ALPHABET) for _ in range(43))
    secret = body + _checksum(body)
    with transaction.atomic():
        key = ApiKey.objects.create(tenant=tenant, name=name, prefix=prefix, digest=hashlib.sha256(secret.encode()).hexdigest(),
                                    scopes=list(scopes), expires_at=expires_at, created_by=actor)  # fmt: skip
        audit_record(actor=actor, action="api_key.issued", target=key.id, name=name, scopes=list(scopes))
    return key, secret


def api_key_authenticate(*, secret: str | None) -> Principal:
    """Raises MissingApiKey, InvalidApiKey (unknown, revoked, expired), AccountDeactivated."""
    if not secret:
        raise MissingApiKey("No API key: send `Authorization: Bearer vv_…`.")
    refused = InvalidApiKey("Incorrect API key: it is unknown, revoked or expired. Make a new one in the portal.")
    if len(secret) != _LENGTH or not secret.isascii() or secret[-6:] != _checksum(secret[:-6]):
        raise refused
    key = ApiKey.objects.select_related("tenant").filter(prefix=secret[3:11]).first()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    if key is None or not hmac.compare_digest(key.digest, digest) or not key.usable:
        raise refused
    tenant = key.tenant
    if tenant.status != Tenant.Status.ACTIVE:
        raise AccountDeactivated("This workspace is suspended; ask its owner.")
    now = timezone.now()
    if key.last_used_at is None or now - key.last_used_at > USED_EVERY:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return Principal(Bound(tenant.id, tenant.schema_name, tenant.slug), key.id, frozenset(key.scopes))


def api_key_revoke(*, key: ApiKey, actor: str = "system") -> None:
    """From now on it is refused; live sessions that used it end within seconds. Raises Conflict if it was revoked already."""
    with transaction.atomic():
        if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
            raise Conflict(f"key {key.id} is revoked already")
        audit_record(actor=actor, action="api_key.revoked", target=key.id)
    transaction.on_commit(lambda: end_sessions(f"key.{key.id}", "invalid_api_key", "The API key was revoked."))
