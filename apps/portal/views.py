"""Pages of the portal. A page works without JavaScript; what a user may not see is 404."""

from __future__ import annotations

import functools
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import AuthenticationForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST

from apps.agents.models import Agent
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue, api_key_revoke
from apps.conversations.models import VoiceSession
from apps.portal.waterfall import bars
from apps.teams.permissions import allowed
from apps.teams.selectors import membership_in, memberships_of
from apps.tenants.context import bound
from apps.usage.services import usage_totals


def in_workspace(permission: str) -> Callable:
    """Bind the tenant of the path for members who hold `permission`; 404 for everybody else."""

    def decorate(view: Callable) -> Callable:
        @login_required
        @functools.wraps(view)
        def wrapped(request: HttpRequest, slug: str, **kwargs) -> HttpResponse:
            membership = membership_in(request.user, slug)
            if membership is None or not allowed(membership.role, permission):
                raise Http404
            request.membership = membership
            with bound(membership.tenant):
                return view(request, membership.tenant, **kwargs)

        return wrapped

    return decorate


@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    form = AuthenticationForm(request, request.POST or None)
    if request.method == "POST" and form.is_valid():
        login(request, form.get_user())
        target = request.POST.get("next", "")
        safe = url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure())
        return redirect(target if safe else "home")
    return render(request, "portal/sign_in.html", {"form": form, "next": request.GET.get("next", "")})


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("sign-in")


@login_required
def home(request: HttpRequest) -> HttpResponse:
    memberships = memberships_of(request.user)
    if len(memberships) == 1:
        return redirect("overview", slug=memberships[0].tenant.slug)
    return render(request, "portal/home.html", {"memberships": memberships})


@in_workspace("sessions.read")
def overview(request: HttpRequest, tenant) -> HttpResponse:
    return render(request, "portal/overview.html", {
        "tenant": tenant, "agents": list(Agent.objects.select_related("published")), "sessions": list(VoiceSession.objects.all()[:25]),
        "usage": usage_totals(), "engines": settings.VOICE_ENGINES, "ws_url": settings.GATEWAY_WS_URL + "/v1/realtime",
        "base_url": settings.GATEWAY_URL + "/v1",
    })  # fmt: skip


@in_workspace("keys.read")
@require_http_methods(["GET", "POST"])
def keys(request: HttpRequest, tenant) -> HttpResponse:
    secret = None
    if request.method == "POST":
        if not allowed(request.membership.role, "keys.write"):
            raise Http404
        _, secret = api_key_issue(tenant=tenant, name=request.POST.get("name", "").strip()[:80] or "unnamed", actor=request.user.id)
    rows = list(ApiKey.objects.filter(tenant=tenant))
    return render(request, "portal/keys.html", {"tenant": tenant, "keys": rows, "secret": secret})


@in_workspace("keys.write")
@require_POST
def key_revoke(request: HttpRequest, tenant, key_id: str) -> HttpResponse:
    key = ApiKey.objects.filter(tenant=tenant, pk=key_id, revoked_at=None).first()
    if key is None:
        raise Http404
    api_key_revoke(key=key, actor=request.user.id)
    return redirect("keys", slug=tenant.slug)


@in_workspace("sessions.read")
def session_detail(request: HttpRequest, tenant, session_id: str) -> HttpResponse:
    session = VoiceSession.objects.filter(pk=session_id).first()
    if session is None:
        raise Http404
    items = [(i, " ".join(p.get("text") or p.get("transcript") or "" for p in i.item.get("content", []))) for i in session.items.order_by("id")[:500]]
    turns = [(t, bars(t.segments)) for t in session.turns.all()[:200]]
    return render(request, "portal/session.html", {"tenant": tenant, "session": session, "items": items, "turns": turns})
