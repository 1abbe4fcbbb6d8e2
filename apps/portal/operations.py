"""Operators' pages in Django admin that are no list of rows: what runs now, live sessions with end, queues and workers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from apps.common.errors import VivavoceError
from apps.common.queues import queues, worker_rows
from apps.conversations.models import VoiceSession
from apps.conversations.selectors import live_sessions
from apps.conversations.services import voice_session_end
from apps.teams.permissions import operator
from apps.tenants.context import bound
from apps.tenants.models import Tenant
from apps.usage.limits import limiter

SHOWN = 500


def for_operators(view: Callable) -> Callable:
    """Signed in as staff (else the sign-in page), with the right to run the platform (else 403)."""

    @functools.wraps(view)
    def checked(request: HttpRequest, **kwargs) -> HttpResponse:
        request.actor = operator(request.user)
        if not request.actor.can("platform"):
            raise PermissionDenied
        return view(request, **kwargs)

    return admin.site.admin_view(checked)


def _page(request: HttpRequest, template: str, title: str, **context) -> HttpResponse:
    return render(request, template, {**admin.site.each_context(request), "title": title, **context})


def live_rows() -> list[dict]:
    return live_sessions(Tenant.objects.real().order_by("slug"), limiter().live_ids)[:SHOWN]


def work() -> dict:
    """Queues and workers, or what is wrong with asking for them."""
    try:
        return {"queues": queues(), "workers": worker_rows(), "problem": ""}
    except VivavoceError as error:
        return {"queues": {}, "workers": [], "problem": error.message}


def dashboard(request: HttpRequest, context: dict) -> dict:
    """Context of the admin's first page (UNFOLD's DASHBOARD_CALLBACK)."""
    states = Counter(Tenant.objects.real().values_list("status", flat=True))
    context["cards"] = [
        ("Workspaces", states[Tenant.Status.ACTIVE], f"{states[Tenant.Status.SUSPENDED]} suspended, {states[Tenant.Status.CLOSED]} closed",
         reverse("admin:tenants_tenant_changelist")),
        ("Live sessions", len(live_rows()), "on all gateways", reverse("live-sessions")),
        ("Jobs waiting", sum(q["waiting"] for q in work()["queues"].values()), "speech, language, voice", reverse("queues")),
    ]  # fmt: skip
    return context


@for_operators
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    return _page(request, "admin/live.html", "Live sessions", sessions=live_rows(), shown=SHOWN)


@for_operators
@require_POST
def live_end(request: HttpRequest, tenant_id: str, session_id: str) -> HttpResponse:
    tenant = Tenant.objects.real().filter(pk=tenant_id).first()
    if tenant is None:
        raise Http404
    with bound(tenant):
        session = VoiceSession.objects.filter(pk=session_id).first()
        if session is None:
            raise Http404
        try:
            voice_session_end(session=session, actor=request.actor)
            messages.success(request, f"{session_id} is told to end.")
        except VivavoceError as error:
            messages.error(request, error.message)
    return redirect("live-sessions")


@for_operators
@require_safe
def queues_page(request: HttpRequest) -> HttpResponse:
    return _page(request, "admin/queues.html", "Queues and workers", **work())
