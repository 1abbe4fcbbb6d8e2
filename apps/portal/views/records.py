"""What happened: sessions with their transcripts, and the audit log."""

from __future__ import annotations

from statistics import median
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from apps.accounts.models import User
from apps.agents.models import Agent
from apps.apikeys.models import ApiKey
from apps.audit.models import AuditEntry
from apps.audit.services import audit_csv, audit_filter
from apps.common.errors import BadRequest
from apps.conversations.models import VoiceSession
from apps.conversations.services import voice_session_end
from apps.portal.views.access import found, in_workspace
from apps.portal.waterfall import bars


def named(rows) -> list[VoiceSession]:
    """Sessions, each with the name of its agent as `agent_name`."""
    rows = list(rows)
    names = dict(Agent.objects.filter(pk__in={r.agent_id for r in rows}).values_list("id", "name"))
    for row in rows:
        row.agent_name = names.get(row.agent_id, "")
    return rows


@in_workspace("sessions.read")
@require_safe
def session_list(request: HttpRequest, tenant) -> HttpResponse:
    filters = {n: request.GET.get(n, "").replace("\0", "")[:64] for n in ("state", "agent", "session")}
    fields = {"state": "state", "agent": "agent_id", "session": "id__startswith"}
    page = Paginator(VoiceSession.objects.filter(**{fields[n]: v for n, v in filters.items() if v}), 50).get_page(request.GET.get("page"))
    page.object_list = named(page.object_list)
    return render(request, "portal/_session_page.html" if _part(request) else "portal/sessions.html", {
        "tenant": tenant, "page": page, "filters": filters, "filtered": any(filters.values()), "query": _query(filters),
        "states": VoiceSession.State.choices, "agents": dict(Agent.objects.values_list("id", "name")),
        "any_live": any(r.state == VoiceSession.State.LIVE for r in page.object_list),
    })  # fmt: skip


def _part(request: HttpRequest) -> bool:
    """htmx asks for the part that changes; a browser without it for the whole page."""
    return "HX-Request" in request.headers


def _query(filters: dict[str, str]) -> str:
    """What the links to further pages carry on."""
    chosen = {n: v for n, v in filters.items() if v}
    return "&" + urlencode(chosen) if chosen else ""


@in_workspace("sessions.read")
@require_safe
def session_detail(request: HttpRequest, tenant, session_id: str) -> HttpResponse:
    session = named([found(VoiceSession.objects.filter(pk=session_id).first())])[0]
    items = [(i, " ".join(p.get("text") or p.get("transcript") or "" for p in i.item.get("content", []))) for i in session.items.order_by("id")[:500]]
    turns = [(t, bars(t.segments, t.overlapped)) for t in session.turns.all()[:200]]
    firsts = [t.first_ms for t, _ in turns if t.first_ms]
    return render(request, "portal/session.html", {
        "tenant": tenant, "session": session, "items": items, "turns": turns, "median_ms": median(firsts) if firsts else None,
        "agent_name": session.agent_name,
        "key_name": ApiKey.objects.filter(tenant=tenant, pk=session.key_id).values_list("name", flat=True).first(),
    })  # fmt: skip


@in_workspace("sessions.end")
@require_POST
def session_end(request: HttpRequest, tenant, session_id: str) -> HttpResponse:
    session = found(VoiceSession.objects.filter(pk=session_id).first())
    voice_session_end(session=session, actor=request.actor)
    return redirect("session", slug=tenant.slug, session_id=session_id)


TEXTS = ("action", "actor", "target", "ip")


def _filters(request: HttpRequest) -> dict[str, str]:
    return {n: request.GET.get(n, "").replace("\0", "").strip()[:60] for n in (*TEXTS, "since", "until")}


@in_workspace("audit.read")
@require_safe
def audit(request: HttpRequest, tenant) -> HttpResponse:
    filters = _filters(request)
    try:
        rows = audit_filter(**filters)
    except BadRequest as error:
        messages.error(request, error.message)
        rows = AuditEntry.objects.none()
    page = Paginator(rows, 50).get_page(request.GET.get("page"))
    for entry in page.object_list:
        entry.names = sorted({*entry.before, *entry.after})
    people = dict(User.objects.filter(pk__in={e.actor for e in page.object_list}, memberships__tenant=tenant).values_list("id", "email"))
    return render(request, "portal/_audit.html" if _part(request) else "portal/audit.html", {
        "tenant": tenant, "page": page, "filters": filters, "texts": TEXTS, "people": people, "query": _query(filters),
        "actions": AuditEntry.objects.order_by("action").values_list("action", flat=True).distinct()[:200],
    })  # fmt: skip


@in_workspace("audit.read")
@require_safe
def audit_export(request: HttpRequest, tenant) -> HttpResponse:
    # read whole here: a streamed answer would be read after the tenant is unbound
    lines = list(audit_csv(audit_filter(**_filters(request))))
    answer = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="audit-{tenant.slug}.csv"'
    return answer
