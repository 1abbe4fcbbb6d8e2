"""Stored agents as a session's settings: `prompt.id`, or an agent's id as `model`, in an event is looked up before the session sees the event.

Only this connection's reading waits for the database, and only for an agent it has not named before.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseError

from voice.core.settings import prompt_key, turn_taking
from voice.gateway import auth

if TYPE_CHECKING:
    from voice.gateway.live import Live

log = logging.getLogger("voice.gateway")
EVENTS = {"session.update": "session", "response.create": "response"}
MOST = 50  # agents one session may name
LOOK_UP_S = 5
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def patch(agent: auth.AgentConfig) -> dict[str, Any]:
    """What naming this agent sets."""
    heard = {"turn_detection": turn_taking(agent.turn_detection)["turn_detection"]}
    return {"instructions": agent.instructions, "tools": client_tools(agent), "audio": {"input": heard, "output": {"voice": agent.voice}},
            "server_tools": server_tools(agent)}  # fmt: skip


def client_tools(agent: auth.AgentConfig) -> list[dict[str, Any]]:
    return [t for t in agent.tools if "url" not in t]


def server_tools(agent: auth.AgentConfig) -> dict[str, dict[str, Any]]:
    """Those the gateway calls: name -> {url, tool}; what the language model is told of them does not hold the URL."""
    return {t["name"]: {"url": t["url"], "tool": {"type": "function", **{k: t[k] for k in ("name", "description", "parameters") if k in t}}}
            for t in agent.tools if "url" in t}  # fmt: skip


def pipeline(agent: auth.AgentConfig) -> dict[str, str]:
    return {f"{stage}_{what}": getattr(agent, f"{stage}_{what}") for stage in ("stt", "llm", "tts") for what in ("engine", "model")}


async def learn(live: Live, event: dict[str, Any]) -> None:
    """Make the agents an event names known to the session; one that cannot be found is refused by the session itself."""
    settings = event.get(EVENTS[event["type"]])
    known = live.session.context.config
    for prompt in _named(settings) if isinstance(settings, dict) else ():
        key = prompt_key(prompt)
        if key in known.prompts or len(known.prompts) >= MOST:
            continue
        try:
            agent = await asyncio.wait_for(auth.find_agent(live.place.principal.tenant, prompt["id"], str(prompt.get("version") or "")), LOOK_UP_S)
        except (DatabaseError, OSError, TimeoutError) as error:
            log.warning("agent %s: %s", prompt["id"][:40], type(error).__name__)
            continue
        if agent is not None:
            known.prompts[key] = patch(agent)
            known.pipelines[agent.agent_id] = pipeline(agent)


def _named(settings: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    if isinstance(prompt := settings.get("prompt"), dict) and isinstance(prompt.get("id"), str) and _ID.fullmatch(prompt["id"]):
        found.append(prompt)
    if isinstance(model := settings.get("model"), str) and model.startswith("agt_") and _ID.fullmatch(model):
        found.append({"id": model})
    return found
