"""Our copy of a subscription, kept as the provider has it now, whatever the order its news come in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime

from django.db import Error as DatabaseError
from django.db import transaction
from django.utils import timezone

from apps.audit.services import audit_record
from apps.billing import stripe
from apps.billing.facts import SubscriptionFact
from apps.billing.invoicing import lines_stranded, usage_close, usage_collect
from apps.billing.models import AddOn, Interval, Plan, Price, Subscription
from apps.billing.terms import free_version, month_after, terms_apply
from apps.common.actors import SYSTEM, Actor
from apps.common.errors import PaymentRequired, ProviderUnavailable, VivavoceError
from apps.tenants.context import bound
from apps.tenants.models import Tenant

log = logging.getLogger("vivavoce.billing")
Status = Subscription.Status
STATUS = {"trialing": Status.TRIALING, "active": Status.ACTIVE, "past_due": Status.PAST_DUE, "unpaid": Status.PAST_DUE, "incomplete": Status.INCOMPLETE,
          "paused": Status.PAST_DUE}  # fmt: skip


@transaction.atomic
def subscription_begin(*, tenant: Tenant) -> Subscription:
    """The first plan of who signed up: Free, by the month from now. A workspace that an operator made has none until one is chosen."""
    now = timezone.now().replace(microsecond=0)
    values = {"version": free_version(), "status": Status.FREE, "usage_start": now, "usage_end": month_after(now, now.day), "anchor_day": now.day}
    row, made = Subscription.objects.get_or_create(tenant=tenant, defaults=values)
    if made:
        terms_apply(row)
    return row


def subscription_row(tenant: Tenant) -> Subscription:
    """The row, without a plan where there was none."""
    return Subscription.objects.get_or_create(tenant=tenant, defaults={"version": free_version()})[0]


def subscription_lock(tenant_id: str) -> Subscription:
    """The row, held until the transaction ends: one change of a tenant's plan at a time.

    Without joins: a row whose plan changed while its lock was waited for would fall out of them (PostgreSQL, READ COMMITTED).
    """
    return Subscription.objects.select_for_update().get(tenant_id=tenant_id)


@transaction.atomic
def subscription_sync(tenant_id: str, fact: SubscriptionFact, actor: Actor = SYSTEM) -> Subscription:
    row = subscription_lock(tenant_id)
    if fact.customer_id != row.customer_id or row.provider_id not in ("", fact.id) and fact.ended:
        return row  # news of another customer's, or of one that was replaced
    before = (str(row.version), row.status)
    if fact.status == "incomplete":  # nothing changes before it is paid
        row.provider_id, row.status = fact.id, Status.INCOMPLETE
        row.save()
    elif fact.ended and row.status == Status.INCOMPLETE:  # nor when it never was
        row.provider_id, row.status = "", Status.FREE if row.usage_end else Status.NONE
        row.save()
    else:
        (_ended if fact.ended else _running)(row, fact)
        terms_apply(row)
    if (after := (str(row.version), row.status)) != before:
        with bound(row.tenant):
            audit_record(actor=actor, action="subscription.changed", target=row.tenant_id, before={"plan": before[0], "status": before[1]},
                         after={"plan": after[0], "status": after[1]})  # fmt: skip
    return row


def _running(row: Subscription, fact: SubscriptionFact) -> None:
    prices = {p.provider_id: p for p in Price.objects.select_related("version__plan").filter(provider_id__in=[i.price_id for i in fact.items])}
    base = next((i for i in fact.items if i.price_id in prices and prices[i.price_id].version.plan.kind == Plan.Kind.BASE), None)
    if base is None:
        raise LookupError(f"subscription {fact.id} has no price of ours")
    price, renewed = prices[base.price_id], row.provider_id != fact.id or fact.period_start != row.period_start
    if renewed or price.pk != row.next_price_id:  # else: a downgrade that begins with the next period
        if row.next_price_id == price.pk or price.version.plan_id != row.version.plan_id or row.price_id != price.pk:
            row.next_version = row.next_price = None
        row.version, row.price = price.version, price
    if renewed:
        usage_close(row, fact.period_start)
    row.provider_id, row.item_id, row.currency, row.status = fact.id, base.id, price.currency, _status(row, fact)
    row.period_start, row.period_end, row.trial_end = fact.period_start, fact.period_end, fact.trial_end
    row.cancel_at_period_end, row.synced_at = fact.cancel_at_period_end, timezone.now()
    row.trial_used = row.trial_used or row.status == Status.TRIALING
    if renewed:
        row.anchor_day, row.usage_start, row.usage_end = fact.period_start.day, fact.period_start, _usage_end(fact.period_start, fact.period_end, price)
    row.save()
    kept = []
    for item in fact.items:
        if item.price_id in prices and item is not base:
            addon = prices[item.price_id]
            AddOn.objects.update_or_create(subscription=row, version=addon.version, defaults={"price": addon, "quantity": item.quantity, "item_id": item.id})
            kept.append(addon.version_id)
    row.addons.exclude(version_id__in=kept).delete()


def _status(row: Subscription, fact: SubscriptionFact) -> str:
    status = STATUS[fact.status]
    return Status.UNPAID if status == Status.PAST_DUE and row.status == Status.UNPAID else status  # our suspension, until it is paid


def _usage_end(starts: datetime, ends: datetime, price: Price) -> datetime:
    return ends if price.interval == Interval.MONTH else min(ends, month_after(starts, starts.day))


def _ended(row: Subscription, fact: SubscriptionFact) -> None:
    """Back to Free; or on to a plan that was to begin at this end."""
    if row.provider_id != fact.id:
        return
    ends = min(fact.ended_at or fact.period_end, fact.period_end)
    following = row.next_price if row.next_price and row.cancel_at_period_end else None
    if ends > row.usage_start:
        usage_close(row, ends)
    row.addons.all().delete()
    row.version, row.price, row.status, row.provider_id, row.item_id = free_version(), None, Status.FREE, "", ""
    row.period_start, row.period_end, row.trial_end = ends, None, None
    row.cancel_at_period_end, row.next_version, row.next_price = False, None, None
    row.usage_start, row.usage_end, row.anchor_day, row.synced_at = ends, month_after(ends, ends.day), ends.day, timezone.now()
    row.save()
    usage_collect(row)
    if following is not None:
        try:
            made = stripe.subscription_make(row.customer_id, items=[(following.provider_id, 1)], key=f"{row.tenant_id}:{fact.id}:next")
        except PaymentRequired:
            return  # on Free, as the page says
        _running(row, made)


@transaction.atomic
def subscription_follow(tenant_id: str, provider_id: str) -> Subscription:
    """Ask the provider about a subscription and take over the answer, which nothing newer precedes: the row is locked. Raises ProviderUnavailable, NotFound."""
    subscription_lock(tenant_id)
    return subscription_sync(tenant_id, stripe.subscription_get(provider_id))


def each(tenant_ids: Iterable[str], act: Callable[[str], int | None]) -> int:
    """Do it for all of them; one that fails is named in the log and tried the next time, with the provider away so are the rest. Returns the sum."""
    done = 0
    for tenant_id in tenant_ids:
        try:
            done += act(tenant_id) or 0
        except ProviderUnavailable as error:
            log.warning("billing waits: %s", error.message)
            break
        except (VivavoceError, DatabaseError, LookupError) as error:
            log.warning("billing of %s waits: %s", tenant_id, error)
    return done


def living():
    """Subscriptions of workspaces whose data are there."""
    return Subscription.objects.exclude(tenant__status__in=[Tenant.Status.PROVISIONING, Tenant.Status.ERASED])


def turn(now: datetime) -> int:
    """Close usage periods that no renewal of the provider's closes: of free and yearly plans; ask about renewals that are late. Returns how many."""
    each(list(lines_stranded(now)), _collect)
    each(list(Subscription.objects.exclude(provider_id="").filter(tenant__status__in=[Tenant.Status.CLOSED, Tenant.Status.ERASED]).values_list("tenant_id", flat=True)), _leave)
    return each(list(living().filter(usage_end__lte=now).values_list("tenant_id", flat=True)[:1000]), lambda tenant_id: _turn(tenant_id, now))


@transaction.atomic
def _collect(tenant_id: str) -> None:
    usage_collect(subscription_lock(tenant_id))


@transaction.atomic
def _leave(tenant_id: str) -> None:
    """A closed workspace is not charged again; an erased one has no subscription left."""
    row = subscription_lock(tenant_id)
    if row.tenant.status == Tenant.Status.ERASED:
        stripe.subscription_end(row.provider_id)
        Subscription.objects.filter(pk=row.pk).update(provider_id="", item_id="", status=Status.NONE, price=None, usage_end=None)
    elif not row.cancel_at_period_end:
        subscription_sync(tenant_id, stripe.subscription_cancel(row.provider_id))


@transaction.atomic
def _turn(tenant_id: str, now: datetime) -> int:
    row = subscription_lock(tenant_id)
    if row.usage_end is None or row.usage_end > now:
        return 0
    if row.provider_id and (row.price.interval == Interval.MONTH or row.usage_end >= row.period_end):
        subscription_follow(tenant_id, row.provider_id)
        return 0
    ends = row.usage_end
    usage_close(row, ends)
    following = month_after(ends, row.anchor_day)
    row.usage_start, row.usage_end = ends, min(following, row.period_end) if row.provider_id and row.period_end else following
    row.save()
    terms_apply(row)
    usage_collect(row)
    return 1
