"""Sums of the ledger, kept beside it: grown in steps from the entries that wait (`UsagePending`), or made anew from the whole ledger.

An entry and its waiting row are written together, and the row is deleted in the transaction that adds the entry to the sums: each
entry is counted once whatever order they come in and whoever is killed. One advisory lock a tenant lets one process roll at a time.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import connection, transaction
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from apps.tenants.context import current
from apps.usage.reservations import settle

log = logging.getLogger("vivavoce.usage")
LOCK = 0x7573_6167  # advisory lock class
BATCH = 5000  # entries a step
GATHER_MS = 1000  # entries of so long are added to the sums together

# What each row adds to. Quarters of an hour are of all agents and keys: days of any time zone are made of them.
_CELLS = """
    SELECT grain, date_trunc(grain, at, 'UTC') AS starts, agent_id, key_id, meter, quantity, entries FROM {rows}, unnest(ARRAY['minute', 'hour', 'day']) AS grain
    UNION ALL SELECT '15min', date_bin('15 minutes', at, timestamptz '2000-01-01 00:00Z'), '', '', meter, quantity, entries FROM {rows}
"""
_SUMS = f"""
    cells AS ({_CELLS.format(rows="fresh")}),
    grown AS (
        INSERT INTO usage_usagerollup AS old (grain, starts, agent_id, key_id, meter, quantity, entries)
        SELECT grain, starts, agent_id, key_id, meter, sum(quantity), sum(entries) FROM cells GROUP BY grain, starts, agent_id, key_id, meter
        ON CONFLICT (grain, starts, agent_id, key_id, meter)
        DO UPDATE SET quantity = old.quantity + EXCLUDED.quantity, entries = old.entries + EXCLUDED.entries
    ),
    summed AS (
        INSERT INTO usage_periodtotal AS old (period, meter, quantity, entries)
        SELECT period, meter, sum(quantity), sum(entries) FROM fresh GROUP BY period, meter
        ON CONFLICT (period, meter) DO UPDATE SET quantity = old.quantity + EXCLUDED.quantity, entries = old.entries + EXCLUDED.entries
    )
"""
_STEP = f"""
WITH taken AS (
        DELETE FROM usage_usagepending WHERE entry_id IN (SELECT entry_id FROM usage_usagepending ORDER BY entry_id LIMIT %s) RETURNING entry_id
    ),
    fresh AS MATERIALIZED (SELECT e.*, 1 AS entries FROM usage_usageentry AS e JOIN taken ON taken.entry_id = e.id),
    {_SUMS}
SELECT session_id, period, meter, sum(quantity)::bigint, count(*) FROM fresh GROUP BY session_id, period, meter
"""
# One statement, so one snapshot: what is written meanwhile keeps its waiting row and is added by the next step.
_REBUILD = f"""
WITH cleared AS (DELETE FROM usage_usagepending),
    fresh AS MATERIALIZED (
        SELECT date_trunc('minute', at, 'UTC') AS at, agent_id, key_id, meter, period, sum(quantity) AS quantity, count(*) AS entries
        FROM usage_usageentry GROUP BY 1, agent_id, key_id, meter, period
    ),
    {_SUMS}
SELECT coalesce(sum(entries), 0)::bigint FROM fresh
"""
# Everything that the sums say and the ledger does not, or the other way round; waiting entries count for the sums.
_DIFFERENCES = f"""
WITH base AS MATERIALIZED (
        SELECT date_trunc('minute', at, 'UTC') AS at, agent_id, key_id, meter, period, sum(quantity) AS quantity, count(*) AS entries
        FROM usage_usageentry GROUP BY 1, agent_id, key_id, meter, period
    ),
    waiting AS MATERIALIZED (SELECT e.*, 1 AS entries FROM usage_usageentry AS e JOIN usage_usagepending AS p ON p.entry_id = e.id),
    waiting_cells AS ({_CELLS.format(rows="waiting")}),
    base_cells AS ({_CELLS.format(rows="base")}),
    both_sides AS (
        SELECT grain, starts, agent_id, key_id, meter, quantity AS said, entries AS said_entries, 0 AS ledger, 0 AS ledger_entries FROM usage_usagerollup
        UNION ALL SELECT grain, starts, agent_id, key_id, meter, quantity, entries, 0, 0 FROM waiting_cells
        UNION ALL SELECT 'period', NULL, period::text, '', meter, quantity, entries, 0, 0 FROM usage_periodtotal
        UNION ALL SELECT 'period', NULL, period::text, '', meter, quantity, entries, 0, 0 FROM waiting
        UNION ALL SELECT grain, starts, agent_id, key_id, meter, 0, 0, quantity, entries FROM base_cells
        UNION ALL SELECT 'period', NULL, period::text, '', meter, 0, 0, quantity, entries FROM base
    )
SELECT grain, starts, agent_id, key_id, meter, sum(said)::bigint, sum(ledger)::bigint FROM both_sides GROUP BY grain, starts, agent_id, key_id, meter
HAVING sum(said) <> sum(ledger) OR sum(said_entries) <> sum(ledger_entries) ORDER BY 1, 2, 3, 4, 5 LIMIT 100
"""
_TOTALS = """
SELECT meter, sum(quantity)::bigint FROM (
    SELECT period, meter, quantity FROM usage_periodtotal
    UNION ALL SELECT e.period, e.meter, e.quantity FROM usage_usageentry AS e JOIN usage_usagepending AS p ON p.entry_id = e.id
) AS parts WHERE %(period)s::int IS NULL OR period = %(period)s GROUP BY meter ORDER BY meter
"""


def roll() -> int:
    """Add what waits to the sums and settle the reservations of its sessions; how many entries. 0 too while another process rolls."""
    done = 0
    while step := _roll_once():
        done += step
    return done


def _roll_once() -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(current_schema()))", [LOCK])
        return roll_step(cursor) if cursor.fetchone()[0] else 0


def lock(cursor) -> None:
    """Wait until no other process rolls; until the end of the transaction."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", [LOCK])


def roll_step(cursor, limit: int = BATCH) -> int:
    """One step; the caller holds the lock."""
    cursor.execute(_STEP, [limit])
    rows = cursor.fetchall()
    settle([row[:4] for row in rows])
    return sum(row[4] for row in rows)


@transaction.atomic
def rebuild() -> int:
    """Make all sums anew from the ledger; how many entries it has."""
    with connection.cursor() as cursor:
        lock(cursor)
        cursor.execute("DELETE FROM usage_usagerollup")
        cursor.execute("DELETE FROM usage_periodtotal")
        cursor.execute(_REBUILD)
        entries = cursor.fetchone()[0]
        settle([])
        return entries


def differences() -> list[dict[str, Any]]:
    """Where sums and ledger differ (the first hundred); empty is right."""
    with connection.cursor() as cursor:
        cursor.execute(_DIFFERENCES)
        names = ("grain", "starts", "agent_id", "key_id", "meter", "said", "ledger")
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def totals(period: int | None = None) -> dict[str, int]:
    """meter -> units, of one billing period or of all time; to the last entry committed."""
    with connection.cursor() as cursor:
        cursor.execute(_TOTALS, {"period": period})
        return dict(cursor.fetchall())


_redis: Redis | None = None


def roll_soon() -> None:
    """After this transaction: one roll of the bound tenant within about a second, however many ask. A message lost is the sweep's."""
    tenant_id = current().tenant_id

    def ask() -> None:
        global _redis
        _redis = _redis or settings.CONNECT_REDIS(socket_timeout=1, socket_connect_timeout=1)
        try:
            if _redis.set(f"usage:roll:{tenant_id}", 1, nx=True, px=GATHER_MS):
                current_app.send_task("usage.roll", queue="default", countdown=GATHER_MS / 1000, ignore_result=True, retry=False, expires=30)
        except (OSError, RedisError, OperationalError):
            log.warning("usage: redis is away; the sweep will roll %s", tenant_id)

    transaction.on_commit(ask)
