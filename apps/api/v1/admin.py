"""For operators, with an operator key or a superuser's session."""

from datetime import datetime

from ninja import Field, Router

from apps.api.health import readiness
from apps.api.v1.base import Body, Limit, Page, Schema, answers, creates, page
from apps.apikeys.services import check_limits
from apps.common.errors import NotFound
from apps.onboarding.services import workspace_create
from apps.tenants import services
from apps.tenants.models import Tenant
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


class Reason(Body):
    reason: str = Field(examples=["unpaid invoice"], max_length=300)


class Override(Body):
    limits: dict[str, int] = Field({}, examples=[{"concurrent_sessions": 500}])
    plan: str = Field("", max_length=40)
    until: datetime | None = None


def _tenant(tenant_id: str) -> Tenant:
    found = None if "\0" in tenant_id else Tenant.objects.filter(pk=tenant_id).exclude(slug="tpl-template").first()
    if found is None:
        raise NotFound(f"no tenant {tenant_id[:60]!r}")
    return found


@router.get("tenants", response=answers(200, Page[TenantOut]), summary="Tenants")
def tenants(request, limit: int = Limit(), after: str | None = None):
    return 200, page(Tenant.objects.exclude(slug="tpl-template"), order="created_at", after=after, limit=limit)


@router.post("tenants", response=answers(201, TenantOut), summary="New tenant")
@creates
def create(request, payload: TenantIn):
    return 201, TenantOut.from_orm(workspace_create(**payload.dict()))


@router.get("tenants/{tenant_id}", response=answers(200, TenantOut), summary="A tenant")
def get(request, tenant_id: str):
    return 200, _tenant(tenant_id)


@router.post("tenants/{tenant_id}/suspend", response=answers(200, TenantOut), summary="Suspend")
def suspend(request, tenant_id: str, payload: Reason):
    row = _tenant(tenant_id)
    services.tenant_suspend(tenant=row, reason=payload.reason.replace("\0", ""), actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/resume", response=answers(200, TenantOut), summary="Resume")
def resume(request, tenant_id: str):
    row = _tenant(tenant_id)
    services.tenant_resume(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/close", response=answers(200, TenantOut), summary="Close; erased after 30 days")
def close(request, tenant_id: str):
    row = _tenant(tenant_id)
    services.tenant_close(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/reopen", response=answers(200, TenantOut), summary="Reopen")
def reopen(request, tenant_id: str):
    row = _tenant(tenant_id)
    services.tenant_reopen(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/erase", response=answers(200, TenantOut), summary="Erase a closed tenant now")
def erase(request, tenant_id: str):
    row = _tenant(tenant_id)
    services.tenant_erase(tenant=row, actor=request.actor)
    return 200, row


@router.post("tenants/{tenant_id}/override", response=answers(200, TenantOut), summary="Limits and plan by hand, with an end")
def override(request, tenant_id: str, payload: Override):
    row = _tenant(tenant_id)
    services.tenant_override(tenant=row, actor=request.actor, limits=check_limits(payload.limits), plan=payload.plan.replace("\0", ""), until=payload.until)
    return 200, row


class Board(Schema):
    tenant_id: str
    slug: str
    live: int


@router.get("sessions", response=answers(200, list[Board]), summary="Live sessions by tenant")
def board(request):
    return 200, [{"tenant_id": t.id, "slug": t.slug, "live": n} for t in Tenant.objects.real()[:1000] if (n := limiter().live(t.id))]


@router.get("workers", response=answers(200, dict[str, dict]), summary="Database, Redis and workers")
def workers(request):
    return 200, readiness(with_workers=True)[1]
