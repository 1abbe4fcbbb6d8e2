"""Binds each request: public by default, the tenant of /t/<slug>/… when the signed-in user is a member (else 404)."""

from __future__ import annotations

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware

from apps.tenants.context import bound_public


@sync_and_async_middleware
def bind_public(get_response):
    if iscoroutinefunction(get_response):

        async def middleware(request):
            with bound_public():
                return await get_response(request)

    else:

        def middleware(request):
            with bound_public():
                return get_response(request)

    return middleware
