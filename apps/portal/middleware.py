from __future__ import annotations

import time
from urllib.parse import urlencode

from django.http import HttpResponseForbidden
from django.shortcuts import redirect
from django.urls import resolve

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")


def impersonation(get_response):
    """Who looks at the portal as somebody else changes nothing, unless that was asked for when it began."""

    def middleware(request):
        state = request.session.get("impersonated") if hasattr(request, "session") else None
        if state and not state.get("write") and request.method not in SAFE and resolve(request.path_info).url_name != "impersonate-end":
            return HttpResponseForbidden("You are looking at this workspace as somebody else, read only.")
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
