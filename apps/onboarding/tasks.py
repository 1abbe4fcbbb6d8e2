from __future__ import annotations

import logging
from datetime import timedelta

from celery import shared_task
from django.utils import timezone

from apps.agents.services import template_fields
from apps.apikeys.services import purge
from apps.billing.subscriptions import subscription_begin
from apps.common.actors import SYSTEM
from apps.onboarding.services import provision_later, welcome, workspace_provision
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_erase

log = logging.getLogger("vivavoce.onboarding")


@shared_task(name="onboarding.provision")
def provision(tenant_id: str, template: str) -> None:
    """Make what a sign-up reserved; a second delivery finds nothing to do."""
    tenant = Tenant.objects.filter(pk=tenant_id, status=Tenant.Status.PROVISIONING).first()
    if tenant is not None:
        workspace_provision(tenant=tenant, **template_fields(template))
        subscription_begin(tenant=tenant)
        welcome(tenant, tenant.email)


@shared_task(name="onboarding.sweep")
def sweep() -> None:
    """What a crash left half done is done; what was closed long enough ago is erased; old client secrets and kept answers go."""
    now = timezone.now()
    for tenant in Tenant.objects.filter(status=Tenant.Status.PROVISIONING, created_at__lt=now - timedelta(seconds=20))[:100]:
        log.warning("workspace %s was left unfinished; making it now", tenant.slug)
        provision_later(tenant.id, "assistant")
    for tenant in Tenant.objects.filter(status=Tenant.Status.CLOSED, erase_at__lt=now)[:20]:
        tenant_erase(tenant=tenant, actor=SYSTEM)
    purge()
