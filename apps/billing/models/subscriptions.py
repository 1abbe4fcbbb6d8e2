from __future__ import annotations

from django.db import models
from django.utils import timezone

from apps.billing.models.plans import Currency, PlanVersion, Price


class Subscription(models.Model):
    """What a tenant has, one row a tenant from its first day; without a provider's subscription it is a free plan."""

    class Status(models.TextChoices):
        NONE = "none"  # no plan: the installation's limits, nothing is charged
        FREE = "free"  # the free plan
        TRIALING = "trialing"
        ACTIVE = "active"
        INCOMPLETE = "incomplete"  # the first payment waits for its confirmation
        PAST_DUE = "past_due"  # a payment failed; retries and grace run
        UNPAID = "unpaid"  # the grace is over: suspended until paid

    tenant = models.OneToOneField("tenants.Tenant", primary_key=True, on_delete=models.PROTECT, related_name="subscription")
    version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    price = models.ForeignKey(Price, null=True, on_delete=models.PROTECT, related_name="+")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.NONE)
    currency = models.CharField(max_length=3, choices=Currency.choices, blank=True)  # fixed by the first payment
    customer_id = models.CharField(max_length=64, blank=True, db_index=True)
    provider_id = models.CharField(max_length=64, blank=True, db_index=True)
    item_id = models.CharField(max_length=64, blank=True)
    period_start = models.DateTimeField(default=timezone.now)  # of what is paid
    period_end = models.DateTimeField(null=True)
    usage_start = models.DateTimeField(default=timezone.now)  # of what is metered: always months
    usage_end = models.DateTimeField(null=True)
    anchor_day = models.PositiveSmallIntegerField(default=1)  # of the month usage periods begin, in shorter months their last day
    trial_end = models.DateTimeField(null=True)
    trial_used = models.BooleanField(default=False)
    cancel_at_period_end = models.BooleanField(default=False)
    next_version = models.ForeignKey(PlanVersion, null=True, on_delete=models.PROTECT, related_name="+")  # a downgrade, at the period's end
    next_price = models.ForeignKey(Price, null=True, on_delete=models.PROTECT, related_name="+")
    tax = models.JSONField(default=dict)  # name, country, tax_id_type, tax_id, exempt
    failed_at = models.DateTimeField(null=True)  # the payment that began the dunning
    grace_until = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    noticed = models.JSONField(default=list)  # notices sent since then
    synced_at = models.DateTimeField(null=True)
    by_hand = models.CharField(max_length=40, blank=True)  # code of the plan an operator gave, whose terms hold now in place of `version`'s

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.version} {self.status}"


class AddOn(models.Model):
    subscription = models.ForeignKey(Subscription, on_delete=models.PROTECT, related_name="addons")
    version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="+")
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="+")
    quantity = models.PositiveIntegerField(default=1)
    item_id = models.CharField(max_length=64, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["subscription", "version"], name="one_row_an_addon")]

    def __str__(self) -> str:
        return f"{self.version} x {self.quantity}"


class UsageReport(models.Model):
    """How far a tenant's ledger was reported to the provider's meters: the ledger is the outbox, this is the place in it."""

    tenant = models.OneToOneField("tenants.Tenant", primary_key=True, on_delete=models.PROTECT, related_name="+")
    through = models.BigIntegerField(default=0)  # the last ledger entry that was sent
    totals = models.JSONField(default=dict)  # meter -> units sent
    at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.tenant_id} through {self.through}"
