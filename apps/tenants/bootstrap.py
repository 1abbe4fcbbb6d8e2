"""Brings a database to where the product can run: migrations, the template schema, and on request a demo workspace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from django.conf import settings
from django.db import connection

from apps.tenants.context import bound_public


def fingerprint() -> str:
    """Of all migration files and the database they went to."""
    digest = hashlib.sha256(f"{connection.settings_dict['HOST']}:{connection.settings_dict['PORT']}/{connection.settings_dict['NAME']}".encode())
    for path in sorted(Path(settings.BASE_DIR, "apps").glob("*/*migrations/*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def migrated() -> bool:
    """Does the database carry the fingerprint of these migrations already?"""
    with bound_public(), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('public.vivavoce_schema')")
        if cursor.fetchone()[0] is None:
            return False
        cursor.execute("SELECT fingerprint FROM public.vivavoce_schema")
        return cursor.fetchone() == (fingerprint(),)


LOCK, LOCK_WAIT = 0x766F_6264, "1h"


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of all processes on this database; another waits, an hour at most. The lock lives on a connection of its own, so that it ends with it."""
    with psycopg.connect(settings.DATABASE_URL, autocommit=True, connect_timeout=5) as lock:
        lock.execute("SELECT set_config('lock_timeout', %s, false)", [LOCK_WAIT])
        lock.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield


def prepare(verbosity: int = 0, say=None) -> bool:
    """Migrate everything unless nothing changed, `say(done, all, slug, problem)` after each workspace. True when there was something to do.

    Raises MigrationFailed when a workspace stays behind.
    """
    if migrated():
        return False
    with one_at_a_time():
        return not migrated() and _migrate(verbosity, say)


def _migrate(verbosity: int, say) -> bool:
    from apps.tenants.services import migrate_all

    migrate_all(verbosity, say)
    with bound_public(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS public.vivavoce_schema (one boolean PRIMARY KEY DEFAULT true, fingerprint text NOT NULL)")
        cursor.execute("INSERT INTO public.vivavoce_schema (fingerprint) VALUES (%s) ON CONFLICT (one) DO UPDATE SET fingerprint = excluded.fingerprint",
                       [fingerprint()])  # fmt: skip
    return True
