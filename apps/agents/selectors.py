from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from apps.agents.models import Agent
from apps.common.errors import NotFound
from apps.common.fallbacks import by_stage
from apps.tenants.context import current
from apps.tenants.models import Tenant


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """A published version as plain values, for a session."""

    agent_id: str
    version: int
    instructions: str
    voice: str
    language: str
    greeting: str
    stt_engine: str
    stt_model: str
    llm_engine: str
    llm_model: str
    tts_engine: str
    tts_model: str
    turn_detection: dict[str, Any]
    tools: list[dict[str, Any]]
    limits: dict[str, int]
    fallbacks: dict[str, list[str]]  # stage -> [engine, model]


# names that OpenAI's clients send by themselves: each is the workspace's default pipeline
MODEL_ALIASES = ("gpt-realtime", "gpt-realtime-2.1", "gpt-realtime-mini", "gpt-4o-realtime-preview", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe",
                 "gpt-realtime-whisper", "gpt-transcribe", "gpt-live-transcribe", "tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o", "gpt-4o-mini")  # fmt: skip


def agent_for_session(*, assistant: str | None = None, version: str = "", workspace: Tenant | None = None) -> AgentConfig:
    """The named agent (its published version, or the published one with this number) or the tenant's default. Raises NotFound.

    `workspace`: the row of the bound tenant, where it is at hand.
    """
    workspace = workspace or Tenant.objects.get(pk=current().tenant_id)
    rows = Agent.objects.filter(deleted_at=None).exclude(published=None).select_related("published")
    agent = (rows.filter(pk=assistant) if assistant else rows.order_by("-is_default", "created_at")).first()
    if agent is None:
        raise NotFound(f"no published agent {assistant!r}" if assistant else "this workspace has no published agent; create one", param="assistant")
    v = agent.published
    if version and version != str(v.number):
        v = agent.versions.filter(number=int(version), published_at__isnull=False).first() if version.isdecimal() and len(version) < 9 else None
        if v is None:
            raise NotFound(f"agent {agent.id} has no published version {version[:20]!r}", param="version")

    def pick(stage: str) -> tuple[str, str]:
        if name := getattr(v, f"{stage}_engine"):
            return name, getattr(v, f"{stage}_model")
        return settings.VOICE_ENGINES[stage]

    stt, llm, tts = pick("stt"), pick("llm"), pick("tts")
    return AgentConfig(agent.id, v.number, v.instructions, v.voice, v.language, v.greeting, *stt, *llm, *tts, v.turn_detection, _callable(v.tools, workspace.tool_hosts), v.limits,
                       {**settings.VOICE_FALLBACKS, **by_stage(workspace.fallbacks), **by_stage(v.fallbacks)})  # fmt: skip


def _callable(tools: list[dict[str, Any]], hosts: list[str]) -> list[dict[str, Any]]:
    """Without those on hosts the workspace has since taken off its list."""
    return [tool for tool in tools if "url" not in tool or urlsplit(tool["url"]).hostname in hosts]
