"""The short form of `python -m bench.billing_chaos`, on servers of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.infrastructure import ROOT

OURS = ("DATABASE_URL", "REDIS_URL", "GATEWAY_URL", "GATEWAY_WS_URL", "PORTAL_URL", "VIVAVOCE_VAR", "SECRET_KEY", "BILLING_SANDBOX_PORT",
        "BILLING_SANDBOX_SECRET_KEY", "BILLING_SANDBOX_WEBHOOK_SECRET", "STRIPE_WEBHOOK_SECRET", "STRIPE_API_HOST")  # fmt: skip
GROUPS = "redis + gateway-1, postgres + redis + gateway-2, redis + gateway-2, default"


@pytest.mark.timeout(400)
def test_what_was_heard_is_billed_once_when_redis_and_a_gateway_are_killed_together(tmp_path):
    """And PostgreSQL with them. `--power-cuts` goes further: Redis comes back without its last second."""
    own = {k: v for k, v in os.environ.items() if k not in OURS}
    command = [sys.executable, "-m", "bench.billing_chaos", "--events", "120", "--sessions", "6", "--kills", "4", "--kill-every", "4", "--seconds", "90",
               "--only", GROUPS, "--report", str(tmp_path / "report.json")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
