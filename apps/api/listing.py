"""GET /v1/models: the pipelines a key may name, and the aliases every OpenAI client sends (protocol section 8)."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, JsonResponse

from apps.agents.selectors import agent_for_session
from apps.apikeys.models import ApiKey
from apps.apikeys.services import Principal, api_key_authenticate
from apps.common.errors import NotFound
from apps.tenants.context import bound
from apps.tenants.models import Tenant
from apps.usage.limits import REST, levels_of, limiter

ALIASES = ("gpt-realtime", "gpt-realtime-2.1", "gpt-4o-realtime-preview", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")


def authenticate(request: HttpRequest) -> Principal:
    """Raises MissingApiKey, InvalidApiKey, AccountDeactivated, RateLimited."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    principal = api_key_authenticate(secret=secret.strip() if scheme.lower() == "bearer" else None)
    levels = levels_of(Tenant.objects.get(pk=principal.tenant.tenant_id), ApiKey.objects.filter(pk=principal.key_id).first())
    request.rate = limiter().spend(levels, "requests_per_minute", scope=REST)
    return principal


def _rows() -> list[dict]:
    engines = settings.VOICE_ENGINES
    pipeline = {stage: {"engine": engine, "model": model} for stage, (engine, model) in engines.items()}
    agent = agent_for_session()
    own = {"id": "default", "object": "model", "created": 0, "owned_by": "vivavoce", "pipeline": pipeline, "agent": agent.agent_id}
    return [own, *({"id": name, "object": "model", "created": 0, "owned_by": "vivavoce", "alias_of": "default"} for name in ALIASES)]


def model_list(request: HttpRequest) -> JsonResponse:
    with bound(authenticate(request).tenant):
        return JsonResponse({"object": "list", "data": _rows()})


def model_detail(request: HttpRequest, name: str) -> JsonResponse:
    with bound(authenticate(request).tenant):
        found = next((row for row in _rows() if row["id"] == name), None)
    if found is None:
        raise NotFound(f"The model '{name[:80]}' does not exist; GET /v1/models lists them.", param="model")
    return JsonResponse(found)


def upgrade_required(request: HttpRequest) -> JsonResponse:
    error = {"message": "Connect with a WebSocket.", "type": "invalid_request_error", "code": "upgrade_required", "param": None}
    return JsonResponse({"error": error}, status=426, headers={"Upgrade": "websocket"})


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    return JsonResponse(NotFound(f"No such path: {request.path[:200]}").to_json(), status=404)


def server_error(request: HttpRequest) -> JsonResponse:
    error = {"message": "Something went wrong on our side.", "type": "server_error", "code": "server_error", "param": None}
    return JsonResponse({"error": error}, status=500)
