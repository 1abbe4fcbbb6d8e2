"""What the payment provider says, as plain values; stripe/ makes them, the rest of the app reads them. Amounts are integer cents."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ItemFact:
    id: str
    price_id: str
    quantity: int


@dataclass(frozen=True, slots=True)
class SubscriptionFact:
    """`status` in the provider's words; an ended one is "canceled" or "incomplete_expired"."""

    id: str
    customer_id: str
    status: str
    items: tuple[ItemFact, ...]
    period_start: datetime
    period_end: datetime
    trial_end: datetime | None
    cancel_at_period_end: bool
    ended_at: datetime | None
    latest_invoice_id: str

    @property
    def ended(self) -> bool:
        return self.status in ("canceled", "incomplete_expired")


@dataclass(frozen=True, slots=True)
class LineFact:
    id: str
    description: str
    amount: int
    quantity: int
    proration: bool
    starts: datetime
    ends: datetime
    item_id: str = ""  # of the invoice item behind it
    price_id: str = ""


@dataclass(frozen=True, slots=True)
class InvoiceFact:
    id: str
    customer_id: str
    subscription_id: str
    number: str
    status: str
    reason: str
    currency: str
    subtotal: int
    tax: int
    total: int
    due: int
    paid: int
    attempts: int
    starts: datetime
    ends: datetime
    created_at: datetime
    finalized_at: datetime | None
    next_attempt_at: datetime | None
    lines: tuple[LineFact, ...]
    payment_intent_id: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    id: str
    brand: str
    last4: str
    expires: str  # "12/2030"
    default: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change costs: due now, and each line of it. `at`: give it to the change, so that it is charged to the second."""

    currency: str
    due_cents: int
    total_cents: int
    tax_cents: int
    at: int
    lines: tuple[LineFact, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class EventFact:
    """A webhook: what it is about, not what it says; whoever handles it asks the provider how things are now."""

    type: str  # e.g. invoice.paid
    kind: str  # of the object, e.g. invoice
    object_id: str
    customer_id: str
    invoice_id: str = ""  # that the object belongs to
