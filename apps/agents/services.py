from __future__ import annotations

from typing import Any

from django.db import transaction

from apps.agents.models import Agent, AgentVersion

DEFAULT_INSTRUCTIONS = "You are a friendly voice assistant. Answer briefly."


@transaction.atomic
def agent_create(*, name: str, instructions: str = DEFAULT_INSTRUCTIONS, is_default: bool = False, **fields: Any) -> Agent:
    """An agent with its first version, published."""
    agent = Agent.objects.create(name=name, is_default=is_default)
    agent.published = AgentVersion.objects.create(agent=agent, number=1, instructions=instructions, **fields)
    agent.save(update_fields=["published"])
    return agent
