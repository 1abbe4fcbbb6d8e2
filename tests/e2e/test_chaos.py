"""The short form of `make chaos`: Redis and PostgreSQL restarted under twenty live sessions. It brings servers of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.infrastructure import ROOT


@pytest.mark.timeout(400)
def test_restarted_stores_cost_nothing():
    own = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "GATEWAY_URL", "GATEWAY_WS_URL", "PORTAL_URL", "VIVAVOCE_VAR")}
    command = [sys.executable, "-m", "bench.chaos", "--only", "redis,postgres", "--times", "1"]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
