"""Who is doing it, and what that one may do: every service that changes something takes an `actor` and asks it first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from apps.common.errors import Forbidden

PERMISSIONS = frozenset({
    "agents.read", "agents.write", "sessions.read", "sessions.end", "keys.read", "keys.write", "usage.read", "team.read", "team.write",
    "audit.read", "billing.read", "billing.write", "tenant.read", "tenant.write", "tenant.own", "talk", "platform",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Actor:
    """`id`: usr_…, key_… or "system". `key_id`: the key it came with. Permissions count in one tenant only."""

    id: str
    permissions: frozenset[str] = field(default_factory=frozenset)
    tenant_id: str = ""
    key_id: str = ""
    name: str = ""

    def can(self, permission: str) -> bool:
        """Raises ValueError on a permission nobody knows, so that a misspelt one never passes for refused."""
        if permission not in PERMISSIONS:
            raise ValueError(f"permission {permission!r} is not one of {sorted(PERMISSIONS)}")
        return permission in self.permissions

    def require(self, permission: str, tenant_id: str = "") -> None:
        """Raises Forbidden without the permission, or when it counts in another tenant."""
        if not self.can(permission) or tenant_id and self.tenant_id and tenant_id != self.tenant_id:
            raise Forbidden(f"You need the permission {permission} for this; ask an owner of the workspace.")


SYSTEM = Actor("system", PERMISSIONS, name="system")  # commands, the launcher, scheduled work


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from, for the audit."""

    ip: str = ""
    request_id: str = ""


_origin: ContextVar[Origin] = ContextVar("origin", default=Origin())


def origin() -> Origin:
    return _origin.get()


@contextmanager
def coming_from(where: Origin) -> Iterator[None]:
    token = _origin.set(where)
    try:
        yield
    finally:
        _origin.reset(token)
