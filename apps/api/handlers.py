"""What Django itself refuses (no such path, a bad Host, a crash) is said as JSON under /api/ and as a page elsewhere."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults

from apps.common.errors import BadRequest, Forbidden, NotFound, VivavoceError

API = "/api/"


def _json(error: VivavoceError) -> JsonResponse:
    return JsonResponse(error.to_json(), status=error.status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith(API):
        return _json(BadRequest("The request does not do: its Host header or its form is not one this server takes."))
    return defaults.bad_request(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _json(Forbidden("This is not allowed.")) if request.path.startswith(API) else defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path.startswith(API):
        return _json(NotFound(f"No such path: {request.path[:200]}; /api/v1/docs lists them."))
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    return _json(VivavoceError("Something went wrong on our side.")) if request.path.startswith(API) else defaults.server_error(request)
