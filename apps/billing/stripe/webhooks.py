"""Webhooks: verified and stored on arrival, worked off by the `default` worker; dj-stripe's mirror follows."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import stripe
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import DateTimeField, ExpressionWrapper, F
from django.http import HttpRequest
from django.utils import timezone
from djstripe.models import Event, WebhookEndpoint, WebhookEventTrigger
from kombu.exceptions import OperationalError

from apps.billing.facts import EventFact
from apps.billing.stripe.client import plain_id

log = logging.getLogger("vivavoce.billing")
ENDPOINT = uuid.uuid5(uuid.NAMESPACE_URL, "vivavoce/stripe/webhook")


def webhook_receive(request: HttpRequest) -> bool:
    """Store a signed event. False for one that is forged, stale or damaged: nothing of it is kept."""
    try:
        body = request.body.decode()
        stripe.WebhookSignature.verify_header(body, request.headers.get("Stripe-Signature", ""), settings.STRIPE_WEBHOOK_SECRET, stripe.Webhook.DEFAULT_TOLERANCE)
    except (stripe.SignatureVerificationError, UnicodeDecodeError, ValueError) as error:
        log.warning("webhook refused: %s", type(error).__name__)
        return False
    endpoint, _ = WebhookEndpoint.objects.update_or_create(djstripe_uuid=ENDPOINT, defaults={
        "id": "we_vivavoce", "secret": settings.STRIPE_WEBHOOK_SECRET, "status": "enabled", "enabled_events": ["*"], "livemode": settings.STRIPE_LIVE_MODE,
        "url": f"{settings.PORTAL_URL}/stripe/webhook"})  # fmt: skip
    trigger = WebhookEventTrigger.from_request(request, webhook_endpoint=endpoint)
    _later(trigger.pk)
    return trigger.valid


def webhook_stored(trigger: WebhookEventTrigger, api_key: str) -> None:
    """dj-stripe's callback, in place of working the event off while the provider waits: `webhook_receive` hands it over once it is stored."""


def _later(trigger_id: int) -> None:
    try:
        current_app.send_task("billing.webhook", args=(trigger_id,), queue="default", ignore_result=True, retry=False)
    except (OSError, OperationalError):
        pass  # the sweep finds it


def webhook_work(trigger_id: int, handle: Callable[[EventFact], None]) -> bool:
    """Give a stored event to `handle`, then to dj-stripe's mirror. True when this call did it; a second one finds nothing to do.
    What `handle` raises is kept beside the event, which stays to be tried again."""
    try:
        with transaction.atomic():
            trigger = WebhookEventTrigger.objects.select_for_update(skip_locked=True).filter(pk=trigger_id, valid=True, processed=False).first()
            if trigger is None:
                return False
            if not Event.objects.filter(id=trigger.json_body["id"]).exists():  # else a duplicate of what was done
                body = trigger.json_body["data"]["object"]
                kind = body.get("object", "")
                customer = body["id"] if kind == "customer" else plain_id(body.get("customer"))
                handle(EventFact(trigger.json_body["type"], kind, body.get("id", ""), customer, plain_id(body.get("invoice"))))
            trigger.process(api_key=settings.STRIPE_SECRET_KEY)
        return True
    except Exception as error:
        WebhookEventTrigger.objects.filter(pk=trigger_id).update(exception=f"{type(error).__name__}: {error}"[:128], traceback=traceback.format_exc(), updated=timezone.now())
        raise


def webhooks_waiting(now: datetime, limit: int = 200) -> list[int]:
    """Stored events not worked off, oldest first; one that failed waits as long again as it waited so far, three days at most."""
    rows = WebhookEventTrigger.objects.filter(valid=True, processed=False, created__gt=now - timedelta(days=3), created__lt=now - timedelta(seconds=5))
    due = ExpressionWrapper(F("updated") + (F("updated") - F("created")), output_field=DateTimeField())
    return list(rows.annotate(due=due).filter(due__lt=now).order_by("id").values_list("pk", flat=True)[:limit])


def webhook_replay(event_id: str) -> int:
    """Forget that an event was done, so that it is worked off again; returns how many deliveries of it there are."""
    with transaction.atomic():
        found = WebhookEventTrigger.objects.filter(event_id=event_id)
        count = found.update(processed=False, created=timezone.now() - timedelta(seconds=10), updated=timezone.now() - timedelta(seconds=10), event=None)
        Event.objects.filter(id=event_id).delete()
    return count


def webhooks_purge(before: datetime) -> int:
    return WebhookEventTrigger.objects.filter(created__lt=before).delete()[0]
