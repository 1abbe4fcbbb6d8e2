from datetime import date, datetime
from typing import Any, Literal

from django.http import HttpResponse
from ninja import Field, Router

from apps.api.v1.base import Limit, Page, Schema, answers, file_answer, needs, page
from apps.audit.services import audit_csv, audit_filter, audit_verify
from apps.common.errors import NotFound
from apps.conversations.models import VoiceSession
from apps.conversations.services import voice_session_end

router = Router()


class SessionOut(Schema):
    id: str
    agent_id: str
    agent_version: int
    key_id: str
    model: str
    client: str
    tracing: dict[str, Any] = Field(description="what the client files it under: workflow_name, group_id, metadata")
    state: str
    opened_at: datetime
    closed_at: datetime | None
    close_reason: str
    session_ms: int


class Turn(Schema):
    turn_id: str
    response_id: str
    status: str
    reason: str
    segments: list[Any]
    overlapped: list[Any]
    first_ms: float
    created_at: datetime


class SessionDetail(SessionOut):
    items: list[dict[str, Any]]
    turns: list[Turn]


class ItemOut(Schema):
    item_id: str
    previous_item_id: str
    created_at: datetime
    item: dict[str, Any]


class AuditOut(Schema):
    id: str
    seq: int
    at: datetime
    actor: str
    key_id: str
    ip: str
    request_id: str
    action: str
    target: str
    before: dict[str, Any]
    after: dict[str, Any]
    previous: str
    digest: str


class Chain(Schema):
    lines: int
    ok: bool
    problem: str


def _session(session_id: str) -> VoiceSession:
    found = None if "\0" in session_id else VoiceSession.objects.filter(pk=session_id).first()
    if found is None:
        raise NotFound(f"no session {session_id[:60]!r}")
    return found


@router.get("sessions", response=answers(200, Page[SessionOut]), summary="Sessions, newest first")
@needs("sessions.read")
def sessions(request, limit: int = Limit(), after: str | None = None, state: Literal["", "live", "closed"] = "", agent_id: str = "", key_id: str = ""):
    """Only those in that state, of that agent, by that key."""
    wanted = {"state": state, "agent_id": agent_id, "key_id": key_id}
    rows = VoiceSession.objects.filter(**{n: v.replace("\0", "")[:64] for n, v in wanted.items() if v})
    return 200, page(rows, order="-opened_at", after=after, limit=limit)


@router.get("sessions/{session_id}", response=answers(200, SessionDetail), summary="A session with its first 1000 items and turns")
@needs("sessions.read")
def session(request, session_id: str):
    row = _session(session_id)
    items = [i.item for i in row.items.filter(deleted=False).order_by("id")[:1000]]
    return 200, {**SessionOut.from_orm(row).dict(), "items": items, "turns": list(row.turns.all()[:1000])}


@router.get("sessions/{session_id}/items", response=answers(200, Page[ItemOut]), summary="Its items in the order they came")
@needs("sessions.read")
def items(request, session_id: str, limit: int = Limit(), after: str | None = None):
    return 200, page(_session(session_id).items.filter(deleted=False), order="created_at", after=after, limit=limit)


@router.post("sessions/{session_id}/end", response=answers(204), summary="End a live session")
@needs("sessions.end")
def session_end(request, session_id: str):
    voice_session_end(session=_session(session_id), actor=request.actor)
    return 204, None


@router.get("audit", response=answers(200, Page[AuditOut]), summary="The audit log, newest first")
@needs("audit.read")
def audit(request, limit: int = Limit(), after: str | None = None, action: str = "", actor: str = "", target: str = "", ip: str = "",
          since: date | None = None, until: date | None = None):
    """Lines whose fields begin with these; `since` and `until` are days in UTC, both inclusive."""
    return 200, page(_filtered(action, actor, target, ip, since, until), order="-seq", after=after, limit=limit)


EXPORTED = 100_000  # lines of a CSV


def _filtered(action: str, actor: str, target: str, ip: str, since: date | None, until: date | None):
    filters = {n: v.replace("\0", "")[:60] for n, v in (("action", action), ("actor", actor), ("target", target), ("ip", ip))}
    return audit_filter(**filters, since=since.isoformat() if since else "", until=until.isoformat() if until else "")


@router.get("audit/csv", response=answers(200), summary="The audit log as CSV, newest first, without formulas", openapi_extra=file_answer("text/csv"))
@needs("audit.read")
def audit_export(request, action: str = "", actor: str = "", target: str = "", ip: str = "", since: date | None = None, until: date | None = None):
    rows = _filtered(action, actor, target, ip, since, until)[:EXPORTED]
    return HttpResponse("".join(audit_csv(rows)), content_type="text/csv; charset=utf-8")


@router.get("audit/verify", response=answers(200, Chain), summary="Does the hash chain hold?")
@needs("audit.read")
def verify(request):
    lines, problem = audit_verify()
    return 200, {"lines": lines, "ok": not problem, "problem": problem}
