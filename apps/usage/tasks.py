from __future__ import annotations

import logging
from contextlib import closing

from celery import shared_task
from django.db import Error as DatabaseError
from redis import RedisError

from apps.tenants.context import bound
from apps.tenants.models import Tenant
from apps.usage import journal
from apps.usage.alerts import check_alerts
from apps.usage.rollups import roll

log = logging.getLogger("vivavoce.usage")


@shared_task(name="usage.roll")
def roll_tenant() -> None:
    """Add what waits in the bound tenant's ledger to its sums; tell its owners how far the cap is used."""
    if roll():
        check_alerts()


@shared_task(name="usage.sweep")
def sweep() -> None:
    """Roll every tenant: what a lost message left waiting, and reservations whose time is over."""
    for tenant in list(Tenant.objects.real()):
        try:
            with bound(tenant):
                roll_tenant()
        except DatabaseError as error:  # the others go on; the next sweep comes
            log.error("usage of %s not rolled: %s", tenant.slug, type(error).__name__)


@shared_task(name="usage.replay")
def replay_journal() -> None:
    """Write what killed gateways left in the journal, and end the sessions they held."""
    try:
        with closing(journal.connection()) as redis:
            if written := journal.replay(redis) + journal.close_lost(redis):
                log.warning("usage: %d turns and ends of sessions written for gateways that did not", written)
    except (DatabaseError, RedisError) as error:
        log.warning("usage: the journal waits: %s", type(error).__name__)
