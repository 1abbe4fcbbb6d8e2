from datetime import datetime
from typing import Any

from django.conf import settings
from ninja import Field, Router

from apps.api.v1.base import Body, Schema, answers, creates
from apps.common.middleware import client_ip
from apps.onboarding.services import sign_up
from apps.tenants.services import tenant_update
from apps.usage.limits import REST, Level, limiter, tenant_values

router = Router()


class SignUp(Body):
    email: str = Field(examples=["ada@example.com"], max_length=254)
    password: str = Field(examples=["correct-horse-battery"], max_length=256)
    workspace: str = Field(examples=["Ada's Bakery"], max_length=80)
    accept_terms: bool = Field(examples=[True])
    name: str = Field("", max_length=120)
    template: str = Field("assistant", max_length=40)


class SignedUp(Schema):
    tenant_id: str
    tenant_slug: str
    user_id: str
    agent_id: str
    api_key: str = Field(description="shown once")
    api_key_prefix: str


@router.post("auth/signup", auth=None, response=answers(201, SignedUp), summary="Sign up")
@creates
def signup(request, payload: SignUp):
    """A user, a workspace with a first agent, and a first key, at once."""
    level = Level(f"signup {client_ip(request)}", {"requests_per_minute": settings.SIGNUPS_PER_MINUTE})
    request.rate = limiter().spend((level,), "requests_per_minute", scope=REST)
    done = sign_up(**payload.dict())
    return 201, {"tenant_id": done.tenant.id, "tenant_slug": done.tenant.slug, "user_id": done.user.id, "agent_id": done.agent_id, "api_key": done.api_key,
                 "api_key_prefix": done.api_key_prefix}  # fmt: skip


class Workspace(Schema):
    id: str
    slug: str
    name: str
    email: str
    status: str
    created_at: datetime
    tool_hosts: list[str]
    allowed_origins: list[str]
    fallbacks: dict[str, Any] = Field(description="engines that take over, for agents that name none themselves")
    resume_seconds: int | None = Field(description="a lost connection may come back this long; null: as the limits say")
    milestones: dict[str, str]


class WorkspaceChange(Body):
    name: str | None = Field(None, max_length=120, examples=["Ada's Bakery"])
    email: str | None = Field(None, max_length=254)
    tool_hosts: list[str] | None = Field(None, max_length=100, examples=[["api.example.com"]])
    allowed_origins: list[str] | None = Field(None, max_length=100, examples=[["https://app.example.com"]])
    fallbacks: dict[str, Any] | None = Field(None, examples=[{"llm": {"engine": "openai", "model": "backup"}}])
    resume_seconds: int | None = Field(None, examples=[120], ge=0, le=2**31 - 1)


@router.get("tenant", response=answers(200, Workspace), summary="The workspace")
def tenant_get(request):
    request.actor.require("agents.read")
    return 200, request.tenant


@router.patch("tenant", response=answers(200, Workspace), summary="Change the workspace")
def tenant_change(request, payload: WorkspaceChange):
    values = {n: v for n, v in payload.dict(exclude_unset=True).items() if v is not None or n == "resume_seconds"}
    tenant_update(tenant=request.tenant, actor=request.actor, **values)
    return 200, request.tenant


class Me(Schema):
    id: str
    tenant: str
    permissions: list[str]


@router.get("me", response=answers(200, Me), summary="Who am I, and what may I do")
def me(request):
    return 200, {"id": request.actor.id, "tenant": request.tenant.slug, "permissions": sorted(request.actor.permissions)}


class Limits(Schema):
    limits: dict[str, int]
    concurrent_sessions: int = Field(description="held now")


@router.get("limits", response=answers(200, Limits), summary="Limits and what is in use")
def limits(request):
    request.actor.require("agents.read")
    return 200, {"limits": tenant_values(request.tenant), "concurrent_sessions": limiter().live(request.tenant.id)}
