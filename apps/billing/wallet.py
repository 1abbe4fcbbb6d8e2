"""A tenant's cards. Their numbers never come here: the provider's form takes them."""

from __future__ import annotations

from django.db import transaction

from apps.billing import stripe
from apps.billing.facts import Card
from apps.billing.models import Subscription
from apps.billing.services import customer_lock, note, subscription_get
from apps.common.actors import Actor
from apps.common.errors import Conflict, NotFound
from apps.tenants.models import Tenant
from apps.tenants.services import milestone


def card_begin(*, tenant: Tenant, actor: Actor) -> tuple[str, str]:
    """(id, client secret) of a set-up: the card's number goes from the browser to the provider."""
    actor.require("billing.write", tenant.id)
    with transaction.atomic():
        row = customer_lock(tenant)
    return stripe.setup_begin(row.customer_id)


def _customer(tenant: Tenant) -> str:
    row = subscription_get(tenant)
    return row.customer_id if row else ""


def card_finish(*, tenant: Tenant, setup_id: str, actor: Actor) -> str:
    """After the provider's form: the first card becomes the default. Returns the set-up's status. Raises NotFound."""
    actor.require("billing.write", tenant.id)
    customer = _customer(tenant)
    if not customer or not setup_id.startswith("seti_"):
        raise NotFound(f"no card set-up {setup_id[:60]!r}")
    status, card_id = stripe.setup_result(customer, setup_id)
    if status == "succeeded":
        if not any(card.default for card in stripe.cards(customer)):
            stripe.card_default(customer, card_id)
        milestone(tenant_id=tenant.id, name="payment_method")
        note(tenant, actor, action="card.added", target=tenant.id, after={"card": card_id})
    return status


def card_list(tenant: Tenant) -> list[Card]:
    customer = _customer(tenant)
    return stripe.cards(customer) if customer else []


def _card(tenant: Tenant, card_id: str) -> Card:
    found = next((card for card in card_list(tenant) if card.id == card_id), None)
    if found is None:
        raise NotFound(f"no card {card_id[:60]!r}")
    return found


def card_default(*, tenant: Tenant, card_id: str, actor: Actor) -> None:
    actor.require("billing.write", tenant.id)
    stripe.card_default(_customer(tenant), _card(tenant, card_id).id)
    note(tenant, actor, action="card.default", target=tenant.id, after={"card": card_id})


def card_remove(*, tenant: Tenant, card_id: str, actor: Actor) -> None:
    """Raises Conflict for the default of a plan that is paid with it."""
    actor.require("billing.write", tenant.id)
    card, row = _card(tenant, card_id), subscription_get(tenant)
    if card.default and row.provider_id and row.status != Subscription.Status.TRIALING:
        raise Conflict("the plan is paid with this card; make another the default first")
    stripe.card_remove(card.id)
    note(tenant, actor, action="card.removed", target=tenant.id, after={"card": card_id})
