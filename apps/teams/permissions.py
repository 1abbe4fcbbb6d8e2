"""Role -> permissions, in one table; pages show it as a matrix."""

from __future__ import annotations

from apps.accounts.models import User
from apps.common.actors import PERMISSIONS as KNOWN
from apps.common.actors import Actor
from apps.teams.models import Membership, Role

EVERYONE = {"agents.read", "sessions.read", "tenant.read"}
DEVELOPER = EVERYONE | {"agents.write", "keys.read", "keys.write", "usage.read", "talk", "sessions.end"}
ADMIN = DEVELOPER | {"team.read", "team.write", "audit.read", "billing.read", "tenant.write"}
PERMISSIONS: dict[str, set[str]] = {
    Role.OWNER: ADMIN | {"billing.write", "tenant.own"},
    Role.ADMIN: ADMIN,
    Role.DEVELOPER: DEVELOPER,
    Role.BILLING: EVERYONE | {"usage.read", "billing.read", "billing.write"},
    Role.VIEWER: EVERYONE,
}
WORDS = {
    "agents.read": "see agents", "agents.write": "change and publish agents", "sessions.read": "read sessions and transcripts",
    "sessions.end": "end live sessions", "keys.read": "see API keys", "keys.write": "make, rotate and revoke API keys",
    "usage.read": "see usage", "team.read": "see the team", "team.write": "invite, change roles, remove", "audit.read": "read the audit log",
    "billing.read": "see plan and invoices", "billing.write": "change plan and payment", "tenant.read": "see the workspace",
    "tenant.write": "change workspace settings", "tenant.own": "transfer or close the workspace", "talk": "talk to agents in the playground",
}  # fmt: skip
assert set(WORDS) == KNOWN - {"platform"}


def allowed(role: str, permission: str) -> bool:
    return permission in PERMISSIONS.get(role, set())


def actor_of(membership: Membership) -> Actor:
    """What a member may do in that tenant."""
    user = membership.user
    return Actor(user.id, frozenset(PERMISSIONS.get(membership.role, ())), membership.tenant_id, name=user.email)


def operator(user: User) -> Actor:
    """Staff with superuser rights run the platform. What a member may do is theirs only where they are members."""
    allowed_here = user.is_active and user.is_staff and user.is_superuser
    return Actor(user.id, KNOWN if allowed_here else frozenset(), name=user.email)


def matrix() -> list[tuple[str, list[bool]]]:
    """Rows for a page: (what, [role may it]) in the order of PERMISSIONS."""
    return [(words, [name in granted for granted in PERMISSIONS.values()]) for name, words in WORDS.items()]
