"""Engines that take over and the resume window: chosen on the pages and over the API, and what sessions make of them."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.conf import settings

from apps.agents.models import Agent
from apps.agents.selectors import agent_for_session
from apps.agents.services import agent_publish, draft_of, draft_save
from apps.audit.models import AuditEntry
from apps.common.actors import SYSTEM
from apps.teams.models import Role
from apps.tenants.context import bound, in_tenant
from apps.tenants.services import tenant_update
from apps.usage.limits import tenant_values
from tests.e2e.client import Client
from tests.integration.test_api import Api, api, tenant  # noqa: F401
from tests.integration.test_portal import member

OTHER = {"engine": "openai", "model": "backup"}


def test_a_workspace_chooses_what_takes_over_and_how_long_a_line_may_be_lost(tenant):  # noqa: F811
    admin, page = member(tenant, Role.ADMIN), f"/t/{tenant.slug}/settings"
    form = {"name": "Api", "resume_seconds": "30", "llm_fallback": "openai", "llm_fallback_model": "backup"}
    assert admin.post(page, form).status_code == 302
    shown = admin.get(page).content.decode()
    assert '<option value="openai" selected>' in shown and 'value="backup"' in shown and 'value="30"' in shown
    tenant.refresh_from_db()
    assert tenant.fallbacks == {"llm": OTHER} and tenant_values(tenant)["resume_seconds"] == 30
    with bound(tenant):
        assert agent_for_session().fallbacks == {**settings.VOICE_FALLBACKS, "llm": ["openai", "backup"]}
        line = AuditEntry.objects.filter(action="tenant.updated").latest("id")
    assert line.after["fallbacks"] == {"llm": OTHER} and line.after["resume_seconds"] == 30
    for wrong in ({"llm_fallback": "gpt-9"}, {"resume_seconds": "9"}, {"resume_seconds": "3601"}, {"resume_seconds": "soon"}, {"tts_fallback_model": "x" * 121}):
        assert admin.post(page, {**form, **wrong}).status_code == 200  # the form again, with what is wrong
    tenant.refresh_from_db()
    assert tenant.fallbacks == {"llm": OTHER} and tenant.resume_seconds == 30
    tenant.entitlements = {"resume_seconds": 20}
    assert tenant_values(tenant)["resume_seconds"] == 20  # not longer than the plan says


def test_an_agent_chooses_its_own(tenant):  # noqa: F811
    developer = member(tenant, Role.DEVELOPER)
    with bound(tenant):
        agent = Agent.objects.get()
    tenant_update(tenant=tenant, actor=SYSTEM, fallbacks={"llm": OTHER, "tts": {"engine": "espeak", "model": ""}})
    form = {"voice": "ash", "language": "en", "llm_fallback": "ctranslate2", "llm_fallback_model": "embedded-closed-vocab"}
    page = f"/t/{tenant.slug}/agents/{agent.id}"
    assert developer.post(page, form).status_code == 302
    assert 'value="embedded-closed-vocab"' in developer.get(page).content.decode()
    with bound(tenant):
        assert draft_of(agent).fallbacks == {"llm": {"engine": "ctranslate2", "model": "embedded-closed-vocab"}}
        agent_publish(agent=agent, actor=SYSTEM)
        found = agent_for_session().fallbacks
    assert found["llm"] == ["ctranslate2", "embedded-closed-vocab"] and found["tts"] == ["espeak", ""]


@pytest.mark.parametrize("fallbacks", [[], {"vad": OTHER}, {"llm": "openai"}, {"llm": {**OTHER, "url": "x"}}, {"llm": {"engine": "gpt-9"}},
                                       {"llm": {"engine": "openai", "model": "x" * 121}}])  # fmt: skip
def test_the_api_takes_and_refuses_the_same(api, fallbacks):  # noqa: F811
    assert api("patch", "tenant", {"fallbacks": {"llm": OTHER}, "resume_seconds": 600}).json()["resume_seconds"] == 600
    answer = api("patch", "tenant", {"fallbacks": fallbacks})
    assert answer.status_code in (400, 422) and "fallbacks" in answer.content.decode()
    assert api("patch", "tenant", {"resume_seconds": 5}).status_code == 400
    assert api("patch", "tenant", {"resume_seconds": None}).json()["resume_seconds"] is None
    assert api("get", "tenant").json()["fallbacks"] == {"llm": OTHER}


async def test_what_takes_over_answers_within_five_seconds(stack):
    """The workspace's own language model cannot be reached."""
    tenant, key = await asyncio.to_thread(stack.new_tenant, "fallback")  # noqa: F811

    def set_up() -> None:
        agent = Agent.objects.first()
        draft_save(agent=agent, actor=SYSTEM, tool_hosts=[], llm_engine="openai", llm_model="nowhere")
        agent_publish(agent=agent, actor=SYSTEM)

    await in_tenant(tenant, set_up)
    engine, model = settings.VOICE_ENGINES["llm"]
    await asyncio.to_thread(tenant_update, tenant=tenant, actor=SYSTEM, fallbacks={"llm": {"engine": engine, "model": model}}, resume_seconds=40)
    async with Client(stack.realtime, key) as client:
        assert client.events[0]["resumption"]["window_s"] == 40
        began = time.monotonic()
        await client.type("what is seven plus five")
        done = await client.answer()
        assert done["status"] == "completed" and time.monotonic() - began < 5
        assert "twelve" in done["output"][0]["content"][0]["transcript"].lower()
