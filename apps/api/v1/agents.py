from datetime import datetime
from typing import Any

from ninja import Field, Router

from apps.agents import services
from apps.agents.models import Agent
from apps.api.v1.base import Body, Limit, Page, Schema, answers, creates, needs, page
from apps.common.errors import NotFound

router = Router()


class Version(Schema):
    number: int
    published_at: datetime | None
    instructions: str
    greeting: str
    voice: str
    language: str
    stt_engine: str
    stt_model: str
    llm_engine: str
    llm_model: str
    tts_engine: str
    tts_model: str
    turn_detection: dict[str, Any]
    tools: list[dict[str, Any]]
    limits: dict[str, Any]
    fallbacks: dict[str, Any]


class AgentOut(Schema):
    id: str
    name: str
    is_default: bool
    created_at: datetime
    published: Version | None
    draft: Version | None = None

    @staticmethod
    def resolve_draft(row) -> Any:
        return services.draft_of(row)


class VersionIn(Body):
    instructions: str | None = Field(None, examples=["You are a friendly voice assistant. Answer briefly."])
    greeting: str | None = None
    voice: str | None = Field(None, examples=["alloy"])
    language: str | None = Field(None, examples=["en"])
    stt_engine: str | None = None
    stt_model: str | None = None
    llm_engine: str | None = None
    llm_model: str | None = None
    tts_engine: str | None = None
    tts_model: str | None = None
    turn_detection: dict[str, Any] | None = Field(None, examples=[{"type": "server_vad", "silence_duration_ms": 500}])
    tools: list[Any] | None = None
    limits: dict[str, Any] | None = None
    fallbacks: dict[str, Any] | None = Field(None, examples=[{"llm": {"engine": "openai", "model": "backup"}}])


class AgentIn(Body):
    name: str = Field(examples=["Front desk"])
    template: str = Field("assistant", examples=["front-desk"])


class AgentChange(Body):
    name: str | None = None
    is_default: bool | None = None


class Change(Schema):
    field: str
    lines: list[str]


class Template(Schema):
    id: str
    title: str
    about: str


def _agent(agent_id: str) -> Agent:
    found = None if "\0" in agent_id else Agent.objects.select_related("published").filter(pk=agent_id, deleted_at=None).first()
    if found is None:
        raise NotFound(f"no agent {agent_id[:60]!r}")
    return found


@router.get("", response=answers(200, Page[AgentOut]), summary="Agents")
@needs("agents.read")
def listing(request, limit: int = Limit(), after: str | None = None):
    return 200, page(Agent.objects.filter(deleted_at=None).select_related("published"), order="created_at", after=after, limit=limit)


@router.get("templates", response=answers(200, list[Template]), summary="What an agent can begin with")
@needs("agents.read")
def templates(request):
    return 200, [{"id": k, "title": t["title"], "about": t["about"]} for k, t in services.TEMPLATES.items()]


@router.post("", response=answers(201, AgentOut), summary="New agent")
@needs("agents.write")
@creates
def create(request, payload: AgentIn):
    made = services.agent_create(name=payload.name, actor=request.actor, tool_hosts=request.tenant.tool_hosts, **services.template_fields(payload.template))
    return 201, AgentOut.from_orm(made)


@router.get("{agent_id}", response=answers(200, AgentOut), summary="An agent")
@needs("agents.read")
def get(request, agent_id: str):
    return 200, _agent(agent_id)


@router.patch("{agent_id}", response=answers(200, AgentOut), summary="Rename, or make it the default")
@needs("agents.write")
def change(request, agent_id: str, payload: AgentChange):
    services.agent_update(agent=_agent(agent_id), actor=request.actor, **payload.dict(exclude_unset=True))
    return 200, _agent(agent_id)


@router.delete("{agent_id}", response=answers(204), summary="Delete")
@needs("agents.write")
def delete(request, agent_id: str):
    services.agent_delete(agent=_agent(agent_id), actor=request.actor)
    return 204, None


@router.patch("{agent_id}/draft", response=answers(200, Version), summary="Change the draft")
@needs("agents.write")
def draft(request, agent_id: str, payload: VersionIn):
    fields = {n: v for n, v in payload.dict(exclude_unset=True).items() if v is not None}
    return 200, services.draft_save(agent=_agent(agent_id), actor=request.actor, tool_hosts=request.tenant.tool_hosts, **fields)


@router.delete("{agent_id}/draft", response=answers(204), summary="Discard the draft")
@needs("agents.write")
def discard(request, agent_id: str):
    services.draft_discard(agent=_agent(agent_id), actor=request.actor)
    return 204, None


@router.post("{agent_id}/publish", response=answers(200, Version), summary="Publish the draft")
@needs("agents.write")
def publish(request, agent_id: str):
    return 200, services.agent_publish(agent=_agent(agent_id), actor=request.actor)


@router.get("{agent_id}/versions", response=answers(200, Page[Version]), summary="Versions, newest first")
@needs("agents.read")
def versions(request, agent_id: str, limit: int = Limit(), after: str | None = None):
    return 200, page(_agent(agent_id).versions.all(), order="-number", after=after, limit=limit)


@router.post("{agent_id}/versions/{number}/use", response=answers(200, Version), summary="Roll back to a version")
@needs("agents.write")
def use(request, agent_id: str, number: int):
    return 200, services.agent_roll_back(agent=_agent(agent_id), number=number, actor=request.actor)


@router.get("{agent_id}/versions/{one}/compare/{other}", response=answers(200, list[Change]), summary="What differs")
@needs("agents.read")
def compare(request, agent_id: str, one: int, other: int):
    agent = _agent(agent_id)
    return 200, services.versions_compare(services.version_get(agent, one), services.version_get(agent, other))
