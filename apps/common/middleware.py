from __future__ import annotations

import uuid
from contextlib import contextmanager

import structlog
from asgiref.sync import iscoroutinefunction
from django.http import JsonResponse
from django.utils.decorators import sync_and_async_middleware

from apps.common.actors import Origin, coming_from
from apps.common.addresses import caller_address
from apps.common.errors import MethodNotAllowed, VivavoceError


def client_ip(request) -> str:
    return caller_address(request.META.get("HTTP_X_FORWARDED_FOR", ""), request.META.get("REMOTE_ADDR", ""))


def request_id(get_response):
    """A request id in every log line, in the audit and in the answer's X-Request-Id; and how much of a rate limit is left."""

    @contextmanager
    def known(request):
        request.id = uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(request=request.id), coming_from(Origin(client_ip(request), request.id)):
            yield

    def said(request, response):
        response["X-Request-Id"] = request.id
        if rate := getattr(request, "rate", None):
            response["X-RateLimit-Limit"], response["X-RateLimit-Remaining"] = rate.limit, rate.remaining
            response["X-RateLimit-Reset"] = int(rate.reset_s) + 1
        return response

    if iscoroutinefunction(get_response):

        async def middleware(request):
            with known(request):
                return said(request, await get_response(request))

    else:

        def middleware(request):
            with known(request):
                return said(request, get_response(request))

    return middleware


PROBED = ("/health", "/ready", "/health/ready", "/metrics")


@sync_and_async_middleware
def probes(get_response):
    """Probers and scrapers name the address they ask, which is no host of ours; their pages name none either, so any will do."""

    def known(request):
        if request.path in PROBED:
            request.get_host = lambda: "localhost"
        return request

    if iscoroutinefunction(get_response):

        async def middleware(request):
            return await get_response(known(request))

    else:

        def middleware(request):
            return get_response(known(request))

    return middleware


class errors:
    """Turns errors of our tree into the one JSON shape on API paths; pages let Django show its own."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        if response.status_code == 405 and request.path.startswith("/api/"):
            said = JsonResponse(MethodNotAllowed(f"{request.method} is not taken here; {response['Allow']} is.").to_json(), status=405)
            said["Allow"] = response["Allow"]
            return said
        return response

    def process_exception(self, request, exception):
        if not isinstance(exception, VivavoceError):
            return None
        response = JsonResponse(exception.to_json(), status=exception.status)
        if exception.retry_after_s is not None:
            response["Retry-After"] = str(exception.retry_after_s)
        return response
