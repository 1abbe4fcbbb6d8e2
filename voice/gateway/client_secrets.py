"""POST /v1/realtime/client_secrets: a short-lived secret for a browser, with the session it opens (protocol section 8)."""

from __future__ import annotations

import json
import time
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from apps.agents.selectors import agent_for_session
from apps.apikeys.models import ApiKey
from apps.apikeys.services import Principal, api_key_authenticate, client_secret_mint
from apps.common.errors import BadRequest, InsufficientScope
from apps.tenants.context import bound
from apps.tenants.models import Tenant
from apps.usage.limits import REST, levels_of, limiter
from voice.core import beta
from voice.core.errors import ProtocolError
from voice.core.settings import SessionConfig, Settings, prompt_key
from voice.gateway import prompts
from voice.gateway.auth import SCOPE

MAX_BODY = 256 * 1024


@csrf_exempt
@require_POST
def create(request: HttpRequest) -> JsonResponse:
    principal = _minter(request)
    body = _body(request)
    session = body.get("session") or {"type": "realtime"}
    with bound(principal.tenant):
        shown = effective(session)
    row, value = client_secret_mint(principal=principal, session=session, seconds=_seconds(body))
    return JsonResponse({"value": value, "expires_at": int(row.expires_at.timestamp()), "session": shown})


@csrf_exempt
@require_POST
def beta_session(request: HttpRequest) -> JsonResponse:
    """POST /v1/realtime/sessions: the beta's flat body and flat answer."""
    return _beta(request, "realtime")


@csrf_exempt
@require_POST
def beta_transcription_session(request: HttpRequest) -> JsonResponse:
    return _beta(request, "transcription")


def _beta(request: HttpRequest, kind: str) -> JsonResponse:
    principal = _minter(request)
    session = {**beta.to_ga_session(_body(request)), "type": kind}
    with bound(principal.tenant):
        shown = effective(session)
    row, value = client_secret_mint(principal=principal, session=session)
    return JsonResponse({**beta.flat_session(shown), "client_secret": {"value": value, "expires_at": int(row.expires_at.timestamp())}})


def _minter(request: HttpRequest) -> Principal:
    """Raises MissingApiKey, InvalidApiKey, AccountDeactivated, InsufficientScope, RateLimited."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    principal = api_key_authenticate(secret=secret.strip() if scheme.lower() == "bearer" else None)
    if SCOPE not in principal.scopes:
        raise InsufficientScope(f"This key lacks the scope {SCOPE}.")
    tenant = Tenant.objects.get(pk=principal.tenant.tenant_id)
    request.rate = limiter().spend(levels_of(tenant, ApiKey.objects.filter(pk=principal.key_id).first()), "requests_per_minute", scope=REST)
    return principal


def _body(request: HttpRequest) -> dict[str, Any]:
    """Raises BadRequest."""
    if len(request.body) > MAX_BODY:
        raise BadRequest(f"the body has more than {MAX_BODY} bytes")
    try:
        body = json.loads(request.body or b"{}")
    except ValueError as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict) or not isinstance(body.get("session") or {}, dict) or not isinstance(body.get("expires_after") or {}, dict):
        raise BadRequest("expected {expires_after: {…}, session: {…}}")
    return body


def _seconds(body: dict[str, Any]) -> int | None:
    after = body.get("expires_after") or {}
    if after.get("anchor", "created_at") != "created_at":
        raise BadRequest("expires_after.anchor: expected created_at", param="expires_after.anchor")
    seconds = after.get("seconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int)):
        raise BadRequest("expires_after.seconds: expected a whole number", param="expires_after.seconds")
    return seconds


def effective(session: dict[str, Any]) -> dict[str, Any]:
    """What a connection with this session will be told. Raises BadRequest, NotFound (prompt.id)."""
    kind = session.get("type", "realtime")
    if kind not in ("realtime", "transcription"):
        raise BadRequest("session.type: expected realtime or transcription", param="session.type")
    prompt = session["prompt"] if isinstance(session.get("prompt"), dict) else {}
    version = str(prompt.get("version") or "")
    agent = agent_for_session(assistant=prompt.get("id"), version=version)
    config = SessionConfig(session_id="", type=kind, instructions=agent.instructions, voice=agent.voice, tools=tuple(prompts.client_tools(agent)),
                           expires_at=int(time.time()) + 3600, prompts={prompt_key(prompt): prompts.patch(agent)})  # fmt: skip
    settings = Settings(config)
    try:
        settings.update(session)
    except ProtocolError as error:
        raise BadRequest(str(error), param=error.param) from error
    return settings.echo()
