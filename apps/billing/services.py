"""What a tenant can do about its plan, add-ons, open invoices and tax. Each asks the actor first, calls the provider, and keeps our copy in step."""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.core import signing
from django.db import transaction
from django.db.models import Q

from apps.audit.services import audit_record
from apps.billing import stripe
from apps.billing.events import invoice_follow
from apps.billing.facts import Preview
from apps.billing.invoicing import invoice_sync
from apps.billing.models import Currency, Interval, Invoice, Plan, PlanVersion, Price, Subscription
from apps.billing.subscriptions import subscription_lock, subscription_row, subscription_sync
from apps.billing.terms import DEFAULT_CURRENCY, free_version, rank
from apps.common.actors import Actor
from apps.common.errors import BadRequest, Conflict, NotFound
from apps.tenants.context import bound
from apps.tenants.models import Tenant

Status = Subscription.Status
QUOTE_S = 15 * 60  # a preview's price holds for so long
RUNNING = (Status.ACTIVE, Status.PAST_DUE, Status.TRIALING)


@dataclass(frozen=True, slots=True)
class Change:
    """A move to another price: `kind` is new, upgrade (at once), downgrade (at the period's end), keep (takes a planned downgrade back)."""

    kind: str
    price: Price | None  # None: Free
    version: PlanVersion


def note(tenant: Tenant, actor: Actor, **line) -> None:
    with bound(tenant):
        audit_record(actor=actor, **line)


# What is offered


def plans_offered(tenant: Tenant, kind: str = Plan.Kind.BASE) -> list[Plan]:
    found = Plan.objects.filter(Q(listed=True) | Q(offered_to=tenant), kind=kind).distinct()
    return [plan for plan in found if plan.current]


def _plan(tenant: Tenant, code: str, kind: str) -> Plan:
    found = Plan.objects.filter(Q(listed=True) | Q(offered_to=tenant), kind=kind, code=code.replace("\0", "")).first()
    if found is None or found.current is None:
        raise NotFound(f"no plan {code[:40]!r} is offered to this workspace", param="plan")
    return found


def subscription_get(tenant: Tenant) -> Subscription | None:
    """None: the workspace has no plan, and the installation's limits."""
    return Subscription.objects.select_related("tenant", "version__plan", "price", "next_version__plan", "next_price").filter(tenant=tenant).first()


def _currency(row: Subscription | None, asked: str) -> str:
    """Raises Conflict when the tenant pays in another already: a customer has one currency. Raises BadRequest."""
    fixed = row.currency if row and row.currency else ""
    currency = (asked or fixed or DEFAULT_CURRENCY).lower()
    if currency not in Currency.values:
        raise BadRequest(f"currency {currency[:10]!r}: expected {', '.join(Currency.values)}", param="currency")
    if fixed and currency != fixed:
        raise Conflict(f"this workspace pays in {fixed.upper()}; its currency stays while it has a subscription or usage", param="currency")
    return currency


def change_of(row: Subscription | None, tenant: Tenant, plan: str, interval: str, currency: str) -> Change:
    """What choosing a plan would be. Raises NotFound, BadRequest, Conflict."""
    currency = _currency(row, currency)
    if plan == "free":
        if row is None or row.status not in RUNNING:
            raise Conflict("the workspace has no paid plan", param="plan")
        return Change("downgrade", None, free_version())
    if interval not in Interval.values:
        raise BadRequest(f"interval {interval[:10]!r}: expected month or year", param="interval")
    version = _plan(tenant, plan, Plan.Kind.BASE).current
    price = version.price(currency, interval)
    if price is None:
        raise NotFound(f"{version.plan} has no price in {currency.upper()} by the {interval}", param="currency")
    if row is None or row.status not in RUNNING:
        return Change("new", price, version)
    if price.pk == row.price_id or row.price and price.version.plan_id == row.version.plan_id and price.interval == row.price.interval and row.next_version_id:
        if not row.next_version_id and not row.cancel_at_period_end and row.status != Status.TRIALING:
            raise Conflict(f"the workspace is on {version.plan} by the {interval} already", param="plan")
        return Change("upgrade" if row.status == Status.TRIALING and not row.cancel_at_period_end else "keep", row.price, row.version)
    down = row.status != Status.TRIALING and rank(price, version) < rank(row.price, row.version)
    return Change("downgrade" if down else "upgrade", price, version)


# At the provider


def customer_lock(tenant: Tenant) -> Subscription:
    """The row, with a customer at the provider; one change at a time."""
    subscription_row(tenant)
    row = subscription_lock(tenant.id)
    if not row.customer_id:
        row.customer_id = stripe.customer_make(tenant_id=row.tenant_id, name=row.tenant.name, email=row.tenant.email)
        row.save(update_fields=["customer_id"])
    return row


def price_ready(price: Price) -> str:
    """The provider's id of a price, made there when it is first bought."""
    if not price.provider_id:
        version = price.version
        if not version.product_id:
            version.product_id = stripe.product_make(key=f"{version.plan_id}:{version.number}", name=version.plan.name, about=version.plan.about)
            PlanVersion.objects.filter(pk=version.pk).update(product_id=version.product_id)
        price.provider_id = stripe.price_make(product_id=version.product_id, currency=price.currency, interval=price.interval, cents=price.amount_cents)
        Price.objects.filter(pk=price.pk).update(provider_id=price.provider_id)
    return price.provider_id


def _items(row: Subscription, price: Price) -> list[dict]:
    """The subscription's items with another base price; add-ons follow its interval."""
    items = [{"id": row.item_id, "price": price_ready(price)}]
    for addon in row.addons.select_related("version__plan", "price"):
        if addon.price.interval != price.interval:
            other = addon.version.price(price.currency, price.interval)
            if other is None:
                raise Conflict(f"the add-on {addon.version.plan} is not sold by the {price.interval}; remove it first")
            items.append({"id": addon.item_id, "price": price_ready(other), "quantity": addon.quantity})
    return items


# Plan


def plan_preview(*, tenant: Tenant, plan: str, interval: str = Interval.MONTH, currency: str = "", actor: Actor) -> tuple[Change, Preview | None, str]:
    """(what it would be, what it costs now, a quote that `plan_change` takes for QUOTE_S). No preview where nothing is charged now."""
    actor.require("billing.read", tenant.id)
    row = subscription_get(tenant)
    change = change_of(row, tenant, plan, interval, currency)
    if change.kind == "new":
        if row is None or not row.customer_id:
            if not actor.can("billing.write"):
                raise Conflict("nothing was bought here yet: somebody with the permission billing.write sees what it costs")
            with transaction.atomic():
                row = customer_lock(tenant)
        found = stripe.new_preview(row.customer_id, items=[(price_ready(change.price), 1)])
    elif change.kind == "upgrade":
        found = stripe.change_preview(row.customer_id, row.provider_id, items=_items(row, change.price), end_trial=row.status == Status.TRIALING)
    else:
        return change, None, ""
    return change, found, _quote(tenant, change.price and change.price.pk, found)


def _quote(tenant: Tenant, what: int | str, found: Preview) -> str:
    return signing.dumps([tenant.id, what, found.at, found.due_cents], salt="billing.quote")


def _quoted(tenant: Tenant, what: int | str | None, quote: str) -> int:
    """The second to prorate at. Raises Conflict for a quote that is old or not of this change."""
    if not quote:
        return 0
    try:
        tenant_id, quoted, at, _ = signing.loads(quote, salt="billing.quote", max_age=QUOTE_S)
    except signing.BadSignature as error:
        raise Conflict("this preview is no longer valid; look at it again", param="quote") from error
    if (tenant_id, quoted) != (tenant.id, what):
        raise Conflict("this preview is of another change; look at it again", param="quote")
    return at


@transaction.atomic
def plan_change(*, tenant: Tenant, plan: str, interval: str = Interval.MONTH, currency: str = "", quote: str = "", actor: Actor) -> Subscription:
    """Move to a plan. Raises PaymentRequired and leaves everything as it was when the card is declined; NotFound, BadRequest, Conflict, Forbidden."""
    actor.require("billing.write", tenant.id)
    row = customer_lock(tenant)
    change = change_of(row, tenant, plan, interval, currency)
    at = _quoted(tenant, change.price and change.price.pk, quote)
    if change.kind == "new":
        fact = _begin(row, change)
    elif change.kind == "upgrade":
        fact = stripe.subscription_change(row.provider_id, items=_items(row, change.price), at=at, end_trial=row.status == Status.TRIALING)
        row.next_version = row.next_price = None
        row.save()
    elif change.kind == "keep":
        fact = _keep(row)
    else:
        fact = _downgrade(row, change)
    before = {"plan": str(row.version), "price": str(row.price or "")}
    note(tenant, actor, action=f"plan.{change.kind}", target=tenant.id, before=before, after={"plan": str(change.version), "price": str(change.price or "")})
    row = subscription_sync(tenant.id, fact, actor)
    if change.kind in ("new", "upgrade") and fact.latest_invoice_id:
        invoice_follow(tenant.id, fact.latest_invoice_id)
    return row


def _begin(row: Subscription, change: Change):
    cards, before = stripe.cards(row.customer_id), row.provider_id
    if change.price.amount_cents and not any(card.default for card in cards):
        raise Conflict("add a card first: the plan is paid with it", param="card")
    if row.provider_id:  # one whose first payment was never confirmed
        stripe.subscription_end(row.provider_id)
        for invoice in Invoice.objects.filter(tenant_id=row.tenant_id, status=Invoice.Status.OPEN, reason="subscription_create"):
            invoice_sync(row, stripe.invoice_void(invoice.provider_id))
    # what a crash left half done is found again by the key; what was bought before, ended, or refused with another card is not meant
    default = next((card.id for card in cards if card.default), "")
    key = f"{row.tenant_id}:{change.price.pk}:{before}:{row.period_start.timestamp()}:{default}:{int(time.time()) // 30}"
    return stripe.subscription_make(row.customer_id, items=[(price_ready(change.price), 1)], key=key)


def _downgrade(row: Subscription, change: Change):
    row.next_version, row.next_price = change.version, change.price
    row.save()
    if change.price is None or change.price.interval != row.price.interval:  # another interval begins anew when this one has ended
        if change.price is not None:
            price_ready(change.price)
        return stripe.subscription_cancel(row.provider_id)
    return stripe.subscription_change(row.provider_id, items=_items(row, change.price), prorate=False)


def _keep(row: Subscription):
    """Take a planned downgrade or cancellation back."""
    swapped = row.next_price is not None and not row.cancel_at_period_end
    row.next_version = row.next_price = None
    row.save()
    if swapped:
        return stripe.subscription_change(row.provider_id, items=_items(row, row.price), prorate=False)
    return stripe.subscription_cancel(row.provider_id, at_period_end=False)


def plan_cancel(*, tenant: Tenant, actor: Actor) -> Subscription:
    """To Free at the period's end; until then everything stays. Raises Conflict without a subscription."""
    return plan_change(tenant=tenant, plan="free", actor=actor)


@transaction.atomic
def plan_keep(*, tenant: Tenant, actor: Actor) -> Subscription:
    """Undo a cancellation or a downgrade that has not begun. Raises Conflict when there is none."""
    actor.require("billing.write", tenant.id)
    row = subscription_lock(tenant.id) if subscription_get(tenant) else None
    if row is None or not row.next_version_id and not row.cancel_at_period_end:
        raise Conflict("there is no cancellation or downgrade to take back")
    note(tenant, actor, action="plan.keep", target=tenant.id, after={"plan": str(row.version)})
    return subscription_sync(tenant.id, _keep(row), actor)


@transaction.atomic
def trial_start(*, tenant: Tenant, plan: str = "pro", currency: str = "", actor: Actor) -> Subscription:
    """Once a workspace, without a card; it falls back to Free where none was added. Raises Conflict."""
    actor.require("billing.write", tenant.id)
    row = customer_lock(tenant)
    if row.trial_used or row.status not in (Status.FREE, Status.NONE):
        raise Conflict("a trial is for workspaces that had neither a trial nor a paid plan")
    version = _plan(tenant, plan, Plan.Kind.BASE).current
    price = version.price(_currency(row, currency), Interval.MONTH)
    if not version.trial_days or price is None:
        raise Conflict(f"{version.plan} has no trial", param="plan")
    fact = stripe.subscription_make(row.customer_id, items=[(price_ready(price), 1)], trial_days=version.trial_days, key=f"{tenant.id}:trial")
    note(tenant, actor, action="plan.trial", target=tenant.id, after={"plan": str(version), "days": version.trial_days})
    return subscription_sync(tenant.id, fact, actor)


# Add-ons


def _addon_items(row: Subscription, version: PlanVersion, quantity: int) -> list[dict]:
    held = row.addons.filter(version__plan_id=version.plan_id).first()
    if held and not quantity:
        return [{"id": held.item_id, "deleted": True}]
    if held:
        return [{"id": held.item_id, "quantity": quantity}]
    price = version.price(row.currency, row.price.interval)
    if price is None:
        raise NotFound(f"{version.plan} is not sold in {row.currency.upper()} by the {row.price.interval}", param="addon")
    return [{"price": price_ready(price), "quantity": quantity}]


def _addon_check(row: Subscription | None, tenant: Tenant, addon: str, quantity: int) -> PlanVersion:
    if row is None or row.status not in (Status.ACTIVE, Status.TRIALING):
        raise Conflict("add-ons go with a paid plan; choose one first")
    if not 0 <= quantity <= 100:
        raise BadRequest(f"quantity {quantity}: expected 0 to 100", param="quantity")
    version = _plan(tenant, addon, Plan.Kind.ADDON).current
    if not quantity and not row.addons.filter(version__plan_id=addon).exists():
        raise Conflict(f"the workspace has no {version.plan}", param="addon")
    return version


def addon_preview(*, tenant: Tenant, addon: str, quantity: int, actor: Actor) -> tuple[Preview, str]:
    """(what it costs now, below 0 = comes back as balance; a quote for `addon_set`)."""
    actor.require("billing.read", tenant.id)
    row = subscription_get(tenant)
    version = _addon_check(row, tenant, addon, quantity)
    found = stripe.change_preview(row.customer_id, row.provider_id, items=_addon_items(row, version, quantity))
    return found, _quote(tenant, f"{addon}:{quantity}", found)


@transaction.atomic
def addon_set(*, tenant: Tenant, addon: str, quantity: int, quote: str = "", actor: Actor) -> Subscription:
    """So many of an add-on from now on, the difference charged or credited at once. Raises PaymentRequired, Conflict, BadRequest, NotFound."""
    actor.require("billing.write", tenant.id)
    row = subscription_lock(tenant.id) if subscription_get(tenant) else None
    version = _addon_check(row, tenant, addon, quantity)
    fact = stripe.subscription_change(row.provider_id, items=_addon_items(row, version, quantity), at=_quoted(tenant, f"{addon}:{quantity}", quote))
    note(tenant, actor, action="addon.changed", target=tenant.id, after={"addon": addon, "quantity": quantity})
    row = subscription_sync(tenant.id, fact, actor)
    if fact.latest_invoice_id:
        invoice_follow(tenant.id, fact.latest_invoice_id)
    return row


# Invoices and tax


def invoice_pay(*, tenant: Tenant, invoice: Invoice, actor: Actor) -> Invoice:
    """Charge the default card for an open invoice. Raises PaymentRequired, AuthenticationRequired, Conflict."""
    actor.require("billing.write", tenant.id)
    if invoice.status != Invoice.Status.OPEN:
        raise Conflict(f"invoice {invoice} is {invoice.status}: there is nothing to pay")
    try:
        stripe.invoice_pay(invoice.provider_id)
    finally:
        followed = invoice_follow(tenant.id, invoice.provider_id)
    note(tenant, actor, action="invoice.paid", target=invoice.id, after={"paid_cents": followed.paid_cents})
    return followed


@transaction.atomic
def tax_set(*, tenant: Tenant, actor: Actor, **values: str) -> Subscription:
    """`name`, `country`, `postal_code`, `exempt` (none, exempt, reverse), `tax_id` with `tax_id_type` (e.g. eu_vat). Raises BadRequest."""
    actor.require("billing.write", tenant.id)
    if unknown := set(values) - {"name", "country", "postal_code", "exempt", "tax_id", "tax_id_type"}:
        raise BadRequest(f"cannot set {sorted(unknown)}", param=sorted(unknown)[0])
    country = values.get("country", "").upper()
    if country and not (len(country) == 2 and country.isascii() and country.isalpha()):
        raise BadRequest(f"country {country[:10]!r}: two letters, as in ISO 3166", param="country")
    if bool(values.get("tax_id")) != bool(values.get("tax_id_type")):
        raise BadRequest("a tax id needs its type, e.g. eu_vat, gb_vat or us_ein", param="tax_id_type")
    if values.get("exempt", "none") not in ("", "none", "exempt", "reverse"):
        raise BadRequest(f"exempt {values['exempt'][:20]!r}: expected none, exempt or reverse", param="exempt")
    row = customer_lock(tenant)
    before, row.tax = row.tax, {name: value.strip()[:120] for name, value in (values | {"country": country}).items() if value.strip()}
    stripe.customer_update(row.customer_id, name=tenant.name, email=tenant.email, tax=row.tax)
    row.save(update_fields=["tax"])
    note(tenant, actor, action="tax.changed", target=tenant.id, before=before, after=row.tax)
    return row
