"""The areas of a workspace beside its pages, in one table. A new area is a new row; `pages` are the names of the routes that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse


@dataclass(frozen=True, slots=True)
class Area:
    group: str
    label: str
    route: str
    icon: str  # a symbol of static/portal/icons.svg
    permission: str
    pages: tuple[str, ...] = ()


AREAS = (
    Area("", "Overview", "overview", "home", "sessions.read"),
    Area("Build", "Talk", "playground", "talk", "talk"),
    Area("Build", "Agents", "agents", "agent", "agents.read", ("agent", "agent-compare")),
    Area("Build", "API keys", "keys", "key", "keys.read", ("key-rotate",)),
    Area("Build", "Quickstart", "quickstart", "quickstart", "sessions.read"),
    Area("Watch", "Sessions", "sessions", "sessions", "sessions.read", ("session",)),
    Area("Watch", "Usage", "usage", "usage", "usage.read"),
    Area("Watch", "Audit log", "audit", "audit", "audit.read"),
    Area("Manage", "Billing", "billing", "billing", "billing.read", ("invoice", "invoice-line", "card-return", "card-new")),
    Area("Manage", "Team", "team", "team", "team.read"),
    Area("Manage", "Settings", "settings", "settings", "tenant.read", ("issuer",)),
)


def areas(request: HttpRequest) -> dict:
    """Context of every page: [(group, [(area, address, is it this one)])] of what the member may see; empty outside a workspace."""
    actor, tenant = getattr(request, "actor", None), getattr(request, "tenant", None)
    if actor is None or tenant is None:
        return {}
    here = request.resolver_match.url_name if request.resolver_match else ""
    groups: dict[str, list] = {}
    for area in AREAS:
        if actor.can(area.permission):
            groups.setdefault(area.group, []).append((area, reverse(area.route, args=[tenant.slug]), here == area.route or here in area.pages))
    return {"areas": list(groups.items())}
