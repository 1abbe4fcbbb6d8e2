"""OpenID providers: a workspace's own, and (for operators) the platform's."""

from datetime import datetime

from ninja import Field, Router

from apps.accounts.models import Issuer
from apps.api.v1.base import Body, Schema, answers, creates, needs
from apps.common.errors import NotFound
from apps.teams.oidc import TRUST_MINUTES, issuer_remove, issuer_save

router = Router()
platform = Router()


class IssuerOut(Schema):
    id: str
    name: str
    issuer: str
    client_id: str
    claim: str
    roles: dict[str, str]
    default_role: str
    active: bool
    checked_by: str = Field(description="how we learn that somebody was switched off there: look-up, offline token or session")
    trust_minutes: int
    created_at: datetime
    sign_in: str = Field(description="where its people sign in")

    @staticmethod
    def resolve_sign_in(row) -> str:
        return f"/oidc/{row.id}"


class IssuerIn(Body):
    name: str = Field("", max_length=80, examples=["Example staff"])
    issuer: str = Field(max_length=300, examples=["https://login.example.com/realms/staff"], description="its discovery document is read")
    client_id: str = Field(max_length=200, examples=["vivavoce"])
    client_secret: str = Field("", max_length=500, description="never shown again")
    claim: str = Field("groups", max_length=80, examples=["groups"])
    roles: dict[str, str] = Field({}, examples=[{"/staff": "developer"}], description="value of the claim to role; never owner")
    default_role: str = Field("", max_length=16, examples=["viewer"])
    trust_minutes: int = Field(0, ge=0, le=TRUST_MINUTES, description="of people the provider cannot be asked about: how long their keys go on without word of them")


def _one(request, issuer_id: str) -> Issuer:
    tenant = getattr(request, "tenant", None)
    found = None if "\0" in issuer_id else Issuer.objects.filter(tenant=tenant, pk=issuer_id).first()
    if found is None:
        raise NotFound(f"no issuer {issuer_id[:60]!r}")
    return found


def _add(router: Router, name: str, read, write) -> None:
    """The same three operations at both places; `read` and `write` ask for the permission."""

    @router.get("issuers", operation_id=f"{name}_issuers", response=answers(200, list[IssuerOut]), summary="OpenID providers")
    @read
    def listing(request):
        return 200, list(Issuer.objects.filter(tenant=getattr(request, "tenant", None)).order_by("created_at")[:100])

    @router.post("issuers", operation_id=f"{name}_issuer_save", response=answers(201, IssuerOut),
                 summary="Add or change one (issuer and client_id name it)")
    @write
    @creates
    def save(request, payload: IssuerIn):
        return 201, IssuerOut.from_orm(issuer_save(tenant=getattr(request, "tenant", None), actor=request.actor, **payload.dict()))

    @router.delete("issuers/{issuer_id}", operation_id=f"{name}_issuer_remove", response=answers(204),
                   summary="Remove one; the browsers of its people are signed out")
    @write
    def remove(request, issuer_id: str):
        issuer_remove(issuer=_one(request, issuer_id), actor=request.actor)
        return 204, None


_add(router, "tenant", needs("tenant.read"), needs("tenant.write"))
_add(platform, "platform", needs("platform"), needs("platform"))
