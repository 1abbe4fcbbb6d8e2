"""What a signed-in person does without a workspace: see and make workspaces, join one, close and reopen one's own, sign out elsewhere."""

from datetime import datetime

from allauth.usersessions.models import UserSession
from ninja import Field, Router

from apps.api.v1.base import Body, Limit, Page, PersonSession, PersonToken, Schema, answers, creates, membership_of, page
from apps.common.errors import NotFound
from apps.onboarding.services import workspace_request
from apps.teams.models import Membership
from apps.teams.permissions import actor_of
from apps.teams.services import invitation_accept
from apps.tenants.services import tenant_close, tenant_reopen

router = Router(auth=[PersonToken(), PersonSession()])


class Mine(Schema):
    slug: str = Field(alias="tenant.slug")
    name: str = Field(alias="tenant.name")
    status: str = Field(alias="tenant.status", description="provisioning until its schema is made")
    suspended_reason: str = Field(alias="tenant.suspended_reason")
    erase_at: datetime | None = Field(alias="tenant.erase_at")
    role: str


class Made(Schema):
    slug: str
    name: str
    status: str = Field(description="provisioning until its schema is made")
    role: str
    api_key: str = Field(description="shown once; works when the workspace is active")


class WorkspaceIn(Body):
    name: str = Field(examples=["Ada's Bakery"], min_length=1, max_length=80)
    slug: str | None = Field(None, examples=["adas-bakery"], max_length=60, description="without one it is made of the name")
    template: str = Field("assistant", max_length=40, examples=["front-desk"])


class Invited(Body):
    token: str = Field(examples=["WyJpbnZfMTIz…"], max_length=500, description="the last part of the link in the mail")


class Browser(Schema):
    id: int
    user_agent: str
    ip: str
    created_at: datetime
    last_seen_at: datetime
    current: bool


@router.get("workspaces", response=answers(200, Page[Mine]), summary="Workspaces one is a member of")
def workspaces(request, limit: int = Limit(), after: str | None = None):
    return 200, page(Membership.objects.filter(user=request.person).select_related("tenant"), order="created_at", after=after, limit=limit)


@router.post("workspaces", response=answers(201, Made), summary="New workspace; made in the background within seconds")
@creates
def create(request, payload: WorkspaceIn):
    tenant, secret = workspace_request(user=request.person, **payload.dict())
    return 201, {**Mine.from_orm(membership_of(request, tenant.slug)).dict(), "api_key": secret}


@router.get("workspaces/{slug}", response=answers(200, Mine), summary="One of them, and how far it is")
def get(request, slug: str):
    return 200, membership_of(request, slug)


@router.post("workspaces/{slug}/close", response=answers(200, Mine), summary="Close it; its owner may reopen it for 30 days")
def close(request, slug: str):
    member = membership_of(request, slug)
    tenant_close(tenant=member.tenant, actor=actor_of(member))
    return 200, member


@router.post("workspaces/{slug}/reopen", response=answers(200, Mine), summary="Reopen a closed one")
def reopen(request, slug: str):
    member = membership_of(request, slug)
    tenant_reopen(tenant=member.tenant, actor=actor_of(member))
    return 200, member


@router.post("auth/invitation", response=answers(200, Mine), summary="Accept an invitation")
def accept(request, payload: Invited):
    return 200, invitation_accept(token=payload.token, user=request.person)


def _browsers(request):
    return UserSession.objects.filter(user=request.person)


@router.get("me/sessions", response=answers(200, list[Browser]), summary="Browsers one is signed in with")
def browsers(request):
    here = request.session.session_key
    rows = UserSession.objects.purge_and_list(request.person)
    return 200, [{"current": r.session_key == here, **{n: getattr(r, n) for n in ("id", "user_agent", "ip", "created_at", "last_seen_at")}} for r in rows]


@router.delete("me/sessions", response=answers(204), summary="Sign out everywhere but here")
def sign_out(request):
    for row in _browsers(request).exclude(session_key=request.session.session_key or ""):
        row.end()
    return 204, None


@router.delete("me/sessions/{browser_id}", response=answers(204), summary="Sign out one browser")
def sign_out_one(request, browser_id: int):
    row = _browsers(request).filter(pk=browser_id).first() if 0 < browser_id < 2**31 else None
    if row is None:
        raise NotFound(f"no session {browser_id}")
    row.end()
    return 204, None
