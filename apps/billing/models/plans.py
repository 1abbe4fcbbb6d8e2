from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models


class Currency(models.TextChoices):
    USD = "usd", "USD"
    EUR = "eur", "EUR"
    GBP = "gbp", "GBP"


class Interval(models.TextChoices):
    MONTH = "month"
    YEAR = "year"


class Plan(models.Model):
    """Something that can be bought. Its terms are those of its versions: what runs keeps the version it was bought with."""

    class Kind(models.TextChoices):
        BASE = "base"
        ADDON = "addon", "add-on"

    code = models.CharField(primary_key=True, max_length=40, validators=[RegexValidator(r"\A[a-z][a-z0-9-]*\Z", "a-z 0-9 -, beginning with a letter")])
    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.BASE)
    name = models.CharField(max_length=60)
    about = models.CharField(max_length=300, blank=True)
    listed = models.BooleanField(default=True, help_text="Offered to everybody; otherwise only to the workspaces below.")
    offered_to = models.ManyToManyField("tenants.Tenant", blank=True, related_name="+", help_text="Custom plans: who may choose it.")
    position = models.PositiveSmallIntegerField(default=0, help_text="Higher is more: moving up is an upgrade.")

    class Meta:
        ordering = ["kind", "position", "code"]

    def __str__(self) -> str:
        return self.name

    @property
    def current(self) -> PlanVersion | None:
        """The version that is sold now."""
        return self.versions.exclude(published_at=None).order_by("-number").first()


class PlanVersion(models.Model):
    """Terms. Once published the database refuses to change them; new terms are a new version."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    entitlements = models.JSONField(default=dict, blank=True, help_text="Limits, e.g. {\"concurrent_sessions\": 10}; see apps/usage/limits.py.")
    included = models.JSONField(default=dict, blank=True, help_text="Units a month without charge, by meter, e.g. {\"session_ms\": 60000000}.")
    rates = models.JSONField(default=dict, blank=True, help_text="Micro-units (millionths) of the currency a unit beyond those, e.g. {\"usd\": {\"session_ms\": 1}}.")
    trial_days = models.PositiveSmallIntegerField(default=0)
    published_at = models.DateTimeField(null=True, blank=True, editable=False)
    product_id = models.CharField(max_length=64, blank=True, editable=False)  # at the payment provider

    class Meta:
        ordering = ["plan", "-number"]
        constraints = [models.UniqueConstraint(fields=["plan", "number"], name="one_version_of_a_number")]

    def __str__(self) -> str:
        return f"{self.plan_id} v{self.number}"

    def price(self, currency: str, interval: str) -> Price | None:
        return self.prices.filter(currency=currency, interval=interval).first()


class Price(models.Model):
    version = models.ForeignKey(PlanVersion, on_delete=models.CASCADE, related_name="prices")
    currency = models.CharField(max_length=3, choices=Currency.choices)
    interval = models.CharField(max_length=8, choices=Interval.choices, default=Interval.MONTH)
    amount_cents = models.PositiveIntegerField(help_text="For one interval, in cents or pence.")
    provider_id = models.CharField(max_length=64, blank=True, editable=False)

    class Meta:
        ordering = ["currency", "interval"]
        constraints = [models.UniqueConstraint(fields=["version", "currency", "interval"], name="one_price_of_a_kind")]

    def __str__(self) -> str:
        return f"{self.amount_cents / 100:.2f} {self.currency.upper()} a {self.interval}"
