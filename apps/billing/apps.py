from __future__ import annotations

from django.apps import AppConfig
from django.core.checks.registry import registry


class BillingConfig(AppConfig):
    name = "apps.billing"

    def ready(self) -> None:
        """dj-stripe warns of its callback, in a check without an id; none of its signals can take the work in its place (apps/billing/stripe/webhooks.py)."""
        from djstripe.checks import check_webhook_event_callback_accepts_api_key

        registry.registered_checks.discard(check_webhook_event_callback_accepts_api_key)
