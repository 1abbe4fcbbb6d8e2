"""`python -m bench.usage`: a ledger of five million entries in one workspace beside an empty one; writes var/reports/usage.json.

What a turn's write costs in either, how long the usage page and its API take, how long sums made anew take, how far sums kept by the
`default` worker are behind. One PostgreSQL for both workspaces, started here, without fsync: what is compared is work, not the disk.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.__main__ import p, say
from tests import conftest  # chooses ports and sets the environment before Django loads

ROOT = Path(__file__).resolve().parent.parent
METERS = ("session_ms", "audio_in_ms", "audio_out_ms", "tokens_in", "tokens_out")
DAYS, AGENTS, KEYS = 400, 6, 4
FILL = """
INSERT INTO usage_usageentry (session_id, turn_id, meter, quantity, agent_id, key_id, at, period)
SELECT 'sess_' || md5((turn / 20)::text), 'turn_' || md5(turn::text), (%(meters)s::text[])[1 + n %% 5], 100 + (n * 7919) %% 5000,
       'agt_' || (turn / 20 %% %(agents)s), 'key_' || (turn / 20 %% %(keys)s), now() - interval '1 minute' - (turn::float8 / %(turns)s) * interval '400 days',
       3 - (turn * 3 / %(turns)s)::int
FROM generate_series(0::bigint, %(entries)s - 1) AS n, LATERAL (SELECT (n / 5)::bigint AS turn) AS of_turn
"""


def fill(entries: int) -> float:
    """Seconds. Indexes are made after the rows, as a restore does."""
    from django.db import connection

    began = time.monotonic()
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename = 'usage_usageentry'")
        kept = [(name, definition) for name, definition in cursor.fetchall() if not name.endswith("_pkey")]
        for name, _ in kept:
            cursor.execute(f'ALTER TABLE usage_usageentry DROP CONSTRAINT IF EXISTS "{name}"')
            cursor.execute(f'DROP INDEX IF EXISTS "{name}"')
        cursor.execute(FILL, {"meters": list(METERS), "agents": AGENTS, "keys": KEYS, "turns": entries // 5, "entries": entries})
        for _, definition in kept:
            cursor.execute(definition)
        cursor.execute("ANALYZE usage_usageentry")
    return time.monotonic() - began


def turn(number: int) -> dict:
    return {"turn_id": f"turn_new_{number}_{random.getrandbits(40):x}", "response_id": "resp_1", "user_item_id": "item_1", "status": "completed", "reason": "",
            "segments": [("llm", 100.0), ("tts", 40.0)], "usage": {m: random.randrange(1, 5000) for m in METERS[1:]}, "unbilled": {}}  # fmt: skip


def writes(tenants: dict, count: int) -> dict[str, list[float]]:
    """ms of each turn's transaction, the workspaces in turn, so that what disturbs one disturbs both."""
    from apps.tenants.context import bound
    from apps.usage.services import session_open, turn_record

    took: dict[str, list[float]] = {name: [] for name in tenants}
    for name, tenant in tenants.items():
        with bound(tenant):
            session_open(session_id=f"sess_{name}", agent_id="agt_0", agent_version=1, key_id="key_0", model="", client="bench")
    for number in range(count):
        for name in random.sample(list(tenants), len(tenants)):
            with bound(tenants[name]):
                values = turn(number)
                began = time.perf_counter()
                turn_record(session_id=f"sess_{name}", turn=values, session_ms=1000 * (number + 1), agent_id="agt_0", key_id="key_0")
                took[name].append((time.perf_counter() - began) * 1000)
    return {name: values[count // 10 :] for name, values in took.items()}  # the first warm up


def pages(tenant, count: int) -> dict[str, list[float]]:
    from django.test import Client

    from apps.accounts.models import User
    from apps.teams.models import Membership, Role

    client = Client(SERVER_NAME="localhost")
    user = User.objects.create_user(f"bench-{time.time_ns()}@example.com", "a-long-password-7")
    Membership.objects.create(tenant=tenant, user=user, role=Role.OWNER)
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    today = datetime.now(UTC).date()
    paths = {"page, 30 days": f"/t/{tenant.slug}/usage", "page, 90 days": f"/t/{tenant.slug}/usage?first={today - timedelta(days=89)}",
             "page, 400 days": f"/t/{tenant.slug}/usage?first={today - timedelta(days=399)}",
             "page, 30 days of Berlin": f"/t/{tenant.slug}/usage?zone=Europe/Berlin", "page, 30 days of Kolkata": f"/t/{tenant.slug}/usage?zone=Asia/Kolkata",
             "page, 90 days of Kathmandu": f"/t/{tenant.slug}/usage?zone=Asia/Kathmandu&first={today - timedelta(days=89)}",
             "page, 400 days of Berlin": f"/t/{tenant.slug}/usage?zone=Europe/Berlin&first={today - timedelta(days=399)}", "api breakdown": "/api/v1/usage/breakdown?by=key",
             "api spend": "/api/v1/usage/spend", "csv, 30 days": f"/t/{tenant.slug}/usage.csv"}  # fmt: skip
    took = {}
    for name, path in paths.items():
        took[name] = []
        for _ in range(count):
            began = time.perf_counter()
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.status_code)
            took[name].append((time.perf_counter() - began) * 1000)
    return took


def behind(tenant, seconds: float) -> list[float]:
    """Seconds from an entry's commit until the worker's sums hold it."""
    from apps.tenants.context import bound
    from apps.usage.models import UsagePending
    from apps.usage.services import usage_record

    lags, until, number = [], time.monotonic() + 60, 0
    while time.monotonic() < until:
        with bound(tenant):
            usage_record(session_id="sess_lag", turn_id=f"turn_lag_{number}", meters={"tokens_in": 1})
            began = time.monotonic()
            while UsagePending.objects.exists():
                time.sleep(0.02)
            if number:  # the first waits for the worker to start
                lags.append(time.monotonic() - began)
        number += 1
        until = time.monotonic() + seconds if number == 1 else until
        time.sleep(random.uniform(0, 0.5))
    return lags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=5_000_000)
    parser.add_argument("--writes", type=int, default=600)
    parser.add_argument("--pages", type=int, default=40)
    options = parser.parse_args()
    for server in (conftest._postgres, conftest._redis):
        if server is not None:
            server.start()
    try:
        report = measure(options)
    finally:
        conftest.pytest_sessionfinish()
        for server in (conftest._postgres, conftest._redis):
            if server is not None:
                server.stop()
    folder = ROOT / "var" / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "usage.json").write_text(json.dumps(report, indent=1))
    say(json.dumps(report, indent=1))


def measure(options) -> dict:
    from apps.common.launch import processes
    from apps.onboarding.services import workspace_create
    from apps.tenants.bootstrap import prepare
    from apps.tenants.context import bound, bound_public
    from apps.usage import rollups
    from tests.infrastructure import Stack

    prepare()
    with bound_public():
        tenants = {name: workspace_create(name=name, slug=f"bench-{name}-{time.time_ns() % 10**8}") for name in ("empty", "full")}
    with bound(tenants["full"]):
        report = {"entries": options.entries, "fill_s": round(fill(options.entries), 1)}
        say(f"filled in {report['fill_s']} s")
        began = time.monotonic()
        rollups.rebuild()
        report["rebuild_s"] = round(time.monotonic() - began, 1)
        began = time.monotonic()
        report["differences"] = len(rollups.differences())
        report["verify_s"] = round(time.monotonic() - began, 1)
        say(json.dumps(report))
    took = writes(tenants, options.writes)
    report["write_ms"] = {name: {"p50": round(p(v, 50), 3), "p95": round(p(v, 95), 3), "mean": round(statistics.fmean(v), 3)} for name, v in took.items()}
    report["write_ratio"] = {"p50": round(p(took["full"], 50) / p(took["empty"], 50), 3),
                             "mean": round(statistics.fmean(took["full"]) / statistics.fmean(took["empty"]), 3), "bar": 1.2}  # fmt: skip
    say(json.dumps(report["write_ms"]))
    with bound_public():
        report["page_ms"] = {name: {"p50": round(p(v, 50), 1), "p95": round(p(v, 95), 1)} for name, v in pages(tenants["full"], options.pages).items()}
    say(json.dumps(report["page_ms"]))
    stack = Stack(conftest.WORK)
    try:
        stack.run(processes.default_worker())
        with bound(tenants["full"]):
            while rollups.roll():
                pass
        lags = behind(tenants["full"], 20)
    finally:
        stack.stop()
    report["sums_behind_s"] = {"p50": round(p(lags, 50), 2), "max": round(max(lags), 2), "bar": 5, "note": "the page adds what waits and is not behind"}
    with bound(tenants["full"]):
        report["differences_after"] = len(rollups.differences())
    return report


if __name__ == "__main__":
    main()
