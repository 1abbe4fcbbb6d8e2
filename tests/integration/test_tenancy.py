"""Tenants are apart: the naive patterns are refused, and a storm of asynchronous reads finds nothing foreign."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.db import connection
from django.db.utils import DatabaseError, ProgrammingError
from django_tenants.utils import schema_context

from apps.agents.models import Agent
from apps.agents.services import agent_create
from apps.apikeys.models import ApiKey
from apps.common.actors import SYSTEM
from apps.common.errors import BadRequest, Conflict
from apps.tenants.context import Bound, NoTenantBound, bound, bound_public, in_public, in_tenant
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_create
from apps.usage.ledger import unbilled_record
from apps.usage.models import UsageEntry
from apps.usage.rollups import totals
from apps.usage.services import usage_record

READS = 50_000
TENANTS = 20


@pytest.fixture(scope="module")
def tenants(database) -> list[Bound]:
    made = []
    for number in range(TENANTS):
        with bound_public():
            tenant = tenant_create(name=f"Storm {number}", slug=f"storm-{os.getpid()}-{number}")
        value = Bound(tenant.id, tenant.schema_name, tenant.slug)
        with bound(value):
            agent_create(name=f"canary {value.tenant_id}", is_default=True, actor=SYSTEM)
            cache.set("canary", value.tenant_id, 600)
        made.append(value)
    return made


def test_with_nothing_bound_nothing_is_read(database):
    with pytest.raises(NoTenantBound):
        list(Agent.objects.all())
    with pytest.raises(NoTenantBound):
        Tenant.objects.count()
    with pytest.raises(NoTenantBound):
        cache.get("anything")


def test_tenant_tables_are_not_in_the_public_schema(database):
    with bound_public(), pytest.raises(ProgrammingError, match="agents_agent"):
        list(Agent.objects.all())


async def test_naive_pattern_one_is_refused(tenants):
    """schema_context around an awaited query: stock django-tenants reads `public`."""
    with schema_context(tenants[0].schema), pytest.raises(NoTenantBound):
        await Agent.objects.acount()


async def test_naive_pattern_two_is_refused(tenants):
    """Set the tenant in one thread hop, query in the next: stock django-tenants reads another tenant's rows."""
    await sync_to_async(lambda: connection.set_schema(tenants[0].schema))()
    with pytest.raises(NoTenantBound):
        await sync_to_async(lambda: list(Agent.objects.all()))()


async def test_what_the_library_was_told_does_not_matter(tenants):
    def read() -> str:
        connection.set_schema(tenants[1].schema)
        return Agent.objects.get().name

    assert await in_tenant(tenants[0], read) == f"canary {tenants[0].tenant_id}"


class Lines(logging.Handler):
    """Formats each record as the product does and keeps (who wrote it, which tenant the line carries)."""

    def __init__(self):
        super().__init__()
        self.rows: list[tuple[str, str]] = []

    def emit(self, record):
        from apps.tenants.context import label

        self.rows.append((record.getMessage(), label()))


async def test_a_storm_of_reads_finds_nothing_foreign(tenants):
    log, lines = logging.getLogger("tests.storm"), Lines()
    log.addHandler(lines)
    log.propagate = False
    log.setLevel(logging.INFO)

    def read(expected: str) -> tuple[str, str, list[str]]:
        log.info(expected)
        keys = [*ApiKey.objects.filter(tenant_id=expected).values_list("tenant_id", flat=True)]
        return Agent.objects.get().name, cache.get("canary"), keys

    foreign, done = [], 0
    rng = random.Random(7)

    async def reader(count: int) -> None:
        nonlocal done
        for _ in range(count):
            tenant = tenants[rng.randrange(TENANTS)]
            name, cached, keys = await in_tenant(tenant, read, tenant.tenant_id)
            if name != f"canary {tenant.tenant_id}" or cached != tenant.tenant_id or any(k != tenant.tenant_id for k in keys):
                foreign.append((tenant.tenant_id, name, cached))
            done += 1

    # each read looks at a row of the tenant's schema, a cache value, the public table and a log line
    per_read = 3
    await asyncio.gather(*(reader(READS // per_read // 40 + 1) for _ in range(40)))
    wrong_lines = [row for row in lines.rows if row[0] != row[1]]
    assert done * per_read >= READS and len(lines.rows) == done
    assert foreign == [] and wrong_lines == []


def test_the_ledger_refuses_change(tenants):
    with bound(tenants[0]):
        usage_record(session_id="sess_a", turn_id="turn_a", meters={"tokens_in": 5, "tokens_out": 0})
        usage_record(session_id="sess_a", turn_id="turn_a", meters={"tokens_in": 7})
        assert list(UsageEntry.objects.values_list("meter", "quantity")) == [("tokens_in", 5)]
        unbilled_record(session_id="sess_a", turn_id="turn_a", meters={"tokens_in": 9})
        assert totals() == {"tokens_in": 5}  # what the client never got is kept apart
        for meters in ({"tokens_in": -1}, {"tokens_in": 10**13}, {"tokens_in": 1.5}, {"tokens": 1}):
            with pytest.raises(BadRequest):
                usage_record(session_id="sess_a", turn_id="turn_b", meters=meters)
        with pytest.raises(DatabaseError, match="append-only"):
            UsageEntry.objects.update(quantity=1)
        with pytest.raises(DatabaseError, match="append-only"):
            UsageEntry.objects.all().delete()


def test_names_that_may_not_be(database):
    with bound_public():
        for slug in ("public", "admin", "pg-x", "a", "Bad", "x" * 60, "drop table", "ünïcode", "tpl"):
            with pytest.raises(BadRequest):
                tenant_create(name="x", slug=slug)


def test_a_name_can_be_had_once(tenants):
    with bound_public(), pytest.raises(Conflict):
        tenant_create(name="again", slug=tenants[0].slug)


async def test_a_database_that_does_not_answer_holds_up_its_own_threads_only():
    """PostgreSQL restarts under many sessions: limits are counted and jobs handed out all the same."""
    waiting = [asyncio.create_task(in_public(time.sleep, 0.6)) for _ in range(40)]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await asyncio.to_thread(len, "")
    assert time.monotonic() - began < 0.5
    for task in waiting:
        task.cancel()
