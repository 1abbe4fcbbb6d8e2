from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Sum

from apps.conversations.services import trace_save, voice_session_close, voice_session_open
from apps.tenants.context import current
from apps.tenants.services import milestone
from apps.usage.models import UsageEntry


def usage_record(*, session_id: str, turn_id: str, meters: dict[str, int]) -> None:
    """Write what a turn used, once: a second call with the same turn changes nothing. Zero is not written."""
    UsageEntry.objects.bulk_create(
        [UsageEntry(session_id=session_id, turn_id=turn_id, meter=m, quantity=q) for m, q in meters.items() if q > 0], ignore_conflicts=True
    )


def usage_totals() -> dict[str, int]:
    rows = UsageEntry.objects.values("meter").annotate(total=Sum("quantity"))
    return {row["meter"]: row["total"] for row in rows}


@transaction.atomic
def turn_record(*, session_id: str, turn: dict[str, Any]) -> None:
    """The turn's trace and its ledger entries, both or neither; idempotent by turn_id."""
    trace_save(session_id=session_id, turn=turn)
    if turn["status"] == "completed":
        reached("first_answer")
    usage_record(session_id=session_id, turn_id=turn["turn_id"], meters=turn["usage"])


@transaction.atomic
def session_open(*, session_id: str, **fields: Any) -> None:
    """Write the session's row; the tenant's first is a milestone."""
    voice_session_open(session_id=session_id, **fields)
    reached("first_session")


_reached: set[tuple[str, str]] = set()  # what this process knows to be noted


def reached(name: str) -> None:
    """Note a milestone of the bound tenant, once."""
    tenant_id = current().tenant_id
    if (tenant_id, name) not in _reached:
        milestone(tenant_id=tenant_id, name=name)
        transaction.on_commit(lambda: _reached.add((tenant_id, name)))


@transaction.atomic
def session_end(*, session_id: str, reason: str, session_ms: int) -> None:
    """Close the session's row and write its duration to the ledger."""
    voice_session_close(session_id=session_id, reason=reason, session_ms=session_ms)
    usage_record(session_id=session_id, turn_id="", meters={"session_ms": session_ms})
