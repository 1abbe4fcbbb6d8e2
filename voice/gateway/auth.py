"""Who connects: the key from header, sub-protocol or query (in this order), its tenant and agent. One database hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from apps.agents.selectors import AgentConfig, agent_for_session
from apps.apikeys.services import Principal, api_key_authenticate
from apps.common.errors import Forbidden
from apps.tenants.context import bound, in_public

KEY_PROTOCOL = "openai-insecure-api-key."
SCOPE = "realtime:connect"


class InsufficientScope(Forbidden):
    code = "insufficient_scope"


class OriginNotAllowed(Forbidden):
    code = "origin_not_allowed"


@dataclass(frozen=True, slots=True)
class Handshake:
    """What the upgrade request said."""

    secret: str | None
    query: dict[str, str]
    subprotocol: str | None
    user_agent: str
    origin: str | None
    extensions: bool

    @classmethod
    def of(cls, scope: dict[str, Any]) -> Handshake:
        headers = {k.lower(): v.decode("latin-1") for k, v in scope["headers"]}
        query = {k: v[-1] for k, v in parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=50).items()}
        offered = scope.get("subprotocols") or []
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else None
        secret = secret or next((p[len(KEY_PROTOCOL) :] for p in offered if p.startswith(KEY_PROTOCOL)), None) or query.get("access_token")
        extensions = query.get("extensions") == "1" or headers.get(b"x-realtime-extensions") == "1"
        return cls(secret, query, "realtime" if "realtime" in offered else None, headers.get(b"user-agent", ""), headers.get(b"origin"), extensions)


async def admit(handshake: Handshake, allowed_origins: list[str]) -> tuple[Principal, AgentConfig]:
    """Raises the errors of apps.common.errors: MissingApiKey, InvalidApiKey, AccountDeactivated, Forbidden, NotFound."""
    if handshake.origin and allowed_origins and handshake.origin not in allowed_origins:
        raise OriginNotAllowed(f"Origin {handshake.origin[:100]} is not allowed.")
    return await in_public(_look_up, handshake.secret, handshake.query.get("assistant"))


def _look_up(secret: str | None, assistant: str | None) -> tuple[Principal, AgentConfig]:
    principal = api_key_authenticate(secret=secret)
    if SCOPE not in principal.scopes:
        raise InsufficientScope(f"This key lacks the scope {SCOPE}.")
    with bound(principal.tenant):
        return principal, agent_for_session(assistant=assistant)
