"""Agents: made from a template, edited as a draft, published, rolled back."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.agents.models import Agent, AgentVersion
from apps.audit.services import audit_record
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict, NotFound
from apps.common.fallbacks import check_fallbacks

DEFAULT_INSTRUCTIONS = "You are a friendly voice assistant. Answer briefly."
FIELDS = ("instructions", "greeting", "voice", "language", "stt_engine", "stt_model", "llm_engine", "llm_model", "tts_engine", "tts_model",
          "turn_detection", "tools", "limits", "fallbacks")  # fmt: skip
TEXT_CHARS = {"instructions": 20_000, "greeting": 1_000, "voice": 40, "language": 16,
              **{f"{stage}_{part}": chars for stage in ("stt", "llm", "tts") for part, chars in (("engine", 40), ("model", 120))}}  # fmt: skip
# Ours, beside the protocol's turn_detection: begin answers at a short silence; "mm-hmm" does not stop an answer. Both on by default
OWN_TURN_TAKING = ("preemptive", "backchannels")
LIMITS = {"max_session_seconds": (10, 24 * 3600), "max_output_tokens": (1, 4096)}


def _tool(name: str, about: str, **parameters: Any) -> dict[str, Any]:
    properties = {k: {"type": "string", **v} for k, v in parameters.items()}
    return {"type": "function", "name": name, "description": about,
            "parameters": {"type": "object", "properties": properties, "required": list(properties)}}  # fmt: skip


TEMPLATES: dict[str, dict[str, Any]] = {
    "assistant": {"title": "Assistant", "about": "Answers briefly, does sums, knows your name.", "instructions": DEFAULT_INSTRUCTIONS},
    "front-desk": {
        "title": "Front desk", "about": "Takes bookings for a restaurant.",
        "instructions": "You are the front desk of a restaurant. Answer briefly and book tables.",
        "tools": [_tool("book_table", "Book a table.", people={"description": "how many"}, day={"description": "day of the week"})],
    },
    "smart-home": {
        "title": "Smart home", "about": "Switches lights.", "instructions": "You are a friendly voice assistant for the home. Answer briefly.",
        "tools": [_tool("set_light", "Switch a light.", room={}, state={"enum": ["on", "off"]})],
    },
    "weather": {
        "title": "Weather line", "about": "Tells the weather with your function.", "instructions": "You are a friendly weather line. Answer briefly.",
        "tools": [_tool("get_weather", "The weather of a city.", city={})],
    },
}  # fmt: skip


def _bad(name: str, what: str) -> BadRequest:
    return BadRequest(f"{name}: {what}", param=name)


def check_fields(fields: dict[str, Any], tool_hosts: list[str]) -> dict[str, Any]:
    """The fields of a version, checked. Raises BadRequest naming the field and what is expected."""
    for name, value in fields.items():
        if name not in FIELDS:
            raise _bad(name[:40], f"expected one of {', '.join(FIELDS)}")
        kind = {"turn_detection": dict, "tools": list, "limits": dict, "fallbacks": dict}.get(name, str)
        if not isinstance(value, kind):
            raise _bad(name, f"expected {kind.__name__}")
        if kind is str and ("\0" in value or len(value) > TEXT_CHARS[name]):
            raise _bad(name, f"at most {TEXT_CHARS[name]} characters, none of them NUL")
        if kind is not str and "\\u0000" in json.dumps(value):
            raise _bad(name, "holds a NUL character")
    for stage in ("stt", "llm", "tts"):
        engine = fields.get(f"{stage}_engine")
        if engine and engine not in settings.VOICE_ENGINE_NAMES[stage]:
            raise _bad(f"{stage}_engine", f"{engine!r} is not installed; there are {', '.join(sorted(settings.VOICE_ENGINE_NAMES[stage]))}")
    check_fallbacks(fields.get("fallbacks") or {})
    _check_turn_detection(fields.get("turn_detection") or {})
    for name, value in (fields.get("limits") or {}).items():
        low, high = LIMITS.get(name, (0, -1))
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _bad("limits", f"{name[:40]}={str(value)[:40]}: expected {', '.join(f'{n} of {a}-{b}' for n, (a, b) in LIMITS.items())}")
    check_tools(fields.get("tools") or [], tool_hosts)
    return fields


def _check_turn_detection(value: dict[str, Any]) -> None:
    if not value:
        return
    for name in OWN_TURN_TAKING:
        if not isinstance(value.get(name, True), bool):
            raise _bad("turn_detection", f"{name}={str(value[name])[:40]}: expected true or false")
    value = {"type": "server_vad", **{k: v for k, v in value.items() if k not in OWN_TURN_TAKING}}
    kinds = {"server_vad": {"threshold": (0, 1), "prefix_padding_ms": (0, 5000), "silence_duration_ms": (100, 5000), "idle_timeout_ms": (5000, 30000)},
             "semantic_vad": {}}  # fmt: skip
    if value.get("type") not in kinds:
        raise _bad("turn_detection", f"type: expected one of {', '.join(kinds)}")
    for name, (low, high) in kinds[value["type"]].items():
        number = value.get(name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high):
            raise _bad("turn_detection", f"{name}={str(number)[:40]}: expected {low} to {high}")
    if value.get("eagerness", "auto") not in ("low", "medium", "high", "auto"):
        raise _bad("turn_detection", "eagerness: expected low, medium, high or auto")
    allowed = {"type", "eagerness", "create_response", "interrupt_response", *kinds[value["type"]]}
    if unknown := set(value) - allowed:
        raise _bad("turn_detection", f"unknown key {sorted(unknown)[0][:40]}")


def check_tools(tools: list[Any], tool_hosts: list[str]) -> None:
    """Functions the client runs, or `url` ones on hosts the workspace allows. Raises BadRequest."""
    if len(tools) > 64:
        raise _bad("tools", "at most 64")
    names = set()
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", tool["name"]):
            raise _bad("tools", "each is an object with a name of 1-64 of A-Z a-z 0-9 _ -")
        if tool.get("type", "function") != "function":
            raise _bad("tools", f"type {str(tool['type'])[:40]!r}: only function")
        if tool["name"] in names:
            raise _bad("tools", f"{tool['name']} is there twice")
        names.add(tool["name"])
        if not isinstance(tool.get("parameters", {}), dict) or not isinstance(tool.get("description", ""), str):
            raise _bad("tools", f"{tool['name']}: parameters is a JSON schema object, description a text")
        if unknown := set(tool) - {"type", "name", "description", "parameters", "url"}:
            raise _bad("tools", f"{tool['name']}: unknown key {sorted(unknown)[0][:40]}")
        if "url" in tool:
            check_tool_url(tool["url"], tool_hosts)


def check_tool_url(url: Any, tool_hosts: list[str]) -> None:
    """HTTPS, a host the workspace allows, the usual port, no user, no address literal. Names are resolved and checked again when called."""
    parts = urlsplit(url) if isinstance(url, str) and url.isprintable() else None
    try:
        good = parts and parts.scheme == "https" and parts.hostname and parts.port in (None, 443) and not parts.username and not parts.password
    except ValueError:
        good = False
    if not good:
        raise _bad("tools", f"url {str(url)[:80]!r}: expected https://host/… without user or port")
    try:
        ipaddress.ip_address(parts.hostname)
    except ValueError:
        pass
    else:
        raise _bad("tools", f"url {url[:80]!r}: an address is not a host name")
    if parts.hostname not in tool_hosts:
        raise _bad("tools", f"host {parts.hostname!r} is not in this workspace's list of tool hosts (settings)")


def check_name(name: str) -> str:
    if not name.strip() or "\0" in name or len(name) > 80:
        raise _bad("name", "1 to 80 characters")
    return name.strip()


@transaction.atomic
def agent_create(*, name: str, actor: Actor, instructions: str = DEFAULT_INSTRUCTIONS, is_default: bool = False, tool_hosts: list[str] | None = None,
                 **fields: Any) -> Agent:  # fmt: skip
    """An agent with its first version, published. Raises Forbidden, BadRequest."""
    actor.require("agents.write")
    fields = check_fields({"instructions": instructions, **fields}, tool_hosts or [])
    agent = Agent.objects.create(name=check_name(name), is_default=is_default)
    agent.published = AgentVersion.objects.create(agent=agent, number=1, published_at=timezone.now(), published_by=actor.id, **fields)
    agent.save(update_fields=["published"])
    audit_record(actor=actor, action="agent.created", target=agent.id, after={"name": agent.name})
    return agent


def template_fields(template: str) -> dict[str, Any]:
    """Raises BadRequest."""
    if template not in TEMPLATES:
        raise BadRequest(f"template {template[:40]!r}: expected one of {', '.join(TEMPLATES)}", param="template")
    return {k: v for k, v in TEMPLATES[template].items() if k in FIELDS}


def _lock(agent: Agent) -> Agent:
    found = Agent.objects.select_for_update().filter(pk=agent.pk, deleted_at=None).first()
    if found is None:
        raise NotFound(f"no agent {agent.pk}")
    return found


def draft_of(agent: Agent) -> AgentVersion | None:
    return agent.versions.filter(published_at=None).first()


@transaction.atomic
def draft_save(*, agent: Agent, actor: Actor, tool_hosts: list[str], **fields: Any) -> AgentVersion:
    """Change the draft; the first change makes one of what is published. Sessions do not see it. Raises Forbidden, BadRequest."""
    actor.require("agents.write")
    check_fields(fields, tool_hosts)
    agent = _lock(agent)
    draft = draft_of(agent)
    if draft is None:
        base = agent.published
        last = agent.versions.order_by("-number").values_list("number", flat=True).first() or 0
        draft = AgentVersion(agent=agent, number=last + 1, **({f: getattr(base, f) for f in FIELDS} if base else {}))
    before = {f: getattr(draft, f) for f in fields}
    for name, value in fields.items():
        setattr(draft, name, value)
    draft.save()
    audit_record(actor=actor, action="agent.draft_saved", target=agent.id, before=before, after=fields)
    return draft


@transaction.atomic
def draft_discard(*, agent: Agent, actor: Actor) -> None:
    actor.require("agents.write")
    agent = _lock(agent)
    if not agent.versions.filter(published_at=None).delete()[0]:
        raise Conflict("there is no draft")
    audit_record(actor=actor, action="agent.draft_discarded", target=agent.id)


@transaction.atomic
def agent_publish(*, agent: Agent, actor: Actor) -> AgentVersion:
    """The draft is what new sessions get from now on. Raises Conflict without one."""
    actor.require("agents.write")
    agent = _lock(agent)
    draft = draft_of(agent)
    if draft is None:
        raise Conflict("there is no draft to publish")
    draft.published_at, draft.published_by = timezone.now(), actor.id
    draft.save(update_fields=["published_at", "published_by"])
    _point(agent, draft, actor, "agent.published")
    return draft


@transaction.atomic
def agent_roll_back(*, agent: Agent, number: int, actor: Actor) -> AgentVersion:
    """New sessions get that earlier version. Raises NotFound."""
    actor.require("agents.write")
    agent = _lock(agent)
    version = version_get(agent, number)
    if version.published_at is None:
        raise Conflict(f"version {number} is a draft; publish it")
    _point(agent, version, actor, "agent.rolled_back")
    return version


def _point(agent: Agent, version: AgentVersion, actor: Actor, action: str) -> None:
    before = agent.published.number if agent.published else None
    agent.published = version
    agent.save(update_fields=["published"])
    audit_record(actor=actor, action=action, target=agent.id, before={"version": before}, after={"version": version.number})


def version_get(agent: Agent, number: int) -> AgentVersion:
    found = agent.versions.filter(number=number).first() if 0 < number < 2**31 else None
    if found is None:
        raise NotFound(f"agent {agent.id} has no version {number}", param="number")
    return found


@transaction.atomic
def agent_update(*, agent: Agent, actor: Actor, name: str | None = None, is_default: bool | None = None) -> Agent:
    """Rename, or make it the workspace's default."""
    actor.require("agents.write")
    agent = _lock(agent)
    before = {"name": agent.name, "is_default": agent.is_default}
    if name is not None:
        agent.name = check_name(name)
    if is_default:
        Agent.objects.exclude(pk=agent.pk).filter(is_default=True).update(is_default=False)
        agent.is_default = True
    elif is_default is False and agent.is_default:
        raise Conflict("make another agent the default instead")
    agent.save()
    audit_record(actor=actor, action="agent.updated", target=agent.id, before=before, after={"name": agent.name, "is_default": agent.is_default})
    return agent


@transaction.atomic
def agent_delete(*, agent: Agent, actor: Actor) -> None:
    """No session gets it any more; its versions stay for the sessions that had it. Raises Conflict for the default."""
    actor.require("agents.write")
    agent = _lock(agent)
    if agent.is_default:
        raise Conflict("this is the workspace's default agent; make another one the default first")
    agent.deleted_at = timezone.now()
    agent.save(update_fields=["deleted_at"])
    audit_record(actor=actor, action="agent.deleted", target=agent.id, before={"name": agent.name})


def versions_compare(one: AgentVersion, other: AgentVersion) -> list[dict[str, Any]]:
    """What differs: {field, lines} with lines as unified diff without its head."""
    found = []
    for name in FIELDS:
        a, b = (v if isinstance(v := getattr(version, name), str) else json.dumps(v, indent=1, sort_keys=True) for version in (one, other))
        if a != b:
            lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=2))[3:]
            found.append({"field": name, "lines": lines})
    return found
