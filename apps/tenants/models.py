from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin

from apps.common.ids import tenant_id

TEMPLATE_SCHEMA = "tpl"
RESERVED_SLUGS = {"public", "admin", "api", "www", "t", "static", "health", "tpl", "template", "postgres", "vivavoce"}
slug_validator = RegexValidator(r"\A[a-z][a-z0-9-]{1,38}[a-z0-9]\Z", "3-40 of a-z 0-9 -, beginning with a letter")


class TenantQuerySet(models.QuerySet):
    def real(self) -> TenantQuerySet:
        """Without the template that new schemas are cloned from."""
        return self.exclude(schema_name=TEMPLATE_SCHEMA)


class Tenant(TenantMixin):
    """A customer organisation; its data live in the schema `schema_name`."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"
        CLOSED = "closed"

    id = models.CharField(primary_key=True, max_length=40, default=tenant_id, editable=False)
    name = models.CharField(max_length=120)
    slug = models.CharField(max_length=40, unique=True, validators=[slug_validator])
    email = models.EmailField(blank=True)
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.ACTIVE)
    suspended_reason = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    auto_create_schema = False  # services.tenant_create clones the template
    clone_mode = "NODATA"
    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.slug


class Domain(DomainMixin):
    """A host name of a tenant's own."""
