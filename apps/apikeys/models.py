from __future__ import annotations

from django.db import models
from django.utils import timezone

from apps.accounts.models import User
from apps.common.ids import client_secret_id, impersonation_id, key_id
from apps.tenants.models import Tenant

LIMIT_NAMES = ("requests_per_minute", "tokens_per_minute", "concurrent_sessions", "audio_minutes_per_day", "events_per_second", "frame_kib")


class ApiKey(models.Model):
    """A tenant's key, or an operator's (no tenant). Public schema: the key finds the tenant. Only a SHA-256 of the secret is stored."""

    id = models.CharField(primary_key=True, max_length=40, default=key_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys", null=True, blank=True)
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=8, unique=True)
    digest = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    limits = models.JSONField(default=dict, blank=True)  # lower than the tenant's, see apps/usage/limits.py
    allowed_origins = models.JSONField(default=list, blank=True)  # empty = the tenant's
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=60, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    rests_since = models.DateTimeField(null=True, blank=True)  # its maker's provider cannot be asked about them; works again when they sign in
    replaced_by = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="+")  # rotated: works until expires_at
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_used_ip = models.CharField(max_length=45, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"vv_{self.prefix}… {self.name}"

    @property
    def usable(self) -> bool:
        return self.revoked_at is None and self.rests_since is None and (self.expires_at is None or self.expires_at > timezone.now())

    @property
    def state(self) -> str:
        if self.revoked_at:
            return "revoked"
        if self.rests_since:
            return "resting"
        if not self.usable:
            return "expired"
        return "rotated" if self.replaced_by_id else "active"


class ClientSecret(models.Model):
    """A short-lived secret for browsers (`ek_…`), minted by a key, with the session it configures. Only its SHA-256 is stored."""

    id = models.CharField(primary_key=True, max_length=40, default=client_secret_id, editable=False)
    key = models.ForeignKey(ApiKey, null=True, on_delete=models.CASCADE, related_name="client_secrets")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="client_secrets")
    user_id = models.CharField(max_length=40, blank=True)  # minted by a signed-in member (the playground)
    digest = models.CharField(max_length=64, unique=True)
    session = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.id


class IdempotentAnswer(models.Model):
    """What a creating POST with an Idempotency-Key was answered, for a day: a repeat gets the same and does nothing. Public schema."""

    caller = models.CharField(max_length=80)
    key = models.CharField(max_length=255)
    request = models.CharField(max_length=64)  # SHA-256 of method, path and body
    status = models.PositiveSmallIntegerField(default=0)
    body = models.TextField(blank=True)  # sealed: it may hold a secret that is shown once
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key"], name="one_answer_per_idempotency_key")]

    def __str__(self) -> str:
        return self.key


class Impersonation(models.Model):
    """An operator looks as a member: in the browser at all their workspaces (no tenant), or by a secret (`vi_…`) at one. Public schema.

    It ends by its time, by an operator, or with the right it came from: see apps/apikeys/impersonation.py.
    """

    id = models.CharField(primary_key=True, max_length=40, default=impersonation_id, editable=False)
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.CASCADE, related_name="impersonations")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="impersonations")
    by = models.CharField(max_length=60)  # the operator: usr_… or key_…
    reason = models.CharField(max_length=300, blank=True)
    writable = models.BooleanField(default=False)
    digest = models.CharField(max_length=64, unique=True, null=True)  # of the secret; a browser needs none
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.by} as {self.user}"

    @property
    def state(self) -> str:
        if self.ended_at:
            return "ended"
        return "active" if self.expires_at > timezone.now() else "expired"
