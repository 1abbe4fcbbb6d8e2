"""What the benches beside `make bench` need: servers of their own, and a place for the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import conftest  # chooses ports and sets the environment before Django loads

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def database() -> Iterator[None]:
    """PostgreSQL and Redis (or those of DATABASE_URL and REDIS_URL), migrated; the public schema bound."""
    from apps.tenants.bootstrap import prepare
    from apps.tenants.context import bound_public

    servers = [server for server in (conftest._postgres, conftest._redis) if server is not None]
    try:
        for server in servers:
            server.start()
        prepare()
        with bound_public():
            yield
    finally:
        for server in servers:
            server.stop()


@contextmanager
def stack() -> Iterator[Any]:
    """The running product on top of it: tests/infrastructure.py."""
    from tests.infrastructure import Stack

    with database():
        running = Stack(conftest.WORK)
        try:
            running.start()
            yield running
        finally:
            running.stop()


@contextmanager
def payment_provider() -> Iterator[Any]:
    """The billing sandbox, or Stripe's test mode (tests/billing.py)."""
    from tests.billing import Provider

    running = Provider(conftest.WORK)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def kept(name: str) -> dict[str, Any]:
    """The last report of that name, or {}."""
    path = ROOT / "var" / "reports" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def report(name: str, values: dict[str, Any]) -> None:
    folder = ROOT / "var" / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(values, indent=1))
    print(f"written: var/reports/{name}.json")


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
