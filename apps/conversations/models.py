from __future__ import annotations

from django.db import models


class VoiceSession(models.Model):
    """One realtime session. Tenant schema."""

    class State(models.TextChoices):
        LIVE = "live"
        CLOSED = "closed"

    id = models.CharField(primary_key=True, max_length=64)  # sess_…
    agent_id = models.CharField(max_length=40)
    agent_version = models.PositiveIntegerField()
    key_id = models.CharField(max_length=40)
    model = models.CharField(max_length=120, blank=True)
    client = models.CharField(max_length=200, blank=True)  # User-Agent
    tracing = models.JSONField(default=dict)  # what the client files it under: workflow_name, group_id, metadata
    state = models.CharField(max_length=16, choices=State.choices, default=State.LIVE)
    opened_at = models.DateTimeField(auto_now_add=True, db_index=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    close_reason = models.CharField(max_length=60, blank=True)
    session_ms = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ["-opened_at"]

    def __str__(self) -> str:
        return self.id


class Item(models.Model):
    """A conversation item in its last state, as it was on the wire (no audio)."""

    session = models.ForeignKey(VoiceSession, on_delete=models.CASCADE, related_name="items")
    item_id = models.CharField(max_length=64)
    previous_item_id = models.CharField(max_length=64, blank=True)
    type = models.CharField(max_length=40)
    role = models.CharField(max_length=16, blank=True)
    item = models.JSONField()
    deleted = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session", "item_id"], name="one_item_per_session")]
        indexes = [models.Index(fields=["session", "-id"])]

    def __str__(self) -> str:
        return self.item_id


class TurnTrace(models.Model):
    """A turn with its waterfall: consecutive segments in ms, whose sum is the time to the first audio."""

    session = models.ForeignKey(VoiceSession, on_delete=models.CASCADE, related_name="turns")
    turn_id = models.CharField(max_length=64, unique=True)
    response_id = models.CharField(max_length=64, blank=True)
    user_item_id = models.CharField(max_length=64, blank=True)
    status = models.CharField(max_length=16)
    reason = models.CharField(max_length=60, blank=True)
    segments = models.JSONField(default=list)  # [[name, ms], …]
    overlapped = models.JSONField(default=list)  # [[name, ms], …]: done inside the first segment, before the end of the turn was certain
    first_ms = models.FloatField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.turn_id
