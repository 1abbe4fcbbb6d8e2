"""Operators look at a workspace as one of its members, by a secret for /api/v1 that lasts minutes."""

from datetime import datetime

from ninja import Field, Router

from apps.api.v1.base import Body, Limit, Page, Schema, answers, creates, page, tenant_row
from apps.apikeys.impersonation import MINUTES, impersonation_end, impersonation_issue
from apps.apikeys.models import Impersonation
from apps.common.errors import NotFound

router = Router()


class ImpersonationOut(Schema):
    id: str
    tenant_id: str | None = Field(description="none: in an operator's browser, at all workspaces of the person")
    user_id: str
    user_email: str
    by: str = Field(description="the operator, or the operator key")
    reason: str
    writable: bool
    state: str
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None

    @staticmethod
    def resolve_user_email(row) -> str:
        return row["user_email"] if isinstance(row, dict) else row.user.email


class NewImpersonation(ImpersonationOut):
    secret: str = Field(description="shown once; a bearer token for /api/v1")


class ImpersonationIn(Body):
    user: str = Field("", max_length=254, examples=["ada@example.com"], description="id or e-mail of a member; or say a role")
    role: str = Field("", max_length=16, description="of whom it is the first member with the role; or say a user")
    reason: str = Field(min_length=1, max_length=300, examples=["ticket 1842: usage looks wrong"], description="its owners read it in their audit log")
    writable: bool = Field(False, description="with changes; keys, the team and what is the owner's alone stay closed")
    minutes: int = Field(MINUTES[2], ge=MINUTES[0], le=MINUTES[1])


@router.post("tenants/{tenant_id}/impersonations", response=answers(201, NewImpersonation), summary="Look as a member: a secret for /api/v1, read only by default")
@creates
def create(request, tenant_id: str, payload: ImpersonationIn):
    made, secret = impersonation_issue(tenant=tenant_row(tenant_id), actor=request.actor, **payload.dict())
    return 201, {**ImpersonationOut.from_orm(made).dict(), "secret": secret}


@router.get("impersonations", response=answers(200, Page[ImpersonationOut]), summary="Who looks as whom, and who did")
def listing(request, limit: int = Limit(), after: str | None = None, tenant_id: str = ""):
    """`tenant_id`: only those at that tenant."""
    rows = Impersonation.objects.select_related("user")
    return 200, page(rows.filter(tenant=tenant_row(tenant_id)) if tenant_id else rows, order="-created_at", after=after, limit=limit)


def _impersonation(impersonation_id: str) -> Impersonation:
    found = None if "\0" in impersonation_id else Impersonation.objects.select_related("user", "tenant").filter(pk=impersonation_id).first()
    if found is None:
        raise NotFound(f"no impersonation {impersonation_id[:60]!r}")
    return found


@router.get("impersonations/{impersonation_id}", response=answers(200, ImpersonationOut), summary="One of them")
def get(request, impersonation_id: str):
    return 200, _impersonation(impersonation_id)


@router.delete("impersonations/{impersonation_id}", response=answers(204), summary="End it now")
def end(request, impersonation_id: str):
    impersonation_end(impersonation=_impersonation(impersonation_id), actor=request.actor)
    return 204, None
