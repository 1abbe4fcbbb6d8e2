"""What the gateway writes about a session; each call is safe to repeat."""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from apps.audit.services import audit_record
from apps.common.actors import Actor
from apps.common.errors import Conflict
from apps.conversations.models import Item, TurnTrace, VoiceSession
from apps.tenants.services import end_sessions


def voice_session_open(*, session_id: str, agent_id: str, agent_version: int, key_id: str, model: str, client: str) -> None:
    row = VoiceSession(id=session_id, agent_id=agent_id, agent_version=agent_version, key_id=key_id, model=model[:120], client=client[:200])
    VoiceSession.objects.bulk_create([row], ignore_conflicts=True)


def tracing_save(*, session_id: str, tracing: dict[str, Any]) -> None:
    """`tracing`: {workflow_name, group_id, metadata}, each where the client told it."""
    VoiceSession.objects.filter(pk=session_id).update(tracing=without_nul(tracing))


def without_nul(value: Any) -> Any:
    """PostgreSQL keeps no NUL characters in text or JSON."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {without_nul(k): without_nul(v) for k, v in value.items()}
    return [without_nul(v) for v in value] if isinstance(value, list) else value


def item_save(*, session_id: str, item: dict[str, Any], previous_item_id: str | None, deleted: bool = False) -> None:
    item = without_nul(item)
    row = Item(session_id=session_id, item_id=item["id"], previous_item_id=previous_item_id or "", type=item["type"], role=item.get("role", ""),
               item=item, deleted=deleted)  # fmt: skip
    changed = ["previous_item_id", "type", "role", "item", "deleted"]
    Item.objects.bulk_create([row], update_conflicts=True, unique_fields=["session", "item_id"], update_fields=changed)


def trace_save(*, session_id: str, turn: dict[str, Any]) -> bool:
    """`turn`: the fields of voice.core.effects.RecordTurn as a dict. False when it was there already."""
    return TurnTrace.objects.get_or_create(turn_id=turn["turn_id"], defaults={
        "session_id": session_id, "response_id": turn["response_id"], "user_item_id": turn["user_item_id"] or "", "status": turn["status"],
        "reason": turn["reason"], "segments": [list(s) for s in turn["segments"]], "overlapped": [list(s) for s in turn.get("overlapped", ())],
        "first_ms": sum(ms for _, ms in turn["segments"]),
    })[1]  # fmt: skip


def traces(turn_ids: list[str]) -> list[dict[str, str]]:
    """turn_id, status and reason of those that are there."""
    return list(TurnTrace.objects.filter(turn_id__in=turn_ids).values("turn_id", "status", "reason"))


def session_ms_advance(*, session_id: str, session_ms: int) -> int:
    """The session has lasted so long at least; by how much more than was known. One statement: two who tell the same add nothing."""
    with connection.cursor() as cursor:
        cursor.execute(_ADVANCE, [session_ms, session_id])
        row = cursor.fetchone()
    return row[0] if row else 0


_ADVANCE = """
UPDATE conversations_voicesession AS session SET session_ms = greatest(known.session_ms, %s)
FROM (SELECT id, session_ms FROM conversations_voicesession WHERE id = %s FOR UPDATE) AS known
WHERE session.id = known.id RETURNING session.session_ms - known.session_ms
"""


def voice_session_close(*, session_id: str, reason: str) -> bool:
    """False when it was closed already, or never opened."""
    live = VoiceSession.objects.filter(id=session_id, state=VoiceSession.State.LIVE)
    return live.update(state=VoiceSession.State.CLOSED, closed_at=timezone.now(), close_reason=reason[:60]) == 1


def voice_session_end(*, session: VoiceSession, actor: Actor) -> None:
    """Tell the gateway that holds it to end it. Raises Forbidden, Conflict."""
    actor.require("sessions.end")
    if session.state != VoiceSession.State.LIVE:
        raise Conflict(f"session {session.id} is over")
    with transaction.atomic():
        audit_record(actor=actor, action="session.ended", target=session.id)
        end_sessions(f"session.{session.id}", "session_ended", "The session was ended in the portal.")
