from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from apps.conversations.models import VoiceSession
from apps.tenants.context import bound
from apps.tenants.models import Tenant

COLUMNS = ("id", "agent_id", "agent_version", "key_id", "client", "opened_at")


def live_sessions(tenants: Iterable[Tenant], held: Callable[[str], set[str]]) -> list[dict[str, Any]]:
    """Rows of sessions that a gateway holds now, newest first in each tenant. `held(tenant id)`: the ids of those."""
    found = []
    for tenant in tenants:
        if ids := held(tenant.id):
            with bound(tenant):
                rows = VoiceSession.objects.filter(pk__in=ids, state=VoiceSession.State.LIVE).values(*COLUMNS)
                found += [{**row, "tenant_id": tenant.id, "tenant_slug": tenant.slug} for row in rows]
    return found
