from datetime import datetime

from ninja import Field, Router

from apps.api.v1.base import Body, Limit, Page, Schema, When, answers, creates, needs, page
from apps.apikeys.models import ApiKey
from apps.apikeys.services import DEFAULT_SCOPES, api_key_issue, api_key_revoke, api_key_rotate
from apps.common.errors import NotFound

router = Router()


class KeyOut(Schema):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    limits: dict[str, int]
    allowed_origins: list[str]
    state: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    last_used_ip: str


class NewKey(KeyOut):
    secret: str = Field(description="shown once")


class KeyIn(Body):
    name: str = Field(examples=["production"])
    scopes: list[str] = Field(list(DEFAULT_SCOPES), examples=[["realtime:connect"]], max_length=10)
    expires_at: When | None = Field(None, examples=["2027-01-31T12:00:00Z"])
    limits: dict[str, int] = Field({}, examples=[{"concurrent_sessions": 5}])
    allowed_origins: list[str] = Field([], max_length=100)


class Rotate(Body):
    grace_seconds: int | None = Field(None, ge=0, le=30 * 86400)


def _key(request, key_id: str) -> ApiKey:
    found = None if "\0" in key_id else ApiKey.objects.select_related("tenant").filter(tenant=request.tenant, pk=key_id).first()
    if found is None:
        raise NotFound(f"no key {key_id[:60]!r}")
    return found


def _new(row: ApiKey, secret: str) -> dict:
    return {**KeyOut.from_orm(row).dict(), "secret": secret}


@router.get("", response=answers(200, Page[KeyOut]), summary="Keys")
@needs("keys.read")
def listing(request, limit: int = Limit(), after: str | None = None):
    return 200, page(ApiKey.objects.filter(tenant=request.tenant), order="-created_at", after=after, limit=limit)


@router.post("", response=answers(201, NewKey), summary="New key")
@needs("keys.write")
@creates
def create(request, payload: KeyIn):
    return 201, _new(*api_key_issue(tenant=request.tenant, actor=request.actor, **payload.dict()))


@router.get("{key_id}", response=answers(200, KeyOut), summary="A key")
@needs("keys.read")
def get(request, key_id: str):
    return 200, _key(request, key_id)


@router.post("{key_id}/rotate", response=answers(201, NewKey), summary="Replace a key; the old one works for the grace")
@needs("keys.write")
@creates
def rotate(request, key_id: str, payload: Rotate):
    return 201, _new(*api_key_rotate(key=_key(request, key_id), actor=request.actor, grace_s=payload.grace_seconds))


@router.delete("{key_id}", response=answers(204), summary="Revoke; its live sessions end")
@needs("keys.write")
def revoke(request, key_id: str):
    api_key_revoke(key=_key(request, key_id), actor=request.actor)
    return 204, None
