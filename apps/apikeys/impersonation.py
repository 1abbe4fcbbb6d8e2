"""Operators look at a workspace as one of its members: read only unless asked for, for a short time, and audited where it counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.apikeys.models import ApiKey, Impersonation
from apps.apikeys.services import REFUSED, digest_of, new_secret, well_formed
from apps.audit.services import audit_record
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict, Forbidden, InvalidApiKey, NotFound
from apps.teams.models import Membership, Role
from apps.teams.permissions import actor_of, operator
from apps.tenants.context import bound
from apps.tenants.models import Tenant

MINUTES = (1, 240, 30)  # shortest, longest, default
READS = frozenset({"agents.read", "sessions.read", "keys.read", "usage.read", "team.read", "audit.read", "billing.read", "tenant.read"})
# Not even with changes: what would outlive the looking (keys, seats in the team), and what is the owner's alone
NEVER = frozenset({"keys.write", "team.write", "tenant.own", "billing.write"})


def member_named(*, tenant: Tenant, user: str = "", role: str = "") -> Membership:
    """By id or e-mail, or the first member with the role. Raises BadRequest (neither or both), NotFound."""
    if bool(user) == bool(role):
        raise BadRequest("name a user (id or e-mail) or a role", param="user")
    if role and role not in Role.values:
        raise BadRequest(f"role {role[:40]!r}: expected one of {', '.join(Role.values)}", param="role")
    rows = Membership.objects.select_related("user", "tenant").filter(tenant=tenant).order_by("created_at", "id")
    rows = rows.filter(role=role, user__is_active=True, user__is_staff=False, user__is_superuser=False) if role else rows.filter(
        **{"user__email__iexact" if "@" in user else "user_id": user})  # fmt: skip
    found = rows.first()
    if found is None:
        raise NotFound(f"workspace {tenant.slug!r} has no member {(user or role)[:60]!r}", param="user" if user else "role")
    return found


def _begin(*, user: User, tenant: Tenant | None, actor: Actor, writable: bool, reason: str, minutes: int, digest: str | None) -> Impersonation:
    actor.require("platform")
    if user.is_staff or user.is_superuser:
        raise Forbidden("Nobody looks as an operator.")
    if not user.is_active:
        raise Conflict(f"the account {user.email} is switched off")
    if not MINUTES[0] <= minutes <= MINUTES[1]:
        raise BadRequest(f"minutes={minutes}: between {MINUTES[0]} and {MINUTES[1]}", param="minutes")
    with transaction.atomic():
        row = Impersonation.objects.create(user=user, tenant=tenant, by=actor.id, reason=reason.strip()[:300], writable=writable, digest=digest,
                                           expires_at=timezone.now() + timedelta(minutes=minutes))  # fmt: skip
        _audit(row, actor, "user.impersonated", {"impersonation": row.id, "write": writable, "reason": row.reason, "until": row.expires_at.isoformat()})
    return row


def impersonation_begin(*, user: User, actor: Actor, writable: bool = False, reason: str = "", minutes: int = 60) -> Impersonation:
    """In the operator's browser, at all workspaces of `user`. Raises Forbidden, Conflict, BadRequest."""
    return _begin(user=user, tenant=None, actor=actor, writable=writable, reason=reason, minutes=minutes, digest=None)


def impersonation_issue(*, tenant: Tenant, actor: Actor, reason: str, user: str = "", role: str = "", writable: bool = False,
                        minutes: int = MINUTES[2]) -> tuple[Impersonation, str]:  # fmt: skip
    """A secret (`vi_…`, shown once) for /api/v1 that acts as that member. Raises Forbidden, Conflict, BadRequest, NotFound."""
    actor.require("platform")
    if not reason.strip():
        raise BadRequest("say why you look as somebody else: the workspace will read it", param="reason")
    if tenant.status != Tenant.Status.ACTIVE:
        raise Conflict(f"workspace {tenant.slug!r} is {tenant.status}: its members see nothing either")
    member = member_named(tenant=tenant, user=user, role=role)
    _, secret, digest = new_secret("vi")
    return _begin(user=member.user, tenant=tenant, actor=actor, writable=writable, reason=reason, minutes=minutes, digest=digest), secret


def impersonation_end(*, impersonation: Impersonation, actor: Actor) -> None:
    """Raises Conflict when it is over already."""
    actor.require("platform")
    with transaction.atomic():
        now = timezone.now()
        if not Impersonation.objects.filter(pk=impersonation.pk, ended_at=None, expires_at__gt=now).update(ended_at=now):
            raise Conflict(f"impersonation {impersonation.pk} is {impersonation.state if impersonation.state != 'active' else 'ended'} already")
        _audit(impersonation, actor, "user.impersonation_ended", {"impersonation": impersonation.pk})


def _audit(row: Impersonation, actor: Actor, action: str, after: dict) -> None:
    """In the operators' log, and in that of each workspace that is looked at."""
    line = {"actor": actor, "action": action, "target": row.user_id, "after": after}
    audit_record(**line)
    looked_at = [row.tenant] if row.tenant else [m.tenant for m in Membership.objects.select_related("tenant").filter(user_id=row.user_id)]
    for tenant in looked_at:
        if tenant.status not in (Tenant.Status.PROVISIONING, Tenant.Status.ERASED):
            with bound(tenant):
                audit_record(**line)


def holds(row: Impersonation | None) -> bool:
    """Neither over nor begun by one who may do so no more."""
    if row is None or row.state != "active" or not row.user.is_active or row.user.is_staff or row.user.is_superuser:
        return False
    if row.by.startswith("key_"):
        key = ApiKey.objects.filter(pk=row.by, tenant=None).first()
        return key is not None and key.usable
    user = User.objects.filter(pk=row.by).first()
    return user is not None and operator(user).can("platform")


def looking(member: Membership, impersonation_id: str, writable: bool) -> Actor:
    """What an operator may do who looks as that member. The audit shows the member, and as its key the impersonation."""
    may = actor_of(member)
    return replace(may, permissions=may.permissions - NEVER if writable else may.permissions & READS, key_id=impersonation_id)


def acting(member: Membership, state: dict | None) -> Actor:
    """Of a browser's session: `state` is what it keeps while an operator looks as somebody else, else None."""
    return looking(member, state["id"], state["write"]) if state else actor_of(member)


def impersonation_authenticate(*, secret: str) -> tuple[Impersonation, Membership]:
    """Raises InvalidApiKey: unknown, over, or the member is none any more."""
    row = Impersonation.objects.select_related("user", "tenant").filter(digest=digest_of(secret)).first() if well_formed(secret) else None
    member = Membership.objects.select_related("user", "tenant").filter(tenant_id=row.tenant_id, user_id=row.user_id).first() if holds(row) else None
    if member is None:
        raise InvalidApiKey(REFUSED)
    return row, member
