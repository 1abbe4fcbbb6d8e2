"""The life of a tenant: made, suspended, resumed, closed, reopened, erased."""

from __future__ import annotations

import re
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone
from django_tenants.utils import schema_exists

from apps.audit.services import audit_head, audit_record
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict
from apps.common.fallbacks import check_fallbacks
from apps.tenants.clone import schema_clone
from apps.tenants.context import Bound, bound, bound_public, migrating
from apps.tenants.models import RESERVED_SLUGS, TEMPLATE_SCHEMA, Tenant, slug_validator

UNDO_DAYS = 30  # a closed workspace can be reopened for so long
RESUME_S = (10, 3600)  # how long a lost connection may come back, at least and at most
Status = Tenant.Status


def slug_of(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")


def check_slug(slug: str) -> None:
    """Raises BadRequest."""
    try:
        slug_validator(slug)
    except ValidationError as error:
        raise BadRequest(f"workspace name {slug[:60]!r}: {error.message}", param="slug") from error
    if slug in RESERVED_SLUGS or slug.startswith("pg-"):
        raise BadRequest(f"the workspace name {slug!r} is reserved", param="slug")


def tenant_reserve(*, name: str, slug: str | None = None, email: str = "") -> Tenant:
    """A row that holds the name; `schema_make` makes it a workspace. Raises BadRequest (slug), Conflict (slug taken)."""
    slug = slug or slug_of(name)
    check_slug(slug)
    schema = "t_" + slug.replace("-", "_")
    tenant = Tenant(name=name.strip()[:120] or slug, slug=slug, email=email, schema_name=schema, status=Status.PROVISIONING)
    with bound_public():
        connection.set_schema_to_public()  # what django-tenants looks at
        try:
            with transaction.atomic():
                tenant.save(force_insert=True)
        except (IntegrityError, ValidationError) as error:  # django-tenants looks first and says it as a ValidationError
            raise Conflict(f"the workspace name {slug!r} is taken", param="slug") from error
    return tenant


def schema_make(*, tenant: Tenant) -> None:
    """The schema, cloned from the template, and the tenant active: one transaction, so that a crash leaves a reserved name and
    nothing else. Safe to repeat; two at once wait for each other."""
    with migrating():
        connection.set_schema_to_public()
        with transaction.atomic():
            row = Tenant.objects.select_for_update().get(pk=tenant.pk)
            if row.status == Status.PROVISIONING:
                if schema_exists(row.schema_name):
                    raise Conflict(f"the schema {row.schema_name} exists already", param="slug")
                schema_clone(TEMPLATE_SCHEMA, row.schema_name)
                _copy_migrations(row.schema_name)
                Tenant.objects.filter(pk=row.pk).update(status=Status.ACTIVE)
    with bound_public():
        tenant.refresh_from_db()


def tenant_create(*, name: str, slug: str | None = None, email: str = "") -> Tenant:
    """A tenant with its schema. Raises BadRequest (slug), Conflict (slug taken)."""
    tenant = tenant_reserve(name=name, slug=slug, email=email)
    schema_make(tenant=tenant)
    return tenant


def _copy_migrations(schema: str) -> None:
    """The clone is empty; what the template has migrated, it has too."""
    with connection.cursor() as cursor:
        quoted, template = connection.ops.quote_name(schema), connection.ops.quote_name(TEMPLATE_SCHEMA)
        cursor.execute(f"INSERT INTO {quoted}.django_migrations (app, name, applied) SELECT app, name, applied FROM {template}.django_migrations")


def migrate_all(verbosity: int = 0, say=None) -> None:
    """Migrate the public schema, the template and every tenant that is behind, `say(done, all, slug, problem)` after each.

    Safe to stop at any point and run again: it goes on with those still behind. One that fails does not stop the others.
    Raises MigrationFailed at the end, naming those that failed.
    """
    with migrating():
        call_command("migrate_schemas", shared=True, interactive=False, verbosity=verbosity)
        connection.set_schema_to_public()
        if not Tenant.objects.filter(schema_name=TEMPLATE_SCHEMA).exists():
            Tenant.objects.create(name="Template", slug="tpl-template", schema_name=TEMPLATE_SCHEMA)
        if not schema_exists(TEMPLATE_SCHEMA):
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE SCHEMA {TEMPLATE_SCHEMA}")
        call_command("migrate_schemas", tenant=True, schema_name=TEMPLATE_SCHEMA, interactive=False, verbosity=verbosity)
        connection.set_schema_to_public()
        behind = [t for t in Tenant.objects.real() if not _up_to_date(t.schema_name)]
        failed = []
        for done, tenant in enumerate(behind, 1):
            problem = ""
            try:
                call_command("migrate_schemas", tenant=True, schema_name=tenant.schema_name, interactive=False, verbosity=verbosity)
            except (DatabaseError, CommandError) as error:
                problem = f"{type(error).__name__}: {error}".strip()[:300]
                failed.append(f"{tenant.slug} ({problem})")
            connection.set_schema_to_public()
            if say:
                say(done, len(behind), tenant.slug, problem)
    if failed:
        raise MigrationFailed(f"{len(failed)} of {len(behind)} workspaces were not migrated; mend and run it again: {'; '.join(failed)}")


class MigrationFailed(RuntimeError):
    """Some schemas stay behind; the message names them and why."""


def _up_to_date(schema: str) -> bool:
    """Has this schema every migration the template has? That is what lets a stopped run go on where it was."""
    quoted, template = connection.ops.quote_name(schema), connection.ops.quote_name(TEMPLATE_SCHEMA)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT NOT EXISTS (SELECT app, name FROM {template}.django_migrations EXCEPT SELECT app, name FROM {quoted}.django_migrations)")
        return cursor.fetchone()[0]


def _change(tenant: Tenant, actor: Actor, action: str, allowed: set[str], noted: dict | None = None, /, **values) -> None:
    """Change a tenant's state under lock, with a line in its own audit and in the operators'. Raises Conflict from a state not in `allowed`."""
    with bound_public(), transaction.atomic():
        row = Tenant.objects.select_for_update().get(pk=tenant.pk)
        if row.status not in allowed:
            raise Conflict(f"workspace {row.slug!r} is {row.status}; this needs one that is {' or '.join(sorted(allowed))}")
        before = {name: _plain(getattr(row, name)) for name in values}
        Tenant.objects.filter(pk=row.pk).update(**values)
        line = {"actor": actor, "action": action, "target": tenant.id, "before": before, "after": {n: _plain(v) for n, v in values.items()} | (noted or {})}
        audit_record(**line)
        if row.status != Status.ERASED and values.get("status") != Status.ERASED:
            with bound(row):
                audit_record(**line)
        tenant.refresh_from_db()


def _plain(value):
    return value.isoformat() if hasattr(value, "isoformat") else value


def tenant_suspend(*, tenant: Tenant, reason: str, actor: Actor) -> None:
    """New connections are refused from now on; live sessions are told and closed; all data stay. Raises Conflict, BadRequest."""
    actor.require("platform")
    if not reason.strip():
        raise BadRequest("say why the workspace is suspended: its owner will read it", param="reason")
    _change(tenant, actor, "tenant.suspended", {Status.ACTIVE}, status=Status.SUSPENDED, suspended_reason=reason.strip()[:300])
    end_sessions(f"tenant.{tenant.id}", "account_deactivated", "This workspace is suspended.")


def tenant_resume(*, tenant: Tenant, actor: Actor) -> None:
    actor.require("platform")
    _change(tenant, actor, "tenant.resumed", {Status.SUSPENDED}, status=Status.ACTIVE, suspended_reason="")


def tenant_close(*, tenant: Tenant, actor: Actor) -> None:
    """Like a suspension, by its owner or an operator; after UNDO_DAYS the data are erased."""
    actor.require("tenant.own", tenant.id)
    _change(tenant, actor, "tenant.closed", {Status.ACTIVE, Status.SUSPENDED}, status=Status.CLOSED, erase_at=timezone.now() + timedelta(days=UNDO_DAYS))
    end_sessions(f"tenant.{tenant.id}", "account_deactivated", "This workspace was closed.")


def tenant_reopen(*, tenant: Tenant, actor: Actor) -> None:
    actor.require("tenant.own", tenant.id)
    _change(tenant, actor, "tenant.reopened", {Status.CLOSED}, status=Status.ACTIVE, erase_at=None, suspended_reason="")


def tenant_erase(*, tenant: Tenant, actor: Actor) -> None:
    """Drop the schema, destroy keys, memberships and invitations; a tombstone and the operators' audit stay. Raises Conflict unless closed."""
    actor.require("platform")
    with bound_public(), transaction.atomic():
        schema = tenant.schema_name
        with bound(tenant):
            head = audit_head()
        _change(tenant, actor, "tenant.erased", {Status.CLOSED}, {"audit": head}, status=Status.ERASED, email="", name="(erased)", erase_at=None, milestones={},
                tool_hosts=[], allowed_origins=[], fallbacks={}, limits={})  # fmt: skip
        for related in ("api_keys", "memberships", "invitations", "issuers", "domains", "impersonations"):
            getattr(tenant, related).all().delete()
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {connection.ops.quote_name(schema)} CASCADE")
    end_sessions(f"tenant.{tenant.id}", "account_deactivated", "This workspace was erased.")


def tenant_override(*, tenant: Tenant, actor: Actor, limits: dict, plan: str, until) -> None:
    """An operator's exception: limits and plan that count in place of those of the plan, until then."""
    actor.require("platform")
    states = {Status.ACTIVE, Status.SUSPENDED}
    _change(tenant, actor, "tenant.overridden", states, limits=limits, plan=plan, override_until=until)


def tenant_update(*, tenant: Tenant, actor: Actor, **values) -> None:
    """`name`, `email`, `tool_hosts`, `allowed_origins`, `fallbacks`, `resume_seconds`. Raises Forbidden, BadRequest."""
    actor.require("tenant.write", tenant.id)
    if unknown := set(values) - {"name", "email", "tool_hosts", "allowed_origins", "fallbacks", "resume_seconds"}:
        raise BadRequest(f"cannot change {sorted(unknown)}", param=sorted(unknown)[0])
    if "name" in values and not values["name"].strip():
        raise BadRequest("the workspace needs a name", param="name")
    for host in values.get("tool_hosts", ()):
        if not re.fullmatch(r"(?=.{1,253}\Z)[a-z0-9-]+(\.[a-z0-9-]+)+", host):
            raise BadRequest(f"{host[:80]!r} is not a host name", param="tool_hosts")
    for allowed in values.get("allowed_origins", ()):
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d{1,5})?", allowed):
            raise BadRequest(f"{allowed[:80]!r} is not an origin such as https://app.example.com", param="allowed_origins")
    check_fallbacks(values.get("fallbacks", {}))
    if (seconds := values.get("resume_seconds")) is not None and not RESUME_S[0] <= seconds <= RESUME_S[1]:
        raise BadRequest(f"resume_seconds={seconds}: expected {RESUME_S[0]} to {RESUME_S[1]}, or nothing for the usual window", param="resume_seconds")
    _change(tenant, actor, "tenant.updated", {Status.ACTIVE}, **values)


def milestone(*, tenant_id: str, name: str) -> bool:
    """Note the first time of something (signed_up, first_session, first_answer, payment_method). True when it was the first."""
    with bound_public(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tenants_tenant SET milestones = milestones || jsonb_build_object(%s::text, %s::text) WHERE id = %s AND NOT milestones ? %s",
            [name, timezone.now().isoformat(), tenant_id, name],
        )
        return cursor.rowcount == 1


def end_sessions(group: str, code: str, message: str) -> None:
    """Tell every gateway to end the sessions of `tenant.<id>`, `key.<id>` or `session.<id>`, once this transaction is committed."""
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    def tell() -> None:
        async_to_sync(get_channel_layer().group_send)(group, {"type": "session.end", "code": code, "message": message})

    transaction.on_commit(tell)


def tenant_by_slug(slug: str) -> Bound | None:
    row = Tenant.objects.real().filter(slug=slug).values_list("id", "schema_name", "slug").first()
    return Bound(*row) if row else None
