"""What all operations of /api/v1 share: who calls, one error shape, cursor paging, Idempotency-Key.

The modules of operations keep their annotations as objects (no `from __future__ import annotations`): django-ninja reads them through our decorators.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from ninja import Field, Query, Schema
from ninja.responses import NinjaJSONEncoder
from ninja.security import HttpBearer, SessionAuth
from ninja.utils import contribute_operation_callback
from pydantic import AfterValidator, ConfigDict, model_validator

from apps.accounts.models import Secret
from apps.apikeys.impersonation import acting, impersonation_authenticate, looking
from apps.apikeys.models import ApiKey, IdempotentAnswer
from apps.apikeys.services import api_key_authenticate, operator_authenticate
from apps.common.actors import Actor
from apps.common.errors import AccountDeactivated, BadRequest, Conflict, Forbidden, InsufficientScope, NotFound
from apps.teams.models import Membership
from apps.teams.oidc import bearer_user
from apps.teams.permissions import operator
from apps.teams.selectors import membership_in, memberships_of
from apps.tenants.context import rebind
from apps.tenants.models import TEMPLATE_SCHEMA, Tenant
from apps.usage.limits import REST, Level, levels_of, limiter

T = TypeVar("T")
TENANT_HEADER = "X-Vivavoce-Tenant"


class Body(Schema):
    """A request body: unknown keys are refused, so that a misspelt one does not pass unseen."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def keep_out_nul(cls, values: Any) -> Any:
        """PostgreSQL keeps no NUL character, in no text and no JSON."""
        data = getattr(values, "_obj", values)
        if has_nul(data):
            raise ValueError("holds a NUL character, which cannot be kept")
        return values


def has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_nul(k) or has_nul(v) for k, v in value.items())
    return "\0" in value if isinstance(value, str) else isinstance(value, list) and any(map(has_nul, value))


def _utc(value: datetime) -> datetime:
    """PostgreSQL takes no offset beyond 15:59 and no year beyond its own."""
    if value.tzinfo is None:
        raise ValueError("needs a time zone, e.g. 2027-01-31T12:00:00Z")
    if not 1970 < value.year < 9999:
        raise ValueError("expected a year from 1971 to 9998")
    return value.astimezone(UTC)


When = Annotated[datetime, AfterValidator(_utc)]


class ErrorDetail(Schema):
    message: str
    type: str
    code: str
    param: str | None = None
    fields: dict[str, list[str]] | None = None


class ErrorBody(Schema):
    error: ErrorDetail


ERRORS = frozenset({400, 401, 402, 403, 404, 409, 410, 422, 429, 503})


def answers(ok: int = 200, schema: Any = None) -> dict:
    return {ok: schema, ERRORS: ErrorBody}


def file_answer(kind: str) -> dict:
    """`openapi_extra` of an operation that answers with a file."""
    return {"responses": {200: {"description": "OK", "content": {kind: {"schema": {"type": "string", **({"format": "binary"} if kind == "application/pdf" else {})}}}}}}


class Page(Schema, Generic[T]):
    object: str = "list"
    data: list[T]
    has_more: bool
    next: str | None = Field(None, description="give it as `after` for the following page")


def page(rows, *, order: str, after: str | None, limit: int) -> dict:
    """Rows in `order`, by id where it ties. `after`: the signed cursor of the page before; it holds when the row it names is gone."""
    name, down = order.lstrip("-"), order.startswith("-")
    cursor = Signer(salt=f"cursor {rows.model._meta.label}")
    if after:
        try:
            value, pk = cursor.unsign_object(after)
        except (BadSignature, ValueError, TypeError):
            raise BadRequest(f"after={after[:60]!r}: not a cursor of this list; begin without one", param="after") from None
        value, sign = rows.model._meta.get_field(name).to_python(value), "lt" if down else "gt"
        rows = rows.filter(Q(**{f"{name}__{sign}": value}) | Q(**{name: value, f"pk__{sign}": pk}))
    found = list(rows.order_by(order, "-pk" if down else "pk")[: limit + 1])
    data, more = found[:limit], len(found) > limit
    last = getattr(data[-1], name) if more else None
    return {"object": "list", "data": data, "has_more": more,
            "next": cursor.sign_object([last if isinstance(last, int) else last.isoformat(), data[-1].pk]) if more else None}  # fmt: skip


def Limit() -> Any:
    return Query(20, ge=1, le=100)


# Who calls


def _enter(request: HttpRequest, tenant: Tenant, actor: Actor, key: ApiKey | None) -> Actor:
    """Count the request, bind the tenant. Raises RateLimited, NotFound (asked at another workspace's host)."""
    if request.own_slug not in ("", tenant.slug):
        raise NotFound("This host is another workspace's.")
    request.rate = limiter().spend(levels_of(tenant, key), "requests_per_minute", scope=REST)
    request.tenant, request.actor = tenant, actor
    rebind(tenant)
    return actor


class Key(HttpBearer):
    """`Authorization: Bearer vv_…`, or a JWT of an OpenID provider that is set up here, or an operator's `vi_…` to look as a member."""

    def authenticate(self, request: HttpRequest, token: str):
        if token.count(".") == 2:
            return _member(request, bearer_user(token))
        if token.startswith("vi_"):
            return _looking(request, token)
        principal = api_key_authenticate(secret=token)
        if principal.ephemeral:
            raise InsufficientScope("A client secret opens realtime sessions only; use an API key.")
        key = ApiKey.objects.select_related("tenant").get(pk=principal.key_id)
        return _enter(request, key.tenant, principal.actor(), key)


def _looking(request: HttpRequest, token: str) -> Actor:
    row, member = impersonation_authenticate(secret=token)
    _check_active(member)
    if not row.writable and request.method not in ("GET", "HEAD", "OPTIONS"):
        raise Forbidden("You look at this workspace as somebody else, read only. Begin again with `writable` to change something.")
    return _enter(request, member.tenant, looking(member, row.id, row.writable), None)


class Member(SessionAuth):
    """The portal's own pages: the session cookie, with CSRF protection."""

    def authenticate(self, request: HttpRequest, key):
        user = super().authenticate(request, key)
        if user is None:
            return None
        return _member(request, user)


def _member(request: HttpRequest, user) -> Actor:
    slug = request.headers.get(TENANT_HEADER, "") or request.own_slug
    if not slug:
        members = memberships_of(user)
        if len(members) != 1:
            raise BadRequest(f"say which workspace with the header {TENANT_HEADER}", param=TENANT_HEADER)
        member = members[0]
    else:
        member = membership_in(user, slug)
        if member is None:
            raise NotFound(f"no workspace {slug[:60]!r}")
    _check_active(member)
    return _enter(request, member.tenant, acting(member, request.session.get("impersonated")), None)


def _check_active(member: Membership) -> None:
    if member.tenant.status != Tenant.Status.ACTIVE:
        raise AccountDeactivated(f"This workspace is {member.tenant.status}.")


def _person(request: HttpRequest, user) -> Any:
    level = Level(user.id, settings.LIMITS)  # where no workspace counts
    request.rate = limiter().spend((level,), "requests_per_minute", scope=REST)
    request.actor = Actor(user.id, name=user.email)
    request.person = user
    return user


class PersonToken(HttpBearer):
    """A JWT of an OpenID provider, for what a person does without a workspace."""

    def authenticate(self, request: HttpRequest, token: str):
        return _person(request, bearer_user(token)) if token.count(".") == 2 else None


class PersonSession(SessionAuth):
    def authenticate(self, request: HttpRequest, key):
        user = super().authenticate(request, key)
        return _person(request, user) if user else None


class OperatorKey(HttpBearer):
    """`Authorization: Bearer vo_…` (`manage.py apikey operator`)."""

    def authenticate(self, request: HttpRequest, token: str):
        request.actor = operator_authenticate(secret=token)
        return request.actor


class OperatorSession(SessionAuth):
    def authenticate(self, request: HttpRequest, key):
        user = super().authenticate(request, key)
        actor = operator(user) if user else None
        if actor is None or not actor.can("platform"):
            return None
        request.actor = actor
        return actor


def tenant_row(tenant_id: str) -> Tenant:
    """For operators, whatever its state. Raises NotFound."""
    found = None if "\0" in tenant_id else Tenant.objects.filter(pk=tenant_id).exclude(schema_name=TEMPLATE_SCHEMA).first()
    if found is None:
        raise NotFound(f"no tenant {tenant_id[:60]!r}")
    return found


def membership_of(request: HttpRequest, slug: str) -> Membership:
    """That of the person who asks; a workspace of others is one that does not exist. Raises NotFound."""
    member = None if "\0" in slug else membership_in(request.person, slug)
    if member is None:
        raise NotFound(f"no workspace {slug[:60]!r}")
    return member


def needs(permission: str) -> Callable:
    """The operation may be called by actors with this permission; services ask again."""

    def decorate(view: Callable) -> Callable:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args, **kwargs):
            request.actor.require(permission)
            return view(request, *args, **kwargs)

        return wrapped

    return decorate


def creates(view: Callable) -> Callable:
    """A creating POST: with an `Idempotency-Key` header a repeat is answered as before and changes nothing.

    Raises Conflict when the same key came with another request.
    """

    @functools.wraps(view)
    def wrapped(request: HttpRequest, *args, **kwargs):
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            return view(request, *args, **kwargs)
        if len(key) > 255 or not key.isprintable():
            raise BadRequest("Idempotency-Key: at most 255 printable characters", param="Idempotency-Key")
        actor = getattr(request, "actor", None)
        tenant = getattr(request, "tenant", None)
        caller = f"{tenant.id if tenant else ''}/{actor.id if actor else request.META.get('REMOTE_ADDR', '')}"
        digest = hashlib.sha256(f"{request.method} {request.path}\n".encode() + request.body).hexdigest()
        return _once(lambda: view(request, *args, **kwargs), caller[:80], key, digest)

    contribute_operation_callback(wrapped, _with_idempotency_key)
    return wrapped


def _with_idempotency_key(operation) -> None:
    """Names the header in the OpenAPI document."""
    operation.openapi_extra = {**(operation.openapi_extra or {}), "parameters": [{
        "in": "header", "name": "Idempotency-Key", "required": False, "schema": {"type": "string", "maxLength": 255, "pattern": "^[ -~]*$"},
        "description": "a repeat with the same key is answered as the first time and changes nothing (for a day)", "example": "order-1842",
    }]}  # fmt: skip


def _once(act: Callable, caller: str, key: str, digest: str):
    try:
        with transaction.atomic():
            row = IdempotentAnswer.objects.create(caller=caller, key=key, request=digest)  # a second one at once waits here
            answer = act()
            status, value = answer if isinstance(answer, tuple) else (200, answer)
            value = value.model_dump() if isinstance(value, Schema) else value
            IdempotentAnswer.objects.filter(pk=row.pk).update(status=status, body=Secret.seal(json.dumps(value, cls=NinjaJSONEncoder)))
        return answer
    except IntegrityError:
        known = IdempotentAnswer.objects.filter(caller=caller, key=key).first()
        if known is None:
            raise
    if known.request != digest:
        raise Conflict("this Idempotency-Key was used with another request", param="Idempotency-Key")
    return HttpResponse(Secret.open(known.body) or "{}", status=known.status, content_type="application/json", headers={"Idempotent-Replayed": "true"})
