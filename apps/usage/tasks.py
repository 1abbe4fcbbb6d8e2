from __future__ import annotations

import logging

from celery import current_app, shared_task
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from apps.tenants.context import bound, current
from apps.tenants.models import Tenant
from apps.usage.rollups import roll

log = logging.getLogger("vivavoce.usage")
GATHER_MS = 1000  # entries of so long are added to the sums together
_redis: Redis | None = None


@shared_task(name="usage.roll")
def roll_tenant() -> None:
    """Add what waits in the bound tenant's ledger to its sums."""
    roll()


@shared_task(name="usage.sweep")
def sweep() -> None:
    """Roll every tenant: what a lost message left waiting, and reservations whose time is over."""
    for tenant in list(Tenant.objects.real()):
        try:
            with bound(tenant):
                roll()
        except DatabaseError as error:  # the others go on; the next sweep comes
            log.error("usage of %s not rolled: %s", tenant.slug, type(error).__name__)


def roll_soon() -> None:
    """After this transaction: one roll of the bound tenant within about a second, however many ask. A message lost is the sweep's."""
    tenant_id = current().tenant_id

    def ask() -> None:
        global _redis
        _redis = _redis or Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
        try:
            if _redis.set(f"usage:roll:{tenant_id}", 1, nx=True, px=GATHER_MS):
                current_app.send_task("usage.roll", queue="default", countdown=GATHER_MS / 1000, ignore_result=True, retry=False, expires=30)
        except (OSError, RedisError, OperationalError):
            log.warning("usage: redis is away; the sweep will roll %s", tenant_id)

    transaction.on_commit(ask)
