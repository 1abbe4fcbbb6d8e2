"""Members and invitations. The last owner cannot leave, be removed or be demoted."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.audit.services import audit_record
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict, Forbidden, Gone, NotFound
from apps.common.mail import mail_later
from apps.teams.models import Invitation, Membership, Role
from apps.tenants.context import bound
from apps.tenants.models import Tenant

INVITATION_DAYS = 7
SALT = "vivavoce.invitation"
RANK = {Role.OWNER: 2, Role.ADMIN: 1}  # nobody gives or takes a role above their own


def check_role(role: str) -> Role:
    """Raises BadRequest."""
    try:
        return Role(role)
    except ValueError:
        raise BadRequest(f"role {role[:40]!r}: expected one of {', '.join(Role.values)}", param="role") from None


def _rank(actor: Actor) -> int:
    return 2 if actor.can("tenant.own") else 1 if actor.can("team.write") else 0


def _may(actor: Actor, tenant: Tenant, *roles: str) -> None:
    """Raises Forbidden: without team.write, or when a role named is above the actor's own."""
    actor.require("team.write", tenant.id)
    if max((RANK.get(Role(r), 0) for r in roles), default=0) > _rank(actor):
        raise Forbidden("Only an owner gives or takes the role owner.")


# Invitations


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def invitation_create(*, tenant: Tenant, email: str, role: str, actor: Actor) -> tuple[Invitation, str]:
    """The invitation and its token (in the mail's link). Raises BadRequest, Conflict (already a member or invited), Forbidden."""
    role = check_role(role)
    _may(actor, tenant, role)
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError as error:
        raise BadRequest(f"{email[:100]!r} is not an e-mail address", param="email") from error
    if Membership.objects.filter(tenant=tenant, user__email__iexact=email).exists():
        raise Conflict(f"{email} is in the team already", param="email")
    secret = secrets.token_urlsafe(32)
    try:
        with transaction.atomic():
            Invitation.objects.filter(tenant=tenant, email__iexact=email, accepted_at=None, revoked_at=None, expires_at__lte=timezone.now()).update(
                revoked_at=timezone.now())  # fmt: skip
            row = Invitation.objects.create(tenant=tenant, email=email, role=role, digest=_digest(secret), invited_by=actor.id,
                                            expires_at=timezone.now() + timedelta(days=INVITATION_DAYS))  # fmt: skip
            _audit(tenant, actor, "invitation.created", row.id, after={"email": email, "role": role})
    except IntegrityError as error:
        raise Conflict(f"{email} is invited already; send it again or revoke it", param="email") from error
    token = signing.dumps([row.id, secret], salt=SALT)
    _send(row, token)
    return row, token


def _send(row: Invitation, token: str) -> None:
    url = f"{settings.PORTAL_URL}/invitations/{token}"
    mail_later("invitation", row.email, f"Join {row.tenant.name} on Vivavoce", f"You are invited to the workspace {row.tenant.name} as {row.role}.\n\n"
               f"Accept within {INVITATION_DAYS} days:\n{url}\n\nIf you do not know the sender, do nothing.")  # fmt: skip


def invitation_resend(*, invitation: Invitation, actor: Actor) -> str:
    """A new link and a new week; the old link stops working. Raises Conflict when it is accepted or revoked."""
    _may(actor, invitation.tenant, invitation.role)
    secret = secrets.token_urlsafe(32)
    now = timezone.now()
    with transaction.atomic():
        changed = Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(
            digest=_digest(secret), sent_at=now, expires_at=now + timedelta(days=INVITATION_DAYS))  # fmt: skip
        if not changed:
            raise Conflict("the invitation is accepted or revoked already")
        _audit(invitation.tenant, actor, "invitation.resent", invitation.id)
    token = signing.dumps([invitation.id, secret], salt=SALT)
    _send(invitation, token)
    return token


def invitation_revoke(*, invitation: Invitation, actor: Actor) -> None:
    _may(actor, invitation.tenant, invitation.role)
    with transaction.atomic():
        if not Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(revoked_at=timezone.now()):
            raise Conflict("the invitation is accepted or revoked already")
        _audit(invitation.tenant, actor, "invitation.revoked", invitation.id)


def invitation_read(*, token: str) -> Invitation:
    """Raises NotFound (tampered, unknown, replaced by a newer link), Gone (accepted, revoked, expired)."""
    unknown = NotFound("This invitation link is not valid. Ask for a new one.")
    try:
        invitation_id, secret = signing.loads(token, salt=SALT)
    except (signing.BadSignature, ValueError, TypeError):
        raise unknown from None
    row = Invitation.objects.select_related("tenant").filter(pk=invitation_id, digest=_digest(secret)).first()
    if row is None:
        raise unknown
    if row.state != "open" or row.tenant.status != Tenant.Status.ACTIVE:
        raise Gone(f"This invitation is {row.state if row.state != 'open' else 'to a workspace that is not active'}. Ask for a new one.")
    return row


def invitation_accept(*, token: str, user: User) -> Membership:
    """Once. Raises NotFound, Gone, Forbidden (it was sent to another address)."""
    with transaction.atomic():
        row = invitation_read(token=token)
        if user.email.lower() != row.email.lower():
            raise Forbidden(f"This invitation was sent to {row.email}; you are signed in as {user.email}.")
        if not Invitation.objects.filter(pk=row.pk, accepted_at=None, revoked_at=None).update(accepted_at=timezone.now()):
            raise Gone("This invitation is accepted. Ask for a new one.")
        member, _ = Membership.objects.get_or_create(tenant=row.tenant, user=user, defaults={"role": row.role})
        EmailAddress.objects.filter(user=user, email__iexact=row.email).update(verified=True)  # the link came by mail
        _audit(row.tenant, Actor(user.id), "invitation.accepted", row.id, after={"user": user.id, "role": member.role})
    return member


# Members


def _lock(tenant: Tenant) -> None:
    """One change of a team at a time, so that two owners cannot leave at once."""
    Tenant.objects.select_for_update().get(pk=tenant.pk)


def _keep_an_owner(membership: Membership) -> None:
    owners = Membership.objects.filter(tenant=membership.tenant, role=Role.OWNER, user__is_active=True)
    if membership.role == Role.OWNER and not owners.exclude(pk=membership.pk).exists():
        raise Conflict("A workspace needs an owner: make somebody else owner first.")


def member_role_change(*, membership: Membership, role: str, actor: Actor) -> None:
    """Raises BadRequest, Forbidden, Conflict (the last owner)."""
    role = check_role(role)
    with transaction.atomic():
        _lock(membership.tenant)
        membership.refresh_from_db()
        _may(actor, membership.tenant, role, membership.role)
        if role != Role.OWNER:
            _keep_an_owner(membership)
        before, membership.role = membership.role, role
        membership.save(update_fields=["role"])
        _audit(membership.tenant, actor, "member.role_changed", membership.id, before={"role": before}, after={"role": role})


def member_remove(*, membership: Membership, actor: Actor) -> None:
    """Also how one leaves: everybody may remove themselves (not who only looks as them). Raises Forbidden, Conflict (the last owner)."""
    with transaction.atomic():
        _lock(membership.tenant)
        membership.refresh_from_db()
        if actor.id != membership.user_id or actor.key_id:
            _may(actor, membership.tenant, membership.role)
        _keep_an_owner(membership)
        _audit(membership.tenant, actor, "member.removed", membership.id, before={"user": membership.user_id, "role": membership.role})
        membership.delete()


def ownership_transfer(*, membership: Membership, actor: Actor) -> None:
    """`membership` becomes owner, the acting owner admin. Raises Forbidden."""
    actor.require("tenant.own", membership.tenant_id)
    with transaction.atomic():
        _lock(membership.tenant)
        if actor.id == membership.user_id:
            raise Conflict("You are the owner already.")
        Membership.objects.filter(pk=membership.pk).update(role=Role.OWNER)
        Membership.objects.filter(tenant=membership.tenant, user_id=actor.id).update(role=Role.ADMIN)
        _audit(membership.tenant, actor, "ownership.transferred", membership.id, before={"owner": actor.id}, after={"owner": membership.user_id})


def _audit(tenant: Tenant, actor: Actor, action: str, target: str, **values) -> None:
    with bound(tenant):
        audit_record(actor=actor, action=action, target=target, **values)
