"""From a stranger to a workspace that answers: sign-up, provisioning, the demo."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from celery import current_app
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from kombu.exceptions import OperationalError

from apps.accounts.models import User
from apps.agents.models import Agent
from apps.agents.services import agent_create, template_fields
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue, first_key_issue, first_key_note
from apps.billing.subscriptions import subscription_begin
from apps.common.actors import SYSTEM
from apps.common.errors import Conflict, Unprocessable
from apps.common.mail import mail_later
from apps.teams.models import Membership, Role
from apps.tenants.context import bound, bound_public
from apps.tenants.models import RESERVED_SLUGS, Tenant
from apps.tenants.services import milestone, schema_make, slug_of, tenant_reserve

DEMO_EMAIL = "demo@vivavoce.local"
DEMO_SLUG = "demo"
RACES = 20


def workspace_create(*, name: str, slug: str | None = None, email: str = "", template: str = "assistant") -> Tenant:
    """A tenant that can be talked to at once. Raises BadRequest, Conflict."""
    fields = template_fields(template)
    tenant = tenant_reserve(name=name, slug=slug, email=email)
    workspace_provision(tenant=tenant, **fields)
    return tenant


def workspace_provision(*, tenant: Tenant, **fields) -> None:
    """Schema and first agent; safe to repeat after a crash at any point."""
    schema_make(tenant=tenant)
    with bound(tenant), transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)
        if not Agent.objects.exists():
            agent_create(name="Assistant", is_default=True, actor=SYSTEM, **fields)
            first_key_note(tenant=tenant)


def workspace_request(*, user: User, name: str, slug: str | None = None, template: str = "assistant") -> tuple[Tenant, str]:
    """Reserve the name, make `user` its owner and let the `default` worker provision it; the tenant and the secret of its first key, which
    is stored nowhere. Raises BadRequest, Conflict."""
    template_fields(template)
    with transaction.atomic():
        tenant = reserve(name=name, slug=slug, email=user.email)
        Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER)
        milestone(tenant_id=tenant.id, name="signed_up")
        _, secret = first_key_issue(tenant=tenant, user_id=user.id)
        transaction.on_commit(lambda: provision_later(tenant.id, template))
    return tenant, secret


def provision_later(tenant_id: str, template: str) -> None:
    try:
        current_app.send_task("onboarding.provision", args=(tenant_id, template), queue="default", ignore_result=True, retry=False)
    except (OSError, OperationalError):
        pass  # the sweep of apps/onboarding/tasks.py finds it


def free_slug(name: str) -> str:
    """A slug of the name, with a number where it is taken or reserved, and `ws-` before what may not begin one."""
    base = slug_of(name) or "workspace"
    if not base[0].isalpha() or len(base) < 3 or base.startswith("pg-"):
        base = f"ws-{base}"[:40].strip("-")
    taken = RESERVED_SLUGS | set(Tenant.objects.filter(slug__startswith=base[:34]).values_list("slug", flat=True))
    return next(s for n in range(10**6) if (s := base if not n else f"{base[:34].strip('-')}-{n + 1}") not in taken)


def reserve(*, name: str, slug: str | None, email: str) -> Tenant:
    """With no slug given one is made of the name; who loses a race for it gets the next number. Raises BadRequest, Conflict."""
    if slug:
        return tenant_reserve(name=name, slug=slug, email=email)
    for _ in range(RACES):
        try:
            return tenant_reserve(name=name, slug=free_slug(name), email=email)
        except Conflict:
            continue
    raise Conflict(f"too many ask for a workspace called {name[:60]!r} just now; try again", param="workspace")


@dataclass(frozen=True, slots=True)
class SignedUp:
    tenant: Tenant
    user: User
    agent_id: str
    api_key: str
    api_key_prefix: str


def sign_up(*, email: str, password: str, workspace: str, accept_terms: bool, name: str = "", template: str = "assistant") -> SignedUp:
    """Everything at once, for `POST /api/v1/auth/signup`. Raises Conflict (e-mail), Unprocessable (fields), BadRequest."""
    email = email.strip().lower()
    problems: dict[str, list[str]] = {}
    try:
        validate_email(email)
    except ValidationError as error:
        problems["email"] = error.messages
    try:
        validate_password(password, User(email=email, name=name))
    except ValidationError as error:
        problems["password"] = error.messages
    if not accept_terms:
        problems["accept_terms"] = ["The terms must be accepted."]
    if not workspace.strip() or "\0" in workspace + name + password:
        problems["workspace"] = ["The workspace needs a name."]
    if problems:
        raise Unprocessable("The sign-up is not complete: " + ", ".join(problems), fields=problems)
    with bound_public():
        if User.objects.filter(email__iexact=email).exists():
            raise Conflict("There is an account with this e-mail already; sign in instead.", param="email")
        template_fields(template)
        try:
            with transaction.atomic():
                user = User.objects.create_user(email, password, name=name[:120])
                tenant = reserve(name=workspace, slug=None, email=email)
                Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER)
                milestone(tenant_id=tenant.id, name="signed_up")
        except IntegrityError as error:
            raise Conflict("There is an account with this e-mail already; sign in instead.", param="email") from error
        workspace_provision(tenant=tenant, **template_fields(template))
        subscription_begin(tenant=tenant)
        key, secret = api_key_issue(tenant=tenant, name="first key", actor=SYSTEM)
        welcome(tenant, email)
    with bound(tenant):
        agent = Agent.objects.get(is_default=True)
    return SignedUp(tenant, user, agent.id, secret, f"vv_{key.prefix}")


def welcome(tenant: Tenant, email: str) -> None:
    from django.conf import settings

    mail_later("welcome", email, f"{tenant.name} is ready", f"Your workspace {tenant.name} is ready:\n{settings.PORTAL_URL}/t/{tenant.slug}/\n\n"
               "The page Quickstart has your address and key in snippets for Python, JavaScript and curl, and a playground to talk in the browser.")  # fmt: skip


def demo_ensure(*, known: dict[str, str]) -> dict[str, str]:
    """The demo workspace, its user and a key that works. `known`: what an earlier start wrote down (password, api_key)."""
    with bound_public():
        tenant = Tenant.objects.filter(slug=DEMO_SLUG).first() or tenant_reserve(name="Demo", slug=DEMO_SLUG, email=DEMO_EMAIL)
        workspace_provision(tenant=tenant, **template_fields("assistant"))
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
            key, secret = api_key_issue(tenant=tenant, name="demo", actor=SYSTEM)
    return {"email": DEMO_EMAIL, "password": password, "api_key": secret, "slug": DEMO_SLUG, "tenant": tenant.id}
