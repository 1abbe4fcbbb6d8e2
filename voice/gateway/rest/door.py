"""Who calls the REST side of the gateway, whether they may, and what they are billed: every operation goes through here."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from redis import RedisError

from apps.agents.selectors import AgentConfig, agent_for_session
from apps.apikeys.models import ApiKey
from apps.apikeys.services import Principal, api_key_authenticate
from apps.common.errors import BadRequest, InsufficientScope, NotFound, Overloaded, VivavoceError
from apps.common.ids import new_id
from apps.tenants.context import bound, in_public, in_tenant
from apps.tenants.models import Tenant
from apps.usage import journal
from apps.usage.limits import REST, Level, levels_of, limiter
from apps.usage.reservations import check_open
from apps.usage.services import usage_record
from voice.gateway.rest.work import WorkFailed

log = logging.getLogger("voice.rest")
MAX_JSON = 4 * 1024 * 1024
WRITE_TRIES = 5
_redis = functools.cache(journal.connection)
_writing: set[asyncio.Task] = set()  # ledger entries on their way: they outlive the request


@dataclass(frozen=True)
class Caller:
    principal: Principal
    levels: tuple[Level, ...]
    id: str  # req_…: the ledger's id of this call

    async def agent(self, model: Any) -> AgentConfig:
        """The pipeline a `model` names: an agent's by its id, for every other name the workspace's default. Raises BadRequest, NotFound."""
        if not isinstance(model, str) or not model:
            raise BadRequest("'model' is required, e.g. \"default\"", param="model")
        return await in_tenant(self.principal.tenant, agent_for_session, assistant=model if model.startswith("agt_") else None)

    async def spend(self, name: str, cost: int = 1) -> None:
        """Raises RateLimited, InsufficientQuota."""
        await asyncio.to_thread(limiter().spend, self.levels, name, cost)

    async def check_tokens(self) -> None:
        await asyncio.to_thread(limiter().check, self.levels, "tokens_per_minute")

    def bill(self, agent: AgentConfig, **meters: int) -> None:
        """Write to the ledger in the background: whoever hangs up is billed for what was done."""
        task = asyncio.create_task(self._write(agent.agent_id, {"requests": 1, **meters}), name="bill")
        _writing.add(task)
        task.add_done_callback(_writing.discard)

    async def _write(self, agent_id: str, meters: dict[str, int]) -> None:
        if tokens := meters.get("tokens_in", 0) + meters.get("tokens_out", 0):
            await asyncio.to_thread(limiter().count, self.levels, "tokens_per_minute", tokens)
        call = {"session_id": self.id, "turn_id": "", "meters": meters, "agent_id": agent_id, "key_id": self.principal.key_id, "at": time.time()}
        kept = await self._try(journal.call_keep, _redis(), self.principal.tenant, call)
        for attempt in range(WRITE_TRIES):
            try:
                await in_tenant(self.principal.tenant, usage_record, **{**call, "at": datetime.fromtimestamp(call["at"], UTC)})
                await self._try(journal.call_written, _redis(), self.id)
                return
            except (DatabaseError, OSError) as error:
                log.warning("usage of %s: %s; trying again", self.id, type(error).__name__)
                await asyncio.sleep(0.2 * 3**attempt)
        log.error("usage of %s was not written: %s%s", self.id, meters, " (it lies in the journal)" if kept else "")

    async def _try(self, function: Callable[..., None], *args: Any) -> bool:
        try:
            await asyncio.to_thread(function, *args)
            return True
        except (OSError, RedisError) as error:
            log.warning("journal of %s: %s", self.id, type(error).__name__)
            return False


View = Callable[..., Awaitable[HttpResponse]]


def operation(*scopes: str) -> Callable[[View], View]:
    """A POST operation for keys with any of `scopes`; its errors are answered in the one JSON shape."""

    def wrap(view: View) -> View:
        @csrf_exempt
        @functools.wraps(view)
        async def answer(request: HttpRequest, **arguments: Any) -> HttpResponse:
            try:
                if request.method != "POST":
                    return JsonResponse(BadRequest("This path takes POST.").to_json(), status=405, headers={"Allow": "POST"})
                caller = await asyncio.wait_for(in_public(_admit, request.headers.get("Authorization", ""), scopes), 8)
                request.rate = await asyncio.to_thread(limiter().spend, caller.levels, "requests_per_minute", scope=REST)
                return await view(request, caller, **arguments)
            except WorkFailed as error:
                return failed(error)
            except VivavoceError as error:
                return refused(error)
            except (DatabaseError, OSError, TimeoutError):
                log.exception("%s", request.path)
                return refused(Overloaded("The service is not available at the moment; try again.", retry_after_s=2))

        return answer

    return wrap


def _admit(header: str, scopes: tuple[str, ...]) -> Caller:
    scheme, _, secret = header.partition(" ")
    principal = api_key_authenticate(secret=secret.strip() if scheme.lower() == "bearer" else None)
    if not principal.scopes.intersection(scopes):
        raise InsufficientScope(f"This key lacks the scope {' or '.join(scopes)}.")
    tenant = Tenant.objects.get(pk=principal.tenant.tenant_id)
    with bound(principal.tenant):
        if tenant.capped:
            check_open()
        return Caller(principal, levels_of(tenant, ApiKey.objects.filter(pk=principal.key_id).first()), new_id("req"))


def refused(error: VivavoceError) -> JsonResponse:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return JsonResponse(error.to_json(), status=error.status, headers=headers)


STATUS = {"unknown_voice": 400, "context_length_exceeded": 400, "unsupported_parameter": 400, "deadline_exceeded": 504, "engine_error": 500, "llm_refused": 502}


def failed(error: WorkFailed) -> JsonResponse:
    """A worker's fault, or what it refused, as HTTP."""
    status = STATUS.get(error.code, 503)
    kind = "invalid_request_error" if status == 400 else "server_error"
    body = {"error": {"message": error.message, "type": kind, "code": error.code, "param": "voice" if error.code == "unknown_voice" else None}}
    return JsonResponse(body, status=status, headers={"Retry-After": "2"} if status == 503 else {})


def json_body(request: HttpRequest) -> dict[str, Any]:
    """Raises BadRequest."""
    if len(request.body) > MAX_JSON:
        raise BadRequest(f"the body has more than {MAX_JSON} bytes")
    try:
        body = json.loads(request.body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("expected a JSON object")
    return body


def pick(body: dict[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """A field of the body, or `default` when it is absent or null. Raises BadRequest naming it."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise BadRequest(f"'{name}': expected {' or '.join(k.__name__ for k in kinds)}", param=name)
    return value


def unsupported(name: str, what: str) -> BadRequest:
    error = BadRequest(f"'{name}': {what}", param=name)
    error.code = "unsupported_parameter"
    return error


__all__ = ["Caller", "NotFound", "failed", "json_body", "operation", "pick", "refused", "unsupported"]
