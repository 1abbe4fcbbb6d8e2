"""What a new workspace is made of: tenant, default agent, owner."""

from __future__ import annotations

import secrets

from apps.accounts.models import User
from apps.agents.services import agent_create
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue
from apps.teams.models import Membership, Role
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_create

DEMO_EMAIL = "demo@vivavoce.local"
DEMO_SLUG = "demo"


def workspace_create(*, name: str, slug: str | None = None, email: str = "") -> Tenant:
    """A tenant that can be talked to at once. Raises BadRequest, Conflict."""
    tenant = tenant_create(name=name, slug=slug, email=email)
    with bound(tenant):
        agent_create(name="Assistant", is_default=True)
    return tenant


def demo_ensure(*, known: dict[str, str]) -> dict[str, str]:
    """The demo workspace, its user and a key that works. `known`: what an earlier start wrote down (password, api_key)."""
    with bound_public():
        tenant = Tenant.objects.filter(slug=DEMO_SLUG).first() or workspace_create(name="Demo", slug=DEMO_SLUG, email=DEMO_EMAIL)
        user = User.objects.filter(email=DEMO_EMAIL).first()
        password = known.get("password", "")
        if user is None or not password or not user.check_password(password):
            password = secrets.token_urlsafe(12)
            user = user or User(email=DEMO_EMAIL, name="Demo", is_staff=True, is_superuser=True)
            user.set_password(password)
            user.save()
        Membership.objects.get_or_create(tenant=tenant, user=user, defaults={"role": Role.OWNER})
        secret = known.get("api_key", "")
        key = ApiKey.objects.filter(tenant=tenant, prefix=secret[3:11]).first() if secret else None
        if key is None or not key.usable:
            key, secret = api_key_issue(tenant=tenant, name="demo")
    return {"email": DEMO_EMAIL, "password": password, "api_key": secret, "slug": DEMO_SLUG, "tenant": tenant.id}


