from __future__ import annotations

from django.db import models

from apps.common.ids import audit_id


class AuditEntry(models.Model):
    """Who did what; append-only (the database refuses update and delete). In the schema of what was changed."""

    id = models.CharField(primary_key=True, max_length=40, default=audit_id, editable=False)
    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.CharField(max_length=60)  # user id, key id or "system"
    action = models.CharField(max_length=60)  # e.g. api_key.revoked
    target = models.CharField(max_length=60)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"
