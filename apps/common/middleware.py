from __future__ import annotations

import uuid

import structlog
from django.http import JsonResponse

from apps.common.errors import VivavoceError


def request_id(get_response):
    """A request id in every log line and in the answer's X-Request-Id."""

    def middleware(request):
        request.id = uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(request=request.id):
            response = get_response(request)
        response["X-Request-Id"] = request.id
        return response

    return middleware


class errors:
    """Turns errors of our tree into the one JSON shape on API paths; pages let Django show its own."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        if not isinstance(exception, VivavoceError):
            return None
        response = JsonResponse(exception.to_json(), status=exception.status)
        if exception.retry_after_s is not None:
            response["Retry-After"] = str(exception.retry_after_s)
        return response
