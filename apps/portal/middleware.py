from __future__ import annotations

import time
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import resolve

from apps.apikeys.impersonation import holds
from apps.apikeys.models import Impersonation
from apps.common.errors import Forbidden, Unauthorized

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")


def refusal(request: HttpRequest) -> HttpResponse:
    error = Forbidden("You look at this workspace as somebody else, read only. End it with Back to yourself, or begin again with changes.")
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
        if state and resolve(request.path_info).url_name != "impersonate-end":
            if not holds(Impersonation.objects.select_related("user").filter(pk=state["id"]).first()):
                return over(request)
            if not state["write"] and request.method not in SAFE:
                return refusal(request)
        return get_response(request)

    return middleware


PAGES_OF_A_WORKSPACE = "/t/"


def renewal(get_response):
    """Whom a provider let in without a refresh token is asked for anew every quarter of an hour, without a word to them (prompt=none)."""

    def middleware(request):
        at = request.session.get("oidc_renew_at") if hasattr(request, "session") else None
        if at and at < time.time() and request.method == "GET" and request.path.startswith(PAGES_OF_A_WORKSPACE) and not request.headers.get("HX-Request"):
            query = urlencode({"next": request.get_full_path(), "prompt": "none"})
            return redirect(f"/oidc/{request.session.get('oidc_issuer', '')}?{query}")
        return get_response(request)

    return middleware
