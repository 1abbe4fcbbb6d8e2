"""Operators give workspaces host names of their own."""

from ninja import Field, Router

from apps.api.v1.base import Body, answers, creates, tenant_row
from apps.common.errors import NotFound
from apps.tenants.hosts import domain_add, domain_remove

router = Router()


class DomainIn(Body):
    host: str = Field(max_length=260, examples=["voice.example.com"], description="its DNS and certificate are yours to arrange")


@router.get("tenants/{tenant_id}/domains", response=answers(200, list[str]), summary="Host names that lead to a tenant's pages")
def listing(request, tenant_id: str):
    return 200, list(tenant_row(tenant_id).domains.order_by("domain").values_list("domain", flat=True)[:1000])


@router.post("tenants/{tenant_id}/domains", response=answers(201, list[str]), summary="One more")
@creates
def add(request, tenant_id: str, payload: DomainIn):
    row = tenant_row(tenant_id)
    domain_add(tenant=row, host=payload.host, actor=request.actor)
    return 201, listing(request, tenant_id)[1]


@router.delete("tenants/{tenant_id}/domains/{host}", response=answers(204), summary="One less")
def remove(request, tenant_id: str, host: str):
    found = None if "\0" in host else tenant_row(tenant_id).domains.select_related("tenant").filter(domain=host.lower()).first()
    if found is None:
        raise NotFound(f"no host {host[:60]!r} of this tenant")
    domain_remove(domain=found, actor=request.actor)
    return 204, None
