from __future__ import annotations

from allauth.mfa.utils import is_mfa_enabled
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from apps.accounts.models import Issuer, User
from apps.apikeys.impersonation import impersonation_begin, impersonation_end
from apps.apikeys.models import Impersonation
from apps.teams.permissions import operator
from apps.teams.selectors import memberships_of


@login_required
@require_safe
def account(request: HttpRequest) -> HttpResponse:
    members = [m for m in memberships_of(request.user) if request.own_slug in ("", m.tenant.slug)]
    return render(request, "portal/account.html", {"memberships": members, "has_mfa": is_mfa_enabled(request.user)})


@login_required
@require_POST
def sign_out_everywhere(request: HttpRequest) -> HttpResponse:
    """Every browser with this account, this one too."""
    for session in UserSession.objects.filter(user=request.user):
        session.end()
    logout(request)
    return redirect("account_login")


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    members = [m for m in memberships_of(request.user) if request.own_slug in ("", m.tenant.slug)] if request.user.is_authenticated else []
    return render(request, "portal/docs.html", {
        "memberships": members, "key": "vv_…", "base_url": settings.GATEWAY_URL + "/v1", "ws_url": settings.GATEWAY_WS_URL + "/v1/realtime",
    })  # fmt: skip


@require_safe
def terms(request: HttpRequest) -> HttpResponse:
    """What a sign-up accepts; the operator of an installation may put another text into templates/portal/terms.html."""
    return render(request, "portal/terms.html")


def issuers(request: HttpRequest) -> dict:
    """Context of the sign-in page: the platform's providers, and on a workspace's own host those of that one."""
    if not request.path.startswith("/accounts/"):
        return {}
    return {"issuers": list(Issuer.objects.filter(Q(tenant=None) | Q(tenant__slug=request.own_slug), active=True))}


# Impersonation: an operator sees what a member sees; read only unless asked for, and audited


BACKEND = "allauth.account.auth_backends.AuthenticationBackend"


@login_required
@require_POST
def impersonate(request: HttpRequest, user_id: str) -> HttpResponse:
    actor = operator(request.user)
    user = User.objects.filter(pk=user_id, is_active=True, is_superuser=False, is_staff=False).first()
    if not actor.can("platform") or user is None or "impersonated" in request.session:
        raise Http404
    write = request.POST.get("write") == "1"
    row = impersonation_begin(user=user, actor=actor, writable=write, reason=request.POST.get("reason", "").replace("\0", ""))
    login(request, user, backend=BACKEND)
    request.session["impersonated"] = {"id": row.id, "by": actor.id, "write": write}
    return redirect("home")


@login_required
@require_POST
def impersonate_end(request: HttpRequest) -> HttpResponse:
    state = request.session.get("impersonated", {})
    operator_user = User.objects.filter(pk=state.get("by"), is_active=True, is_superuser=True).first()
    if operator_user is None:
        raise Http404
    row = Impersonation.objects.filter(pk=state["id"]).first()
    if row is not None and row.state == "active":
        impersonation_end(impersonation=row, actor=operator(operator_user))
    login(request, operator_user, backend=BACKEND)
    request.session.pop("impersonated", None)
    messages.success(request, "You are yourself again.")
    return redirect("admin:index")
