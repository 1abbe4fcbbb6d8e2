from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from apps.conversations.models import VoiceSession
from apps.tenants.context import bound
from apps.tenants.models import Tenant


@shared_task(name="conversations.close_lost")
def close_lost() -> int:
    """Close rows of sessions that no gateway can still hold (a process was killed). Returns how many."""
    before = timezone.now() - timedelta(seconds=settings.MAX_SESSION_SECONDS + 300)
    closed = 0
    for tenant in list(Tenant.objects.real()):
        with bound(tenant):
            lost = VoiceSession.objects.filter(state=VoiceSession.State.LIVE, opened_at__lt=before)
            closed += lost.update(state=VoiceSession.State.CLOSED, closed_at=timezone.now(), close_reason="lost")
    return closed
