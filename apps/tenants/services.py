"""Creating, suspending and resuming tenants."""

from __future__ import annotations

import re

from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django_tenants.clone import CloneSchema
from django_tenants.utils import schema_exists

from apps.common.errors import BadRequest, Conflict
from apps.tenants.context import Bound, bound_public, migrating
from apps.tenants.models import RESERVED_SLUGS, TEMPLATE_SCHEMA, Tenant, slug_validator


def tenant_create(*, name: str, slug: str | None = None, email: str = "") -> Tenant:
    """A tenant with its schema, cloned from the template in one transaction: a crash leaves nothing behind.

    Raises BadRequest (slug), Conflict (slug taken).
    """
    slug = slug or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    check_slug(slug)
    tenant = Tenant(name=name, slug=slug, email=email, schema_name="t_" + slug.replace("-", "_"))
    with migrating():
        connection.set_schema_to_public()
        try:
            with transaction.atomic():
                if Tenant.objects.filter(slug=slug).exists() or schema_exists(tenant.schema_name):
                    raise Conflict(f"the workspace name {slug!r} is taken", param="slug")
                tenant.save(force_insert=True)
                CloneSchema().clone_schema(TEMPLATE_SCHEMA, tenant.schema_name, "NODATA")
                _copy_migrations(tenant.schema_name)
        except IntegrityError as error:
            raise Conflict(f"the workspace name {slug!r} is taken", param="slug") from error
    return tenant


def _copy_migrations(schema: str) -> None:
    """The clone is empty; what the template has migrated, it has too."""
    with connection.cursor() as cursor:
        quoted, template = connection.ops.quote_name(schema), connection.ops.quote_name(TEMPLATE_SCHEMA)
        cursor.execute(f"INSERT INTO {quoted}.django_migrations (app, name, applied) SELECT app, name, applied FROM {template}.django_migrations")


def check_slug(slug: str) -> None:
    """Raises BadRequest."""
    try:
        slug_validator(slug)
    except ValidationError as error:
        raise BadRequest(f"workspace name {slug!r}: {error.message}", param="slug") from error
    if slug in RESERVED_SLUGS or slug.startswith("pg-"):
        raise BadRequest(f"the workspace name {slug!r} is reserved", param="slug")


def migrate_all(verbosity: int = 0) -> None:
    """Migrate the public schema, the template and every tenant. Safe to stop and run again."""
    with migrating():
        call_command("migrate_schemas", shared=True, interactive=False, verbosity=verbosity)
        connection.set_schema_to_public()
        if not Tenant.objects.filter(schema_name=TEMPLATE_SCHEMA).exists():
            Tenant.objects.create(name="Template", slug="tpl-template", schema_name=TEMPLATE_SCHEMA)
        if not schema_exists(TEMPLATE_SCHEMA):
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE SCHEMA {TEMPLATE_SCHEMA}")
        call_command("migrate_schemas", tenant=True, schema_name=TEMPLATE_SCHEMA, interactive=False, verbosity=verbosity)
        call_command("migrate_schemas", tenant=True, interactive=False, verbosity=verbosity)
        connection.set_schema_to_public()


def tenant_suspend(*, tenant: Tenant, reason: str) -> None:
    """New connections are refused from now on; live ones are told by `signals.tenant_ended`."""
    with bound_public():
        Tenant.objects.filter(pk=tenant.pk).update(status=Tenant.Status.SUSPENDED, suspended_reason=reason)
        tenant.refresh_from_db()
    end_sessions(f"tenant.{tenant.id}", "account_deactivated", "This workspace is suspended.")


def tenant_resume(*, tenant: Tenant) -> None:
    with bound_public():
        Tenant.objects.filter(pk=tenant.pk).update(status=Tenant.Status.ACTIVE, suspended_reason="")
        tenant.refresh_from_db()


def end_sessions(group: str, code: str, message: str) -> None:
    """Tell every gateway to end the sessions of `tenant.<id>` or `key.<id>` (docs/architecture.md, "Control messages")."""
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    async_to_sync(get_channel_layer().group_send)(group, {"type": "session.end", "code": code, "message": message})


def tenant_by_slug(slug: str) -> Bound | None:
    row = Tenant.objects.real().filter(slug=slug).values_list("id", "schema_name", "slug").first()
    return Bound(*row) if row else None


