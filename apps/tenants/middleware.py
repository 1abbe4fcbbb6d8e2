"""Binds each request: public by default, the tenant of /t/<slug>/… when the signed-in user is a member (else 404)."""

from __future__ import annotations

from apps.tenants.context import bound_public


def bind_public(get_response):
    def middleware(request):
        with bound_public():
            return get_response(request)

    return middleware
