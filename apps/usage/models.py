from __future__ import annotations

from django.db import models
from django.utils import timezone


class Meter(models.TextChoices):
    AUDIO_IN_MS = "audio_in_ms"
    AUDIO_OUT_MS = "audio_out_ms"
    TOKENS_IN = "tokens_in"
    TOKENS_OUT = "tokens_out"
    SESSION_MS = "session_ms"
    CHARACTERS = "characters"  # spoken by REST calls
    REQUESTS = "requests"  # REST calls


class Entry(models.Model):
    """What one turn used of one meter, in whole units."""

    session_id = models.CharField(max_length=64)  # sess_…, or req_… of a REST call
    turn_id = models.CharField(max_length=64, blank=True)  # "" for what belongs to the whole session
    meter = models.CharField(max_length=24, choices=Meter.choices)
    quantity = models.PositiveBigIntegerField()
    agent_id = models.CharField(max_length=40, blank=True)
    key_id = models.CharField(max_length=40, blank=True)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.turn_id or self.session_id} {self.meter} {self.quantity}"


class UsageEntry(Entry):
    """The ledger: append-only (the database refuses update and delete). Tenant schema."""

    period = models.PositiveIntegerField(default=1)  # of billing; see accounts.py

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session_id", "turn_id", "meter"], name="one_entry_per_turn_and_meter")]
        indexes = [models.Index(fields=["period", "meter", "id"], name="usage_of_period")]


class UnbilledEntry(Entry):
    """Work that the client never got (speculative, dropped, failed): shown, never billed, in no sum of the ledger."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session_id", "turn_id", "meter"], name="one_unbilled_per_turn_and_meter")]
