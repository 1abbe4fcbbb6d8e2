"""What happened: sessions with their transcripts, and the audit log."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from apps.audit.services import audit_csv, audit_filter
from apps.conversations.models import VoiceSession
from apps.conversations.services import voice_session_end
from apps.portal.views.access import found, in_workspace
from apps.portal.waterfall import bars


@in_workspace("sessions.read")
@require_safe
def session_list(request: HttpRequest, tenant) -> HttpResponse:
    page = Paginator(VoiceSession.objects.all(), 50).get_page(request.GET.get("page"))
    return render(request, "portal/sessions.html", {"tenant": tenant, "page": page})


@in_workspace("sessions.read")
@require_safe
def session_detail(request: HttpRequest, tenant, session_id: str) -> HttpResponse:
    session = found(VoiceSession.objects.filter(pk=session_id).first())
    items = [(i, " ".join(p.get("text") or p.get("transcript") or "" for p in i.item.get("content", []))) for i in session.items.order_by("id")[:500]]
    turns = [(t, bars(t.segments)) for t in session.turns.all()[:200]]
    return render(request, "portal/session.html", {"tenant": tenant, "session": session, "items": items, "turns": turns})


@in_workspace("sessions.end")
@require_POST
def session_end(request: HttpRequest, tenant, session_id: str) -> HttpResponse:
    session = found(VoiceSession.objects.filter(pk=session_id).first())
    voice_session_end(session=session, actor=request.actor)
    return redirect("session", slug=tenant.slug, session_id=session_id)


def _filters(request: HttpRequest) -> dict[str, str]:
    return {n: request.GET.get(n, "").replace("\0", "")[:60] for n in ("action", "actor", "target")}


@in_workspace("audit.read")
@require_safe
def audit(request: HttpRequest, tenant) -> HttpResponse:
    filters = _filters(request)
    page = Paginator(audit_filter(**filters), 50).get_page(request.GET.get("page"))
    return render(request, "portal/audit.html", {"tenant": tenant, "page": page, "filters": filters})


@in_workspace("audit.read")
@require_safe
def audit_export(request: HttpRequest, tenant) -> HttpResponse:
    # read whole here: a streamed answer would be read after the tenant is unbound
    lines = list(audit_csv(audit_filter(**_filters(request))))
    answer = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="audit-{tenant.slug}.csv"'
    return answer
