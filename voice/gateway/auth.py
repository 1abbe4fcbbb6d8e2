"""Who connects: the key (or a member's JWT) from header, sub-protocol or query (in this order), its tenant and agent. One database hop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from apps.agents.selectors import MODEL_ALIASES, AgentConfig, agent_for_session
from apps.apikeys.models import ApiKey, ClientSecret
from apps.apikeys.services import Principal, check_origin, client_secret_mint, holder_of, principal_of
from apps.common.actors import Origin, coming_from
from apps.common.addresses import caller_address
from apps.common.errors import BadRequest, InsufficientScope, NotFound
from apps.teams.oidc import bearer_user
from apps.teams.permissions import PERMISSIONS
from apps.teams.selectors import memberships_of
from apps.tenants.context import Bound, bound, in_public, in_tenant
from apps.tenants.models import Tenant
from apps.usage.limits import Level, levels_of
from apps.usage.reservations import check_open

KEY_PROTOCOL = "openai-insecure-api-key."
BETA_PROTOCOL = "openai-beta.realtime-v1"
SCOPE = "realtime:connect"
MEMBER_S = 60  # the client secret of a member's connection; the session outlives it


@dataclass(frozen=True, slots=True)
class Handshake:
    """What the upgrade request said."""

    secret: str | None
    query: dict[str, str]
    subprotocol: str | None
    user_agent: str
    origin: str | None
    ip: str
    extensions: bool
    beta: bool  # speaks the beta flavour

    @property
    def strict(self) -> bool:
        """Unknown models and settings are to be refused instead of ignored."""
        return self.query.get("strict") == "1"

    @classmethod
    def of(cls, scope: dict[str, Any]) -> Handshake:
        headers = {k.lower(): v.decode("latin-1") for k, v in scope["headers"]}
        query = {k: v[-1] for k, v in parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=50).items()}
        offered = scope.get("subprotocols") or []
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        secret = token.strip() if scheme.lower() == "bearer" else None
        secret = secret or next((p[len(KEY_PROTOCOL) :] for p in offered if p.startswith(KEY_PROTOCOL)), None) or query.get("access_token")
        extensions = query.get("extensions") == "1" or headers.get(b"x-realtime-extensions") == "1"
        beta = "realtime=v1" in headers.get(b"openai-beta", "") or BETA_PROTOCOL in offered
        return cls(secret, query, "realtime" if "realtime" in offered else None, headers.get(b"user-agent", ""), headers.get(b"origin"),
                   caller_address(headers.get(b"x-forwarded-for", ""), (scope.get("client") or ("",))[0]), extensions, beta)  # fmt: skip


Admitted = tuple[Principal, AgentConfig | None, tuple[Level, ...], bool]  # the last: under a cap


def former_principal(about: dict[str, Any]) -> Principal:
    """Who opened a session, from what was kept of it."""
    return Principal(Bound(about["tenant_id"], about["schema"], about["slug"]), about["key_id"], frozenset())


async def admit(handshake: Handshake, allowed_origins: list[str], *, resuming: bool = False) -> Admitted:
    """Who it is, the agent (None when `resuming`: it is settled), the limits. Raises the errors of apps.common.errors: MissingApiKey, InvalidApiKey,
    AccountDeactivated, Forbidden, NotFound."""
    return await in_public(_look_up, handshake, allowed_origins, resuming)


def _look_up(handshake: Handshake, allowed_origins: list[str], resuming: bool) -> Admitted:
    with coming_from(Origin(handshake.ip)):
        holder, user_id = _who(handshake, resuming)
    principal, tenant = replace(principal_of(holder), user_id=user_id), holder.tenant
    if SCOPE not in principal.scopes:
        raise InsufficientScope(f"This key lacks the scope {SCOPE}.")
    check_origin(principal, handshake.origin, allowed_origins)
    levels = levels_of(tenant, holder if isinstance(holder, ApiKey) else holder.key)
    with bound(principal.tenant):
        if tenant.capped:
            check_open()
        return principal, None if resuming else _agent(handshake, principal, tenant), levels, tenant.capped


def _who(handshake: Handshake, resuming: bool) -> tuple[ApiKey | ClientSecret, str]:
    """Whose it is, and the user where it is a member."""
    secret = handshake.secret
    return _member(handshake) if secret and secret.count(".") == 2 else (holder_of(secret=secret, even_expired=resuming), "")


def _member(handshake: Handshake) -> tuple[ClientSecret, str]:
    """Somebody signed in at an OpenID provider that is set up here: a client secret is made for the connection, as the playground has one.

    Raises InvalidApiKey, BadRequest (several workspaces, none named), NotFound, InsufficientScope, AccountDeactivated.
    """
    user, slug = bearer_user(handshake.secret), handshake.query.get("workspace", "")
    members = memberships_of(user)
    found = next((m for m in members if m.tenant.slug == slug), None) if slug or len(members) != 1 else members[0]
    if found is None and not slug:
        raise BadRequest("Say which workspace: ?workspace=NAME.", param="workspace")
    if found is None:
        raise NotFound(f"There is no workspace {slug[:60]!r}.", param="workspace")
    if "talk" not in PERMISSIONS[found.role]:
        raise InsufficientScope("Your role in this workspace may not talk to its agents.")
    tenant = found.tenant
    owner = Principal(Bound(tenant.id, tenant.schema_name, tenant.slug), "", frozenset({SCOPE}))
    _, secret = client_secret_mint(principal=owner, session={}, seconds=MEMBER_S, user_id=user.id)
    return holder_of(secret=secret), user.id


def _agent(handshake: Handshake, principal: Principal, tenant: Tenant) -> AgentConfig:
    """The agent asked for, by `assistant`, by the client secret's prompt, or by its id as `model`; else the default: other models are its (protocol rule 21).

    Raises NotFound, with ?strict=1 model_not_found, too."""
    prompt, model = principal.session.get("prompt") or {}, handshake.query.get("model", "")
    if model.startswith("agt_") and not handshake.query.get("assistant"):
        try:
            return agent_for_session(assistant=model, workspace=tenant)
        except NotFound:
            pass
    agent = agent_for_session(assistant=handshake.query.get("assistant") or prompt.get("id"), version=str(prompt.get("version") or ""), workspace=tenant)
    if handshake.strict and model not in ("", "default", agent.agent_id, *MODEL_ALIASES):
        error = NotFound(f"The model '{model[:80]}' does not exist; GET /v1/models lists them.", param="model")
        error.code = "model_not_found"
        raise error
    return agent


async def find_agent(tenant: Bound, agent_id: str, version: str = "") -> AgentConfig | None:
    """A stored agent of the tenant; None where there is no such."""
    try:
        return await in_tenant(tenant, agent_for_session, assistant=agent_id, version=version)
    except NotFound:
        return None
