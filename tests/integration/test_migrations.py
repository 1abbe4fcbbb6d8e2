"""The models and their migrations say the same, dj-stripe's (one migration of ours) too; migrating all workspaces can be stopped and resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest
from django.core.management import call_command
from django.db import connection

from apps.tenants.context import bound, bound_public
from apps.tenants.services import _up_to_date, schema_make, tenant_create, tenant_reserve
from tests.infrastructure import ROOT


def test_nothing_is_left_to_migrate(database):
    with bound_public():
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)


CATALOGUE = {
    "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity, character_maximum_length FROM information_schema.columns WHERE table_schema = %s",
    "constraints": "SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = %s::regnamespace",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = %s",
    "triggers": "SELECT c.relname, tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = %s::regnamespace AND NOT tgisinternal",
}  # fmt: skip


@pytest.mark.parametrize("what", CATALOGUE)
def test_a_new_schema_is_like_the_template_in_all_names_and_rules(database, what):
    """Later migrations find constraints and indexes by their names."""
    with bound_public():
        tenant = tenant_create(name="Alike", slug=f"alike-{time.time_ns() % 10**9}")
        with connection.cursor() as cursor:
            found = []
            for schema in ("tpl", tenant.schema_name):
                cursor.execute(CATALOGUE[what], [schema])
                found.append(sorted(str(row).replace(f"{schema}.", "").replace(f'"{schema}".', "") for row in cursor.fetchall()))
    assert found[0] and found[0] == found[1]


def bootstrap() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "manage.py", "bootstrap"], cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def put_back(tenants) -> None:
    """As if the migrations of the agents had not been run yet in these schemas."""
    for tenant in tenants:
        with bound(tenant), connection.cursor() as cursor:
            cursor.execute("DROP TABLE agents_agent, agents_agentversion CASCADE")
            cursor.execute("DELETE FROM django_migrations WHERE app = 'agents'")
    with bound_public(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM public.vivavoce_schema")


def test_migrating_all_says_how_far_it_is_and_goes_on_where_it_was_killed(database):
    with bound_public():
        tenants = [tenant_create(name="Behind", slug=f"behind-{time.time_ns() % 10**9}-{n}") for n in range(5)]
    put_back(tenants)
    first, seen = bootstrap(), []
    for line in first.stderr:
        if found := re.match(r"migrated (\d+)/5 behind", line):
            seen.append(found[1])
            if len(seen) == 2:
                first.kill()
                break
    first.wait(10)
    first.stderr.close()
    with bound_public():
        left = sum(not _up_to_date(t.schema_name) for t in tenants)
    assert seen == ["1", "2"] and 2 <= left <= 3
    second = bootstrap()
    lines = re.findall(r"migrated (\d+)/(\d+) behind", second.communicate(timeout=120)[1])
    assert second.returncode == 0 and lines == [(str(n + 1), str(left)) for n in range(left)]
    with bound_public():
        assert all(_up_to_date(t.schema_name) for t in tenants)


def test_one_that_fails_does_not_stop_the_others(database):
    with bound_public():
        tenants = [tenant_create(name="Bad", slug=f"bad-{time.time_ns() % 10**9}-{n}") for n in range(2)]
    put_back(tenants)
    with bound(tenants[0]), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE agents_agent (id int)")  # in the way
    run = bootstrap()
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and f"FAILED 1/2 {tenants[0].slug}" in said and f"migrated 2/2 {tenants[1].slug}" in said
    with bound(tenants[0]), connection.cursor() as cursor:
        cursor.execute("DROP TABLE agents_agent")
    assert bootstrap().wait(120) == 0


def test_two_at_once_on_an_empty_database_do_the_work_once(database, tmp_path):
    """As two containers that start together: one migrates and makes the demo, the other waits and finds nothing to do."""
    name = f"twice_{time.time_ns() % 10**9}"
    with bound_public(), connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    url = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + name
    runs = [subprocess.Popen([sys.executable, "manage.py", "bootstrap", "--demo", "--json"], cwd=ROOT, env={**os.environ, "DATABASE_URL": url}, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]  # fmt: skip
    said = [run.communicate(timeout=280) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    results = [json.loads(out) for out, _ in said]
    assert sorted(r["migrated"] for r in results) == [False, True] and len({r["tenant"] for r in results}) == 1
    with bound_public(), connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("after_ms", [0, 100, 300])
def test_a_schema_whose_making_was_killed_leaves_no_half_workspace(database, after_ms):
    """kill -9 at some instant: either all of it is there, or the name is reserved and making it again finishes it."""
    from apps.tenants.models import Tenant

    with bound_public():
        tenant = tenant_reserve(name="Killed", slug=f"killed-{time.time_ns() % 10**9}")
    code = ("import django; django.setup()\nfrom apps.tenants.context import bound_public\nfrom apps.tenants.models import Tenant\n"
            f"from apps.tenants.services import schema_make\nwith bound_public():\n    tenant = Tenant.objects.get(pk={tenant.id!r})\n    print('go', flush=True)\n    schema_make(tenant=tenant)")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    time.sleep(after_ms / 1000)
    process.kill()
    process.wait(10)
    process.stdout.close()
    with bound_public(), connection.cursor() as cursor:
        until = time.monotonic() + 10
        while True:  # the server notices the lost client when it next speaks to it
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid() AND query ILIKE '%%clone%%'")
            if not cursor.fetchone()[0] or time.monotonic() > until:
                break
            time.sleep(0.1)
        cursor.execute("SELECT count(*) FROM information_schema.schemata WHERE schema_name = %s", [tenant.schema_name])
        there = cursor.fetchone()[0]
        tenant.refresh_from_db()
        assert (there, tenant.status) in ((0, "provisioning"), (1, "active"))
        assert (tenant in Tenant.objects.real()) == bool(there)
        schema_make(tenant=tenant)
        assert tenant.status == "active" and _up_to_date(tenant.schema_name)
