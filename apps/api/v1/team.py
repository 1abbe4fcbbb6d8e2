from datetime import datetime

from ninja import Field, Router

from apps.api.v1.base import Body, Limit, Page, Schema, answers, creates, needs, page
from apps.common.errors import NotFound
from apps.teams import services
from apps.teams.models import Invitation, Membership
from apps.teams.permissions import PERMISSIONS

router = Router()


class Member(Schema):
    id: str
    user_id: str
    email: str = Field(alias="user.email")
    role: str
    created_at: datetime


class RoleIn(Body):
    role: str = Field(examples=["developer"])


class InvitationOut(Schema):
    id: str
    email: str
    role: str
    state: str
    sent_at: datetime
    expires_at: datetime


class InvitationIn(Body):
    email: str = Field(examples=["bob@example.com"], max_length=254)
    role: str = Field(examples=["developer"])


def _one(model, request, pk: str, what: str):
    found = None if "\0" in pk else model.objects.select_related("tenant").filter(tenant=request.tenant, pk=pk).first()
    if found is None:
        raise NotFound(f"no {what} {pk[:60]!r}")
    return found


@router.get("members", response=answers(200, Page[Member]), summary="Members")
@needs("team.read")
def members(request, limit: int = Limit(), after: str | None = None):
    return 200, page(Membership.objects.filter(tenant=request.tenant).select_related("user"), order="created_at", after=after, limit=limit)


@router.patch("members/{member_id}", response=answers(200, Member), summary="Change a role")
@needs("team.write")
def member_role(request, member_id: str, payload: RoleIn):
    row = _one(Membership, request, member_id, "member")
    services.member_role_change(membership=row, role=payload.role, actor=request.actor)
    return 200, row


@router.delete("members/{member_id}", response=answers(204), summary="Remove a member, or leave")
def member_remove(request, member_id: str):
    services.member_remove(membership=_one(Membership, request, member_id, "member"), actor=request.actor)
    return 204, None


@router.post("members/{member_id}/transfer-ownership", response=answers(200, Member), summary="Make a member the owner in your place")
@needs("tenant.own")
def transfer(request, member_id: str):
    row = _one(Membership, request, member_id, "member")
    services.ownership_transfer(membership=row, actor=request.actor)
    row.refresh_from_db()
    return 200, row


@router.get("invitations", response=answers(200, Page[InvitationOut]), summary="Invitations")
@needs("team.read")
def invitations(request, limit: int = Limit(), after: str | None = None):
    return 200, page(Invitation.objects.filter(tenant=request.tenant), order="-created_at", after=after, limit=limit)


@router.post("invitations", response=answers(201, InvitationOut), summary="Invite")
@needs("team.write")
@creates
def invite(request, payload: InvitationIn):
    row, _ = services.invitation_create(tenant=request.tenant, actor=request.actor, **payload.dict())
    return 201, InvitationOut.from_orm(row)


@router.post("invitations/{invitation_id}/resend", response=answers(200, InvitationOut), summary="Send it again with a new link")
@needs("team.write")
def resend(request, invitation_id: str):
    row = _one(Invitation, request, invitation_id, "invitation")
    services.invitation_resend(invitation=row, actor=request.actor)
    row.refresh_from_db()
    return 200, row


@router.delete("invitations/{invitation_id}", response=answers(204), summary="Revoke an invitation")
@needs("team.write")
def uninvite(request, invitation_id: str):
    services.invitation_revoke(invitation=_one(Invitation, request, invitation_id, "invitation"), actor=request.actor)
    return 204, None


@router.get("roles", response=answers(200, dict[str, list[str]]), summary="Role to permissions")
def roles(request):
    return 200, {str(role): sorted(granted) for role, granted in PERMISSIONS.items()}
