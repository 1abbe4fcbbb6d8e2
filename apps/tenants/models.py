from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone
from django_tenants.models import DomainMixin, TenantMixin

from apps.common.ids import tenant_id

TEMPLATE_SCHEMA = "tpl"
RESERVED_SLUGS = {
    "public", "admin", "api", "www", "t", "static", "health", "ready", "metrics", "tpl", "template", "tpl-template", "postgres", "vivavoce",
    "accounts", "account", "oidc", "docs", "new", "sign-in", "sign-up", "support", "billing", "stripe", "root", "system", "information-schema",
}  # fmt: skip
slug_validator = RegexValidator(r"\A[a-z][a-z0-9-]{1,38}[a-z0-9]\Z", "3-40 of a-z 0-9 -, beginning with a letter")


class TenantQuerySet(models.QuerySet):
    def real(self) -> TenantQuerySet:
        """Those that have their schema: not the template, not one under way, not what was erased."""
        return self.exclude(schema_name=TEMPLATE_SCHEMA).exclude(status__in=[Tenant.Status.PROVISIONING, Tenant.Status.ERASED])


class Tenant(TenantMixin):
    """A customer organisation; its data live in the schema `schema_name`."""

    class Status(models.TextChoices):
        PROVISIONING = "provisioning"  # its schema is being made
        ACTIVE = "active"
        SUSPENDED = "suspended"
        CLOSED = "closed"  # erased at `erase_at` unless reopened
        ERASED = "erased"  # a tombstone

    id = models.CharField(primary_key=True, max_length=40, default=tenant_id, editable=False)
    name = models.CharField(max_length=120)
    slug = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    email = models.EmailField(blank=True)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.ACTIVE)
    suspended_reason = models.CharField(max_length=300, blank=True)
    erase_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    tool_hosts = models.JSONField(default=list, blank=True)  # hosts that agents' HTTPS tools may call
    allowed_origins = models.JSONField(default=list, blank=True)  # of browsers; empty = those of the installation
    fallbacks = models.JSONField(default=dict, blank=True)  # stage -> {"engine", "model"} that takes over where an agent names none
    resume_seconds = models.PositiveIntegerField(null=True, blank=True)  # a lost connection may come back this long; empty = as the limits say
    limits = models.JSONField(default=dict, blank=True)  # an operator's override, see apps/usage/limits.py
    plan = models.CharField(max_length=40, blank=True)  # an operator's override, see apps/billing/by_hand.py
    override_until = models.DateTimeField(null=True, blank=True)  # of both; empty = no end
    entitlements = models.JSONField(default=dict, blank=True)  # limits of its plan, written by apps/billing
    capped = models.BooleanField(default=False, editable=False)  # its sessions hold usage ahead, see apps/usage/reservations.py
    milestones = models.JSONField(default=dict, blank=True)  # name -> ISO time

    auto_create_schema = False  # services.schema_make clones the template
    clone_mode = "NODATA"
    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.slug

    @property
    def override(self) -> dict:
        """The limits an operator gave, while they hold."""
        return self.limits if self._overridden else {}

    @property
    def plan_by_hand(self) -> str:
        """The code of the plan an operator gave, while it holds."""
        return self.plan if self._overridden else ""

    @property
    def _overridden(self) -> bool:
        return self.override_until is None or self.override_until > timezone.now()


class Domain(DomainMixin):
    """A host name of a tenant's own."""
