from __future__ import annotations

from django.db import models
from django.utils import timezone

from apps.common.ids import key_id
from apps.tenants.models import Tenant


class ApiKey(models.Model):
    """A tenant's key. Public schema: the key finds the tenant. Only a SHA-256 of the secret is stored."""

    id = models.CharField(primary_key=True, max_length=40, default=key_id, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=8, unique=True)
    digest = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=60, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"vv_{self.prefix}… {self.name}"

    @property
    def usable(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())
