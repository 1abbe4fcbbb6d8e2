"""Customers, their balance, tax and cards. Cards' numbers never come here, only to the provider's form."""

from __future__ import annotations

from typing import Any

import stripe
from django.conf import settings
from djstripe.models import Customer as MirroredCustomer

from apps.billing.facts import Card
from apps.billing.stripe.client import calling, id_of, once
from apps.common.errors import NotFound


def customer_make(*, tenant_id: str, name: str, email: str) -> str:
    """The id of the tenant's customer, made once; dj-stripe's mirror ties it to the tenant."""
    values: dict[str, Any] = {"name": name, "metadata": {"djstripe_subscriber": tenant_id}}
    values |= {n: v for n, v in (("email", email), ("test_clock", settings.STRIPE_TEST_CLOCK)) if v}
    with calling():
        made = stripe.Customer.create(**values, idempotency_key=once("customer", tenant_id, name, email))
        MirroredCustomer.sync_from_stripe_data(made)
    return made.id


def customer_update(customer_id: str, *, name: str, email: str, tax: dict[str, str]) -> None:
    """`tax`: country, postal_code, exempt (none, exempt, reverse), and tax_id with its tax_id_type ("" = none)."""
    with calling():
        address = {"country": tax["country"], "postal_code": tax.get("postal_code", "")} if tax.get("country") else ""
        stripe.Customer.modify(customer_id, name=tax.get("name") or name, email=email, address=address, tax_exempt=tax.get("exempt") or "none")
        wanted = (tax.get("tax_id_type", ""), tax.get("tax_id", ""))
        known = list(stripe.Customer.list_tax_ids(customer_id, limit=20).auto_paging_iter())
        if wanted[1] and wanted not in [(k.type, k.value) for k in known]:
            stripe.Customer.create_tax_id(customer_id, type=wanted[0], value=wanted[1])
        for old in known:
            if (old.type, old.value) != wanted:
                stripe.Customer.delete_tax_id(customer_id, old.id)


def balance_cents(customer_id: str) -> int:
    """Credit that the next invoices use up; below 0 = owed."""
    with calling():
        return -int(stripe.Customer.retrieve(customer_id).balance or 0)


def credit_give(customer_id: str, *, cents: int, currency: str, reason: str, key: str) -> str:
    with calling():
        return stripe.Customer.create_balance_transaction(customer_id, amount=-cents, currency=currency, description=reason, idempotency_key=once("credit", key)).id


def setup_begin(customer_id: str) -> tuple[str, str]:
    """(id, client secret) of a SetupIntent for the card form."""
    with calling():
        made = stripe.SetupIntent.create(customer=customer_id, usage="off_session", payment_method_types=["card"])
    return made.id, made.client_secret


def setup_result(customer_id: str, setup_id: str) -> tuple[str, str]:
    """(status, payment method id). Raises NotFound for somebody else's."""
    with calling():
        found = stripe.SetupIntent.retrieve(setup_id)
    if id_of(found.customer) != customer_id:
        raise NotFound(f"no card set-up {setup_id[:60]!r}")
    return found.status, id_of(found.payment_method)


def cards(customer_id: str) -> list[Card]:
    with calling():
        customer = stripe.Customer.retrieve(customer_id)
        default = id_of(customer.invoice_settings.default_payment_method) if customer.invoice_settings else ""
        found = stripe.PaymentMethod.list(customer=customer_id, type="card", limit=20).data
    return [Card(m.id, m.card.brand, m.card.last4, f"{m.card.exp_month:02}/{m.card.exp_year}", m.id == default) for m in found]


def card_default(customer_id: str, card_id: str) -> None:
    with calling():
        stripe.Customer.modify(customer_id, invoice_settings={"default_payment_method": card_id})


def card_remove(card_id: str) -> None:
    with calling():
        stripe.PaymentMethod.detach(card_id)


def mirror_owner(customer_id: str, tenant_id: str) -> None:
    """The mirror's customer belongs to the tenant that our own row says, whatever an event claims."""
    MirroredCustomer.objects.filter(id=customer_id).exclude(subscriber_id=tenant_id).update(subscriber_id=tenant_id)
