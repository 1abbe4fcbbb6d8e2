from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import resolve
from django.utils.http import url_has_allowed_host_and_scheme

from apps.apikeys.impersonation import holds
from apps.apikeys.models import Impersonation
from apps.common.errors import Forbidden, Unauthorized
from apps.teams.liveness import must_renew

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")


OF_THE_PERSON = ("/api/v1/me/", "/api/v1/workspaces", "/api/v1/auth/")  # under /api/v1, and no workspace's
READ_ONLY = "You look at this workspace as somebody else, read only. End it with Back to yourself, or begin again with changes."
PERSONAL = "You look as somebody else: their account (password, second factor, workspaces) is theirs alone to change. End it with Back to yourself."


def refusal(request: HttpRequest, why: str) -> HttpResponse:
    error = Forbidden(why)
    if request.path_info.startswith("/api/"):
        return JsonResponse(error.to_json(), status=error.status)
    return render(request, "portal/notice.html", {"title": "Read only", "text": error.message}, status=error.status)


def over(request: HttpRequest) -> HttpResponse:
    """Signed out: the browser is nobody's now."""
    logout(request)
    if request.path_info.startswith("/api/"):
        error = Unauthorized("Looking as somebody else is over.")
        return JsonResponse(error.to_json(), status=error.status)
    messages.success(request, "Looking as somebody else is over; sign in as yourself.")
    return redirect("account_login")


def impersonation(get_response):
    """Who looks at the portal as somebody else does so for a while, and changes nothing, unless that was asked for when it began."""

    def middleware(request):
        state = request.session.get("impersonated") if hasattr(request, "session") else None
        if state and resolve(request.path_info).url_name not in ("impersonate-end", "account_logout"):
            if not holds(Impersonation.objects.select_related("user").filter(pk=state["id"]).first()):
                return over(request)
            if request.method not in SAFE and not state["write"]:
                return refusal(request, READ_ONLY)
            if request.method not in SAFE and (not request.path.startswith(("/t/", "/api/v1/")) or request.path.startswith(OF_THE_PERSON)):
                return refusal(request, PERSONAL)
        return get_response(request)

    return middleware


WITHOUT_RENEWAL = ("/oidc/", "/accounts/logout/", "/static/", "/health", "/ready", "/metrics")


def renewal(get_response):
    """Whom a provider lets in but says nothing about behind their back is asked for anew, without a word to them (prompt=none)."""

    def middleware(request):
        issuer = request.session.get("oidc_issuer") if hasattr(request, "session") else None
        if issuer and not request.path.startswith(WITHOUT_RENEWAL) and request.user.is_authenticated and must_renew(request.user, issuer):
            return renew(request, issuer)
        return get_response(request)

    return middleware


def renew(request: HttpRequest, issuer: str) -> HttpResponse:
    """To the provider and back to the page: a browser by itself, a program is told."""
    part = bool(request.headers.get("HX-Request"))
    if request.path.startswith("/api/") or request.headers.get("Sec-Fetch-Dest") == "empty" and not part:
        error = Unauthorized("Your sign-in must be renewed: open a page of the portal.")
        return JsonResponse(error.to_json(), status=error.status)
    where = request.get_full_path()
    if part or request.method not in SAFE:
        shown = request.headers.get("HX-Current-URL") or request.headers.get("Referer", "")
        where = urlsplit(shown).path if url_has_allowed_host_and_scheme(shown, {request.get_host()}, require_https=request.is_secure()) else "/"
    if request.method not in SAFE:
        messages.error(request, "Your sign-in had to be renewed, so nothing was changed: send it again.")
    address = f"/oidc/{issuer}?{urlencode({'next': where, 'prompt': 'none'})}"
    return HttpResponse(headers={"HX-Redirect": address}) if part else redirect(address)
