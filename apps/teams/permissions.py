"""Role -> permissions, in one table."""

from __future__ import annotations

from apps.teams.models import Role

EVERYONE = {"agents.read", "sessions.read"}
DEVELOPER = EVERYONE | {"agents.write", "keys.read", "keys.write", "usage.read"}
PERMISSIONS: dict[str, set[str]] = {
    Role.VIEWER: EVERYONE,
    Role.BILLING: EVERYONE | {"usage.read", "billing.read", "billing.write"},
    Role.DEVELOPER: DEVELOPER,
    Role.ADMIN: DEVELOPER | {"team.read", "team.write", "audit.read", "billing.read"},
    Role.OWNER: DEVELOPER | {"team.read", "team.write", "audit.read", "billing.read", "billing.write", "tenant.write"},
}


def allowed(role: str, permission: str) -> bool:
    return permission in PERMISSIONS.get(role, set())
