from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from apps.conversations.services import session_ms_advance, trace_save, traces, voice_session_close, voice_session_open
from apps.tenants.context import current
from apps.tenants.services import milestone
from apps.usage.ledger import check_meters, entries_write, unbilled_record
from apps.usage.models import UsageEntry
from apps.usage.reservations import release, within
from apps.usage.rollups import roll_soon

# The caller's, where it has one: who writes a batch gives all of it up after an error, and a savepoint would cost two round trips a call
one_transaction = transaction.atomic(savepoint=False)


@one_transaction
def usage_record(*, session_id: str, turn_id: str, meters: dict[str, int], agent_id: str = "", key_id: str = "", at: datetime | None = None,
                 unbilled: dict[str, int] | None = None) -> None:
    """Write what a turn used, once: a second call with the same turn changes nothing. A REST call is `session_id="req_…"`, `turn_id=""`.
    `at`: when it was used, at most now. `unbilled`: what the client never got; with it goes what a cap does not allow any more, so
    that the ledger never passes a cap. Raises BadRequest."""  # fmt: skip
    check_meters(meters)
    who = {"session_id": session_id, "turn_id": turn_id, "agent_id": agent_id, "key_id": key_id, "at": at}
    billed = within(session_id=session_id, units=meters)
    unbilled = dict(unbilled or {})
    for meter, units in meters.items():
        if beyond := units - billed[meter]:
            unbilled[meter] = unbilled.get(meter, 0) + beyond
    entries_write(meters=billed, **who)
    unbilled_record(meters=unbilled, **who)
    if not turn_id:
        release(session_id=session_id)
    roll_soon()


@one_transaction
def turn_record(*, session_id: str, turn: dict[str, Any], session_ms: int = 0, agent_id: str = "", key_id: str = "", at: datetime | None = None) -> None:
    """The turn's trace and its ledger entries, both or neither; idempotent by turn_id. `session_ms`: how long the session had lasted
    when the turn ended: the part that no entry holds yet is the turn's."""
    if not trace_save(session_id=session_id, turn=turn):
        return
    if turn["status"] == "completed":
        reached("first_answer")
    who = {"session_id": session_id, "turn_id": turn["turn_id"], "agent_id": agent_id, "key_id": key_id, "at": at}
    lasted = session_ms_advance(session_id=session_id, session_ms=session_ms)
    usage_record(meters=turn["usage"] | {"session_ms": lasted}, unbilled=turn["unbilled"], **who)


def turns_written(session_id: str, turn_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Those of these turns of a session that are there: their status, reason and usage (meter -> units)."""
    turns = {t["turn_id"]: {**t, "usage": {}} for t in traces(turn_ids)}
    for turn_id, meter, units in UsageEntry.objects.filter(session_id=session_id, turn_id__in=turns).values_list("turn_id", "meter", "quantity"):
        turns[turn_id]["usage"][meter] = units
    return turns


@one_transaction
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


@one_transaction
def session_end(*, session_id: str, reason: str, session_ms: int, agent_id: str = "", key_id: str = "", at: datetime | None = None) -> None:
    """Close the session's row; what it lasted after its last turn goes to the ledger, what it held and did not use is free. The first end
    counts: the ledger takes one, so another that says a later time must not move the row either."""
    if not voice_session_close(session_id=session_id, reason=reason):
        return
    lasted = session_ms_advance(session_id=session_id, session_ms=session_ms)
    usage_record(session_id=session_id, turn_id="", meters={"session_ms": lasted}, agent_id=agent_id, key_id=key_id, at=at)
