from __future__ import annotations

from django.db import models

from apps.common.ids import audit_id


class AuditEntry(models.Model):
    """Who did what; append-only (the database refuses update and delete). In the schema of what was changed.

    The lines of a schema form a chain: `seq` has no gaps and `digest` covers the line and the digest before it, so that a
    line cannot be changed, removed or slipped in without `manage.py audit verify` naming it. Where the chain ends is kept in
    `public.vivavoce_audit_heads`, so that its last lines cannot be cut off unseen.
    """

    id = models.CharField(primary_key=True, max_length=40, default=audit_id, editable=False)
    seq = models.PositiveBigIntegerField(unique=True)
    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=60)  # user id, key id or "system"
    key_id = models.CharField(max_length=40, blank=True)
    ip = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=40, blank=True)
    action = models.CharField(max_length=60)  # e.g. api_key.revoked
    target = models.CharField(max_length=60)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    previous = models.CharField(max_length=64)
    digest = models.CharField(max_length=64)

    class Meta:
        ordering = ["-seq"]
        indexes = [models.Index(fields=["action", "-seq"]), models.Index(fields=["actor", "-seq"])]

    def __str__(self) -> str:
        return f"{self.seq} {self.action} {self.target}"
