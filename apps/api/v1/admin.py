"""For operators, with an operator key or a superuser's session."""

from datetime import datetime

from django.db.models import Q
from ninja import Field, Router

from apps.api.health import readiness
from apps.common.queues import queues
from apps.api.v1.base import Body, Limit, Page, Schema, When, answers, creates, page, tenant_row
from apps.apikeys.services import check_limits
from apps.billing.by_hand import override_set
from apps.common.errors import BadRequest, NotFound
from apps.conversations.models import VoiceSession
from apps.conversations.selectors import live_sessions
from apps.conversations.services import voice_session_end
from apps.onboarding.services import workspace_create
from apps.tenants import services
from apps.tenants.context import bound
from apps.tenants.models import TEMPLATE_SCHEMA, Tenant
from apps.usage.limits import limiter

router = Router()


class TenantOut(Schema):
    id: str
    slug: str
    name: str
    email: str
    status: str
    suspended_reason: str
    erase_at: datetime | None
    created_at: datetime
    plan: str
    limits: dict[str, int]
    override_until: datetime | None


class TenantIn(Body):
    name: str = Field(examples=["Acme"], min_length=1, max_length=80)
    slug: str | None = Field(None, examples=["acme"], max_length=60)
    email: str = Field("", max_length=254)
    template: str = "assistant"


class TenantChange(Body):
    name: str | None = Field(None, examples=["Acme"], min_length=1, max_length=80)
    email: str | None = Field(None, examples=["it@acme.example"], max_length=254)


class Reason(Body):
    reason: str = Field(examples=["unpaid invoice"], max_length=300)


class Override(Body):
    limits: dict[str, int] = Field({}, examples=[{"concurrent_sessions": 500}])
    plan: str = Field("", max_length=40)
    until: When | None = Field(None, examples=["2027-01-31T12:00:00Z"])


@router.get("tenants", response=answers(200, Page[TenantOut]), summary="Tenants")
def tenants(request, limit: int = Limit(), after: str | None = None, status: str = "", query: str = ""):
    """`status`: only those; `query`: slug or name begins with it."""
    rows = Tenant.objects.exclude(schema_name=TEMPLATE_SCHEMA)
    if status:
        if status not in Tenant.Status.values:
            raise BadRequest(f"status={status[:40]!r}: expected one of {', '.join(Tenant.Status.values)}", param="status")
        rows = rows.filter(status=status)
    if begins := query.replace("\0", "")[:80]:
        rows = rows.filter(Q(slug__startswith=begins) | Q(name__istartswith=begins))
    return 200, page(rows, order="created_at", after=after, limit=limit)


@router.post("tenants", response=answers(201, TenantOut), summary="New tenant")
@creates
def create(request, payload: TenantIn):
    return 201, TenantOut.from_orm(workspace_create(**payload.dict()))


@router.get("tenants/{tenant_id}", response=answers(200, TenantOut), summary="A tenant")
def get(request, tenant_id: str):
    return 200, tenant_row(tenant_id)


@router.patch("tenants/{tenant_id}", response=answers(200, TenantOut), summary="Change a tenant")
def change(request, tenant_id: str, payload: TenantChange):
    row = tenant_row(tenant_id)
    values = {n: v for n, v in payload.dict(exclude_unset=True).items() if v is not None}
    services.tenant_update(tenant=row, actor=request.actor, **values)
    return 200, row


@router.post("tenants/{tenant_id}/suspend", response=answers(200, TenantOut), summary="Suspend")
def suspend(request, tenant_id: str, payload: Reason):
    row = tenant_row(tenant_id)
    services.tenant_suspend(tenant=row, reason=payload.reason.replace("\0", ""), actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/resume", response=answers(200, TenantOut), summary="Resume")
def resume(request, tenant_id: str):
    row = tenant_row(tenant_id)
    services.tenant_resume(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/close", response=answers(200, TenantOut), summary="Close; erased after 30 days")
def close(request, tenant_id: str):
    row = tenant_row(tenant_id)
    services.tenant_close(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/reopen", response=answers(200, TenantOut), summary="Reopen")
def reopen(request, tenant_id: str):
    row = tenant_row(tenant_id)
    services.tenant_reopen(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/erase", response=answers(200, TenantOut), summary="Erase a closed tenant now")
def erase(request, tenant_id: str):
    row = tenant_row(tenant_id)
    services.tenant_erase(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/override", response=answers(200, TenantOut), summary="Limits and plan by hand, with an end")
def override(request, tenant_id: str, payload: Override):
    row = tenant_row(tenant_id)
    override_set(tenant=row, actor=request.actor, limits=check_limits(payload.limits), plan=payload.plan.replace("\0", ""), until=payload.until)
    row.refresh_from_db()
    return 200, row


class Live(Schema):
    id: str
    tenant_id: str
    tenant_slug: str
    agent_id: str
    agent_version: int
    key_id: str
    client: str
    opened_at: datetime


class Queue(Schema):
    waiting: int = Field(description="jobs no worker has taken yet")
    workers: int
    busy: int
    slots: int


@router.get("sessions", response=answers(200, list[Live]), summary="Live sessions of all tenants, at most 1000")
def board(request, tenant_id: str = ""):
    wanted = [tenant_row(tenant_id)] if tenant_id else Tenant.objects.real().order_by("slug")
    return 200, live_sessions([t for t in wanted if t.status != Tenant.Status.ERASED], limiter().live_ids)[:1000]


@router.post("tenants/{tenant_id}/sessions/{session_id}/end", response=answers(204), summary="End a live session")
def session_end(request, tenant_id: str, session_id: str):
    row = tenant_row(tenant_id)
    with bound(row):
        found = None if "\0" in session_id or row.status == Tenant.Status.ERASED else VoiceSession.objects.filter(pk=session_id).first()
        if found is None:
            raise NotFound(f"no session {session_id[:60]!r}")
        voice_session_end(session=found, actor=request.actor)
    return 204, None


@router.get("queues", response=answers(200, dict[str, Queue]), summary="Queues of work, and who works on them")
def queue_list(request):
    return 200, queues()


@router.get("workers", response=answers(200, dict[str, dict]), summary="Database, Redis and workers")
def workers(request):
    return 200, readiness(with_workers=True)[1]
