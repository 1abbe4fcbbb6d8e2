"""GET /v1/models: the pipelines a key may name, and the aliases every OpenAI client sends (protocol section 8)."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse

from apps.agents.models import Agent
from apps.agents.selectors import MODEL_ALIASES, agent_for_session
from apps.apikeys.models import ApiKey
from apps.apikeys.services import Principal, api_key_authenticate
from apps.common.errors import NotFound
from apps.tenants.context import bound
from apps.tenants.models import Tenant
from apps.usage.limits import REST, levels_of, limiter

def authenticate(request: HttpRequest) -> Principal:
    """Raises MissingApiKey, InvalidApiKey, AccountDeactivated, RateLimited."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    principal = api_key_authenticate(secret=secret.strip() if scheme.lower() == "bearer" else None)
    levels = levels_of(Tenant.objects.get(pk=principal.tenant.tenant_id), ApiKey.objects.filter(pk=principal.key_id).first())
    request.rate = limiter().spend(levels, "requests_per_minute", scope=REST)
    return principal


def _rows() -> list[dict]:
    def row(name: str, created: int, /, **more) -> dict:
        return {"id": name, "object": "model", "created": created, "owned_by": "vivavoce", **more}

    own = agent_for_session()
    rows = [row("default", 0, pipeline=_pipeline(own), agent=own.agent_id)]
    for agent in Agent.objects.filter(deleted_at=None).exclude(published=None).order_by("created_at")[:200]:
        config = agent_for_session(assistant=agent.id)
        rows.append(row(agent.id, int(agent.created_at.timestamp()), pipeline=_pipeline(config), agent=agent.id, name=agent.name))
    return [*rows, *(row(name, 0, alias_of="default") for name in MODEL_ALIASES)]


def _pipeline(agent) -> dict:
    return {stage: {"engine": getattr(agent, f"{stage}_engine"), "model": getattr(agent, f"{stage}_model")} for stage in ("stt", "llm", "tts")}


def model_list(request: HttpRequest) -> JsonResponse:
    with bound(authenticate(request).tenant):
        return JsonResponse({"object": "list", "data": _rows()})


def model_detail(request: HttpRequest, name: str) -> JsonResponse:
    with bound(authenticate(request).tenant):
        found = next((row for row in _rows() if row["id"] == name), None)
    if found is None:
        raise NotFound(f"The model '{name[:80]}' does not exist; GET /v1/models lists them.", param="model")
    return JsonResponse(found)


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    return JsonResponse(NotFound(f"No such path: {request.path[:200]}").to_json(), status=404)


def server_error(request: HttpRequest) -> JsonResponse:
    error = {"message": "Something went wrong on our side.", "type": "server_error", "code": "server_error", "param": None}
    return JsonResponse({"error": error}, status=500)
