"""Before a workspace: landing, home, making one, its progress; and its first pages."""

from __future__ import annotations

import time
from datetime import datetime

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.accounts.models import Secret
from apps.agents.models import Agent
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue
from apps.common.errors import VivavoceError
from apps.conversations.models import VoiceSession
from apps.onboarding.services import workspace_request
from apps.portal.forms import NewWorkspace, WorkspaceSettings
from apps.portal.views.access import in_workspace
from apps.portal.views.records import named
from apps.teams.selectors import membership_in, memberships_of
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_close, tenant_reopen, tenant_update
from apps.usage.limits import limiter, tenant_values
from apps.usage.rollups import totals


# a measured turn of the embedded models on two CPU cores: (segment, begins at %, is wide %, ms)
EXAMPLE = (("end of speech", 0, 89.3, 536), ("recognition", 89.3, 7.9, 47), ("language model", 97.2, 1.6, 10), ("voice", 98.8, 1.2, 7))


@never_cache
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """For strangers what this is; for members their workspaces. On a workspace's own host: that one."""
    if request.own_slug:
        return redirect("overview", slug=request.own_slug) if request.user.is_authenticated else redirect("account_login")
    if not request.user.is_authenticated:
        return render(request, "portal/landing.html", {"example": EXAMPLE, "base_url": settings.GATEWAY_URL + "/v1"})
    memberships = memberships_of(request.user)
    wanted, template = request.session.pop("workspace", ""), request.session.pop("template", "assistant")
    if wanted and not memberships:
        return _make(request, wanted, template)
    if not memberships:
        return redirect("new-workspace")
    if len(memberships) == 1:
        return redirect("overview", slug=memberships[0].tenant.slug)
    return render(request, "portal/home.html", {"memberships": memberships})


def _make(request: HttpRequest, name: str, template: str) -> HttpResponse:
    try:
        tenant, secret = workspace_request(user=request.user, name=name, template=template)
    except VivavoceError as error:
        messages.error(request, error.message)
        return redirect("new-workspace")
    request.session["first_key"] = {"tenant": tenant.id, "sealed": Secret.seal(secret), "until": time.time() + FIRST_KEY_S}
    return redirect("progress", slug=tenant.slug)


@login_required
@require_http_methods(["GET", "POST"])
def new_workspace(request: HttpRequest) -> HttpResponse:
    form = NewWorkspace(request.POST or None)
    if request.method == "POST" and form.is_valid():
        return _make(request, form.cleaned_data["name"], form.cleaned_data["template"])
    return render(request, "portal/form.html", {"form": form, "title": "New workspace", "submit": "Create the workspace"})


@never_cache
@login_required
@require_safe
def progress(request: HttpRequest, slug: str) -> HttpResponse:
    """How far a new workspace is; the page asks again by itself."""
    membership = membership_in(request.user, slug)
    if membership is None:
        raise Http404
    tenant, part = membership.tenant, "HX-Request" in request.headers
    if tenant.status != Tenant.Status.PROVISIONING:
        return HttpResponse(headers={"HX-Redirect": reverse("quickstart", args=[slug])}) if part else redirect("quickstart", slug=slug)
    waited = int((timezone.now() - tenant.created_at).total_seconds())
    return render(request, "portal/_progress.html" if part else "portal/progress.html", {"tenant": tenant, "waited": waited})


@in_workspace("sessions.read")
@require_safe
def overview(request: HttpRequest, tenant) -> HttpResponse:
    values = tenant_values(tenant)
    return render(request, "portal/overview.html", {
        "tenant": tenant, "agents": list(Agent.objects.filter(deleted_at=None).select_related("published")),
        "sessions": named(VoiceSession.objects.all()[:8]), "session_count": VoiceSession.objects.count(), "usage": totals(),
        "engines": settings.VOICE_ENGINES, "live": limiter().live(tenant.id), "limits": values, "steps": first_steps(tenant),
        "ws_url": settings.GATEWAY_WS_URL + "/v1/realtime",
    })  # fmt: skip


MILESTONES = (
    ("signed_up", "Signed up", ""),
    ("first_session", "First session", "Press Talk now."),
    ("first_answer", "First answer", "Ask something: what is seven plus five?"),
    ("payment_method", "Payment method", "Needed when the trial ends."),
)


def first_steps(tenant: Tenant) -> list[dict]:
    """Milestones with the time they were reached; the first open one is the next."""
    reached = {"signed_up": tenant.created_at} | {name: datetime.fromisoformat(at) for name, at in tenant.milestones.items()}
    following = next((name for name, *_ in MILESTONES if name not in reached), "")
    return [{"label": label, "hint": hint, "done": reached.get(name), "next": name == following} for name, label, hint in MILESTONES]


@in_workspace("sessions.read", write="keys.write")
@require_http_methods(["GET", "HEAD", "POST"])
def quickstart(request: HttpRequest, tenant) -> HttpResponse:
    """Address and key in snippets: the first key, once, to who made the workspace; POST makes another, shown once too."""
    secret = _first_key(request, tenant)
    if request.method == "POST":
        _, secret = api_key_issue(tenant=tenant, name=f"key {ApiKey.objects.filter(tenant=tenant).count() + 1}", actor=request.actor)
    return render(request, "portal/quickstart.html", {
        "tenant": tenant, "secret": secret, "key": secret or "vv_…", "has_key": ApiKey.objects.filter(tenant=tenant).exists(),
        "base_url": settings.GATEWAY_URL + "/v1", "ws_url": settings.GATEWAY_WS_URL + "/v1/realtime",
    })  # fmt: skip


FIRST_KEY_S = 3600  # how long the browser that made a workspace keeps its first key (sealed) until the page that shows it


def _first_key(request: HttpRequest, tenant) -> str | None:
    """Out of the session and onto the page, once: not for a prefetch, a part of another page or a HEAD, which nobody reads."""
    kept = request.session.get("first_key")
    dest = request.headers.get("Sec-Fetch-Dest", "document")
    if not kept or kept["tenant"] != tenant.id or request.method == "HEAD" or dest != "document" or "Sec-Purpose" in request.headers:
        return None
    del request.session["first_key"]
    return Secret.open(kept["sealed"]) if kept["until"] > time.time() else None


@in_workspace("tenant.read", write="tenant.write")
@require_http_methods(["GET", "POST"])
def workspace_settings(request: HttpRequest, tenant) -> HttpResponse:
    form = WorkspaceSettings(request.POST or None, tenant=tenant)
    if request.method == "POST" and form.is_valid():
        tenant_update(tenant=tenant, actor=request.actor, **form.values())
        messages.success(request, "Saved.")
        return redirect("settings", slug=tenant.slug)
    values = tenant_values(tenant)
    return render(request, "portal/settings.html", {
        "tenant": tenant, "form": form, "limits": values, "issuers": list(tenant.issuers.all()), "may_write": request.actor.can("tenant.write"),
    })  # fmt: skip


@in_workspace("tenant.own", any_status=True)
@require_POST
def workspace_close(request: HttpRequest, tenant) -> HttpResponse:
    if request.POST.get("confirm", "").strip() != tenant.slug:
        messages.error(request, f"Type {tenant.slug} to close the workspace.")
        return redirect("settings", slug=tenant.slug)
    tenant_close(tenant=tenant, actor=request.actor)
    return redirect("overview", slug=tenant.slug)


@in_workspace("tenant.own", any_status=True)
@require_POST
def workspace_reopen(request: HttpRequest, tenant) -> HttpResponse:
    tenant_reopen(tenant=tenant, actor=request.actor)
    return redirect("overview", slug=tenant.slug)
