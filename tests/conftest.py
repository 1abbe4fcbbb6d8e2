"""Real servers for the tests, started when the first test asks: PostgreSQL, Redis, and the whole product as `stack`.

With DATABASE_URL, REDIS_URL, GATEWAY_URL, GATEWAY_WS_URL and PORTAL_URL set, what they name is used instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from apps.common.launch.servers import Postgres, Redis, free_port, new_secret

WORK = Path(tempfile.mkdtemp(prefix="vivavoce-tests-"))
WORK.chmod(0o755)
_started: list = []
_postgres = _redis = None

# The settings module is loaded before any fixture runs, so addresses are chosen now and the servers started later.
if "DATABASE_URL" not in os.environ:
    _postgres = Postgres(WORK, free_port(), new_secret(), WORK / "postgres.log", durable=False)
    os.environ["DATABASE_URL"] = _postgres.url
if "REDIS_URL" not in os.environ:
    _redis = Redis(WORK, free_port(), new_secret(), WORK / "redis.log", durable=False)
    os.environ["REDIS_URL"] = _redis.url
if key := os.environ.get("STRIPE_TEST_SECRET_KEY"):  # billing tests on Stripe itself, with a clock of its own
    import stripe

    os.environ["STRIPE_SECRET_KEY"] = stripe.api_key = key
    os.environ["STRIPE_TEST_CLOCK"] = stripe.test_helpers.TestClock.create(frozen_time=int(time.time())).id
os.environ.setdefault("BILLING_SANDBOX_PORT", str(free_port()))
os.environ.setdefault("STRIPE_WEBHOOK_SECRET", "whsec_" + new_secret())
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.test")
os.environ.setdefault("SECRET_KEY", new_secret() + new_secret())
os.environ.setdefault("SIGNUPS_PER_MINUTE", "100000")
os.environ.setdefault("VIVAVOCE_VAR", str(WORK))

import django  # noqa: E402

django.setup()

import config.celery  # noqa: E402, F401


def pytest_report_header() -> str:
    from tests.billing import NAME

    return f"billing: {NAME}"


def pytest_sessionfinish() -> None:
    for server in _started:
        server.stop()
    shutil.rmtree(WORK, ignore_errors=True)


@pytest.fixture(scope="session")
def servers() -> None:
    for server in (_postgres, _redis):
        if server is not None and server not in _started:
            server.start()
            _started.append(server)


@pytest.fixture(scope="session")
def django_db_setup(servers, django_db_blocker):
    """The database itself, not a copy of it: the product's processes see what tests write. Tests make tenants of their own."""
    from apps.tenants.bootstrap import prepare

    with django_db_blocker.unblock():
        prepare()


@pytest.fixture(scope="session")
def database(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module", autouse=True)
def fresh_connections():
    """New database connections for each file: a server process that met the tables of a hundred workspaces is slow to make one more."""
    yield
    from django.db import connection

    connection.close()
    connection.close_pool()


@pytest.fixture(scope="session")
def mailbox(servers):
    """A real SMTP server; `mailbox.wait(address)` gives the newest mail's text."""
    from tests.mailbox import Mailbox

    box = Mailbox()
    yield box
    box.stop()


@pytest.fixture(scope="session")
def default_worker(database, mailbox):
    """The worker that sends mail and makes workspaces."""
    from apps.common.launch import processes
    from tests.infrastructure import Stack

    running = Stack(WORK)
    try:
        running.run(processes.default_worker(), EMAIL_URL=mailbox.url)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def provider(database):
    """The payment provider: tests/billing.py."""
    from tests.billing import Provider

    running = Provider(WORK)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def stack(database):
    """The running product: gateway and one worker of each kind. See tests/infrastructure.py."""
    from tests.infrastructure import Stack

    running = Stack(WORK)
    try:
        running.start()
        yield running
    finally:
        running.stop()
