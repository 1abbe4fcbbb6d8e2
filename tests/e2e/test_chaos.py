"""The short forms of `make chaos` and `make soak`: Redis and PostgreSQL restarted, and Redis frozen, under twenty live sessions
(on servers of their own), and sessions that leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.e2e.client import Client
from tests.infrastructure import ROOT


POOLED = {"files": 32}  # connections to Redis and PostgreSQL that wait in their pools


@pytest.mark.timeout(400)
def test_stores_that_restart_or_hang_cost_nothing():
    own = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "GATEWAY_URL", "GATEWAY_WS_URL", "PORTAL_URL", "VIVAVOCE_VAR")}
    command = [sys.executable, "-m", "bench.chaos", "--only", "redis,postgres,redis-freeze", "--times", "1"]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.timeout(120)
def test_sessions_leave_nothing_behind(stack, caller):
    from bench.soak import LEAKS, cycles, look

    running = SimpleNamespace(stack=stack, process=lambda name: stack.processes[name], client=lambda url: Client(url, caller[1]))
    asyncio.run(cycles(running, 16))  # warm
    time.sleep(6)
    before = look(running)
    asyncio.run(cycles(running, 48))
    until = time.monotonic() + 15
    while (grown := {n: after[n] - before[n] for after in [look(running)] for n in LEAKS if after[n] > before[n] + POOLED.get(n, 0)}) and time.monotonic() < until:
        time.sleep(0.5)
    assert not grown
