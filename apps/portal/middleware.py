from __future__ import annotations

from django.http import HttpResponseForbidden
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
