from __future__ import annotations

from django.db import models

from apps.common.ids import agent_id


class Agent(models.Model):
    """A voice agent of a tenant; what it does is in its versions."""

    id = models.CharField(primary_key=True, max_length=40, default=agent_id, editable=False)
    name = models.CharField(max_length=80)
    is_default = models.BooleanField(default=False)
    published = models.ForeignKey("AgentVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=models.Q(is_default=True), name="one_default_agent"),
        ]

    def __str__(self) -> str:
        return self.name


class AgentVersion(models.Model):
    """A draft until it is published (at most one an agent), then immutable: a session keeps the version it began with."""

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    published_at = models.DateTimeField(null=True, blank=True)
    published_by = models.CharField(max_length=60, blank=True)
    instructions = models.TextField(blank=True)
    greeting = models.TextField(blank=True)
    voice = models.CharField(max_length=40, default="alloy")
    language = models.CharField(max_length=16, default="en")
    stt_engine = models.CharField(max_length=40, blank=True)  # "" = the installation's default
    stt_model = models.CharField(max_length=120, blank=True)
    llm_engine = models.CharField(max_length=40, blank=True)
    llm_model = models.CharField(max_length=120, blank=True)
    tts_engine = models.CharField(max_length=40, blank=True)
    tts_model = models.CharField(max_length=120, blank=True)
    fallbacks = models.JSONField(default=dict, blank=True)  # stage -> {"engine", "model"} that takes over when its own fails
    turn_detection = models.JSONField(default=dict, blank=True)
    tools = models.JSONField(default=list, blank=True)
    limits = models.JSONField(default=dict, blank=True)  # max_session_seconds, max_output_tokens
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["agent", "number"], name="one_number_per_agent"),
            models.UniqueConstraint(fields=["agent"], condition=models.Q(published_at=None), name="one_draft_per_agent"),
        ]

    def __str__(self) -> str:
        return f"{self.agent} v{self.number}"
