"""What is sold (plans), who has what (subscriptions) and what was billed (invoices). All in the public schema, each row naming its tenant."""

from apps.billing.models.invoices import Adjustment, Invoice, InvoiceLine
from apps.billing.models.plans import Currency, Interval, Plan, PlanVersion, Price
from apps.billing.models.subscriptions import AddOn, Subscription, UsageReport

__all__ = ["AddOn", "Adjustment", "Currency", "Interval", "Invoice", "InvoiceLine", "Plan", "PlanVersion", "Price", "Subscription", "UsageReport"]
