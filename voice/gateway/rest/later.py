"""What this gateway does not speak yet, answered by name: WebRTC and SIP calls, translation sessions."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt


def _error(status: int, code: str, message: str, **headers: str) -> JsonResponse:
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": None}}
    return JsonResponse(body, status=status, headers=headers)


@csrf_exempt
def calls(request: HttpRequest, call_id: str = "", verb: str = "") -> JsonResponse:
    return _error(501, "webrtc_not_enabled", "WebRTC and SIP calls are not available here; connect with a WebSocket to /v1/realtime.")


@csrf_exempt
def realtime(request: HttpRequest) -> JsonResponse:
    """/v1/realtime without an upgrade: an SDP offer of an older client, or a plain GET."""
    if request.method == "POST":
        return calls(request)
    return _error(426, "upgrade_required", "Connect with a WebSocket.", Upgrade="websocket")


@csrf_exempt
def translations(request: HttpRequest) -> JsonResponse:
    return _error(501, "translation_not_enabled", "Translation sessions are not available here; POST /v1/audio/translations takes recordings.")
