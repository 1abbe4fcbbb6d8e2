from __future__ import annotations

import logging
from datetime import timedelta

from celery import shared_task
from django.core.cache import cache
from django.db import Error as DatabaseError
from django.utils import timezone

from apps.billing import by_hand, dunning, events, reporting, stripe, subscriptions
from apps.common.errors import VivavoceError

log = logging.getLogger("vivavoce.billing")
REPORT_S = 20  # how often, and how long one round may take
KEEP_DAYS = 90


@shared_task(name="billing.webhook")
def webhook(trigger_id: int) -> None:
    """Work a stored event off. One that fails stays for the sweep."""
    try:
        stripe.webhook_work(trigger_id, events.handle)
    except (VivavoceError, DatabaseError, LookupError) as error:
        log.warning("webhook %s waits: %s", trigger_id, error)


@shared_task(name="billing.sweep")
def sweep() -> None:
    """Every minute: events left waiting, periods that ended, grace that is over, old events."""
    now = timezone.now()
    for trigger_id in stripe.webhooks_waiting(now):
        webhook(trigger_id)
    subscriptions.each(by_hand.changed(), by_hand.follow)
    subscriptions.turn(now)
    dunning.grace_over(now)
    stripe.webhooks_purge(now - timedelta(days=KEEP_DAYS))


@shared_task(name="billing.report")
def report() -> int:
    """Usage to the provider's meters, all tenants; a round ends in time for the next."""
    if not cache.add("billing:report", 1, timeout=REPORT_S * 3):
        return 0
    deadline = timezone.now() + timedelta(seconds=REPORT_S * 2)
    rows = {row.tenant_id: row.tenant for row in subscriptions.living().exclude(customer_id="").select_related("tenant")}
    try:
        return subscriptions.each(rows, lambda tenant_id: reporting.usage_report(rows[tenant_id], deadline))
    finally:
        cache.delete("billing:report")
