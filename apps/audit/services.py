from __future__ import annotations

from typing import Any

from apps.audit.models import AuditEntry


def audit_record(*, actor: str, action: str, target: str, **details: Any) -> AuditEntry:
    """Write one line, in the caller's transaction and schema."""
    return AuditEntry.objects.create(actor=actor, action=action, target=target, details=details)
