from __future__ import annotations

from django.db import models

from apps.common.ids import adjustment_id, invoice_id


class Invoice(models.Model):
    """What a tenant owes for a period. Once finalised the database refuses to change it, except for how far it is paid."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        OPEN = "open"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    id = models.CharField(primary_key=True, max_length=40, default=invoice_id, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="invoices")
    number = models.CharField(max_length=60, blank=True)
    provider_id = models.CharField(max_length=64, blank=True)  # "" = a statement of a free period, nothing to collect
    reason = models.CharField(max_length=40, blank=True)  # e.g. subscription_cycle
    status = models.CharField(max_length=14, choices=Status.choices, default=Status.DRAFT)
    currency = models.CharField(max_length=3)
    subtotal_cents = models.BigIntegerField(default=0)
    tax_cents = models.BigIntegerField(default=0)
    total_cents = models.BigIntegerField(default=0)
    due_cents = models.BigIntegerField(default=0)
    paid_cents = models.BigIntegerField(default=0)
    refunded_cents = models.BigIntegerField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    bill_to = models.JSONField(default=dict)
    starts = models.DateTimeField()
    ends = models.DateTimeField()
    created_at = models.DateTimeField()
    finalized_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-number", "-id"]
        indexes = [models.Index(fields=["tenant", "-created_at"])]
        constraints = [models.UniqueConstraint(fields=["provider_id"], condition=~models.Q(provider_id=""), name="one_row_an_invoice")]

    def __str__(self) -> str:
        return self.number or self.id


class InvoiceLine(models.Model):
    """A usage line is (tenant, period, meter): its ledger entries are exactly those of that period and meter. `invoice` empty: it waits for the next one."""

    class Kind(models.TextChoices):
        PLAN = "plan"
        PRORATION = "proration"
        USAGE = "usage"
        OTHER = "other"

    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, null=True, on_delete=models.PROTECT, related_name="lines")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    description = models.CharField(max_length=300)
    currency = models.CharField(max_length=3)
    meter = models.CharField(max_length=24, blank=True)
    period = models.PositiveIntegerField(null=True)
    quantity = models.PositiveBigIntegerField(default=1)
    included = models.PositiveBigIntegerField(default=0)  # of quantity, without charge
    rate_micros = models.PositiveBigIntegerField(default=0)  # for each `rate_units` beyond those
    rate_units = models.PositiveBigIntegerField(default=1)
    amount_micros = models.BigIntegerField()
    amount_cents = models.BigIntegerField()  # what is collected: rounded once, from the exact amount
    starts = models.DateTimeField()
    ends = models.DateTimeField()
    provider_id = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "period", "meter"], condition=models.Q(kind="usage"), name="one_line_a_period_and_meter"),
            models.UniqueConstraint(fields=["invoice", "provider_id"], condition=~models.Q(provider_id=""), name="one_row_a_line"),
        ]

    def __str__(self) -> str:
        return self.description


class Adjustment(models.Model):
    """Money that goes back or is given; append-only. A finalised invoice is never edited: it gets one of these."""

    class Kind(models.TextChoices):
        CREDIT_NOTE = "credit_note"  # takes an amount off an invoice
        REFUND = "refund"  # pays it back
        CREDIT = "credit"  # a balance for the next invoices

    id = models.CharField(primary_key=True, max_length=40, default=adjustment_id, editable=False)
    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, null=True, on_delete=models.PROTECT, related_name="adjustments")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    amount_cents = models.PositiveBigIntegerField()
    currency = models.CharField(max_length=3)
    reason = models.CharField(max_length=300)
    provider_id = models.CharField(max_length=64, unique=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount_cents / 100:.2f} {self.currency.upper()}"
