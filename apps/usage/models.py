from __future__ import annotations

from django.db import models



class Meter(models.TextChoices):
    AUDIO_IN_MS = "audio_in_ms"
    AUDIO_OUT_MS = "audio_out_ms"
    TOKENS_IN = "tokens_in"
    TOKENS_OUT = "tokens_out"
    SESSION_MS = "session_ms"


class UsageEntry(models.Model):
    """The ledger: integer units, append-only (the database refuses update and delete). Tenant schema."""

    session_id = models.CharField(max_length=64)
    turn_id = models.CharField(max_length=64, blank=True)  # "" for what belongs to the whole session
    meter = models.CharField(max_length=24, choices=Meter.choices)
    quantity = models.PositiveBigIntegerField()
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session_id", "turn_id", "meter"], name="one_entry_per_turn_and_meter")]

    def __str__(self) -> str:
        return f"{self.turn_id or self.session_id} {self.meter} {self.quantity}"


