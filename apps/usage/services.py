from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.models import Sum

from apps.common.errors import BadRequest
from apps.conversations.services import trace_save, voice_session_close, voice_session_open
from apps.tenants.context import current
from apps.tenants.services import milestone
from apps.usage.models import Meter, UnbilledEntry, UsageEntry

LARGEST = 10**12  # units in one entry: 31 years of audio


def usage_record(*, session_id: str, turn_id: str, meters: dict[str, int], agent_id: str = "", key_id: str = "") -> None:
    """Write what a turn used, once: a second call with the same turn changes nothing. Zero is not written. Raises BadRequest."""
    _write(UsageEntry, session_id, turn_id, meters, agent_id, key_id)


def unbilled_record(*, session_id: str, turn_id: str, meters: dict[str, int], agent_id: str = "", key_id: str = "") -> None:
    """Write, apart from the ledger, what a turn cost us and the client never got. Raises BadRequest."""
    _write(UnbilledEntry, session_id, turn_id, meters, agent_id, key_id)


def _write(model, session_id: str, turn_id: str, meters: dict[str, int], agent_id: str, key_id: str) -> None:
    check_meters(meters)
    who = {"session_id": session_id, "turn_id": turn_id, "agent_id": agent_id, "key_id": key_id}
    model.objects.bulk_create([model(meter=m, quantity=q, **who) for m, q in meters.items() if q], ignore_conflicts=True)


def check_meters(meters: dict[str, int]) -> None:
    """Raises BadRequest for a meter we do not have, and for quantities that no turn can use."""
    for meter, quantity in meters.items():
        if meter not in Meter.values:
            raise BadRequest(f"no meter {meter[:40]!r}; there are {', '.join(Meter.values)}", param="meters")
        if isinstance(quantity, bool) or not isinstance(quantity, int) or not 0 <= quantity <= LARGEST:
            raise BadRequest(f"{meter}={quantity!r}: a whole number from 0 to {LARGEST}", param="meters")


def usage_totals() -> dict[str, int]:
    rows = UsageEntry.objects.values("meter").annotate(total=Sum("quantity"))
    return {row["meter"]: row["total"] for row in rows}


@transaction.atomic
def turn_record(*, session_id: str, turn: dict[str, Any], agent_id: str = "", key_id: str = "") -> None:
    """The turn's trace and its ledger entries, both or neither; idempotent by turn_id."""
    trace_save(session_id=session_id, turn=turn)
    if turn["status"] == "completed":
        reached("first_answer")
    who = {"session_id": session_id, "turn_id": turn["turn_id"], "agent_id": agent_id, "key_id": key_id}
    usage_record(meters=turn["usage"], **who)
    unbilled_record(meters=turn["unbilled"], **who)


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
def session_end(*, session_id: str, reason: str, session_ms: int, agent_id: str = "", key_id: str = "") -> None:
    """Close the session's row and write its duration to the ledger."""
    voice_session_close(session_id=session_id, reason=reason, session_ms=session_ms)
    usage_record(session_id=session_id, turn_id="", meters={"session_ms": session_ms}, agent_id=agent_id, key_id=key_id)
