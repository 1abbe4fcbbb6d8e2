"""What holds for a workspace: Free's minutes, a plan by hand and its end, months of every length, clocks that go back, buying again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import stripe

from apps.billing import by_hand, services, tasks
from apps.billing.models import Invoice, Subscription
from apps.billing.subscriptions import _turn, subscription_begin
from apps.billing.terms import month_after
from apps.common.actors import SYSTEM, Actor
from apps.common.errors import BadRequest, Conflict, Forbidden, InsufficientQuota, PaymentRequired
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage.accounts import account_spend, period_close
from apps.usage.limits import levels_of
from apps.usage.models import ClosedPeriod, OpenPeriod, UnbilledEntry, UsageEntry
from apps.usage.reservations import check_open, hold
from apps.usage.services import usage_record
from tests.integration.test_billing_plans import customer, ready, workspace

MINUTE_MS = 60_000
NOW = datetime.now(UTC)


@pytest.fixture
def tenant(database):
    with bound_public():
        yield workspace("terms")


def test_free_ends_with_its_minutes(tenant):
    row = subscription_begin(tenant=tenant)
    assert (row.version.plan_id, row.version.included) == ("free", {"session_ms": 100 * MINUTE_MS})
    with bound(tenant):
        usage_record(session_id="sess_free", turn_id="turn_1", meters={"session_ms": 99 * MINUTE_MS, "tokens_in": 10**6})
        check_open()
        assert hold(session_id="sess_more", units={"session_ms": MINUTE_MS})[0]
        assert not hold(session_id="sess_other", units={"session_ms": 1000})[0]
        usage_record(session_id="sess_more", turn_id="turn_2", meters={"session_ms": 2 * MINUTE_MS})
        with pytest.raises(InsufficientQuota, match="plan") as refused:
            check_open()
        assert (refused.value.code, refused.value.status) == ("insufficient_quota", 429)
        assert sum(UsageEntry.objects.filter(meter="session_ms").values_list("quantity", flat=True)) == 100 * MINUTE_MS
        assert list(UnbilledEntry.objects.values_list("meter", "quantity")) == [("session_ms", MINUTE_MS)]
        spend = account_spend()
        assert (spend.spent_micros, spend.limit_micros) == (0, 0)
    assert _turn(tenant.id, row.usage_end) == 1  # as the sweep does; it would go through all workspaces
    with bound(tenant):
        check_open()  # the next month
    invoice = Invoice.objects.get(tenant=tenant)
    assert (invoice.reason, invoice.total_cents) == ("statement", 0)


def limit(tenant: Tenant, name: str = "concurrent_sessions") -> int | None:
    tenant.refresh_from_db()
    return levels_of(tenant, None)[0].values.get(name)


@pytest.mark.parametrize("begins", [True, False])
def test_a_plan_by_hand_holds_until_its_time_and_then_what_was_holds_again(tenant, begins):
    if begins:
        subscription_begin(tenant=tenant)
    before = limit(tenant)
    with pytest.raises(BadRequest, match="no plan 'gold'; there are .*free.* pro"):
        by_hand.override_set(tenant=tenant, limits={}, plan="gold", until=None, actor=SYSTEM)
    with pytest.raises(BadRequest):
        by_hand.override_set(tenant=tenant, limits={}, plan="sessions-10", until=None, actor=SYSTEM)  # an add-on is no plan
    with pytest.raises(Forbidden):
        by_hand.override_set(tenant=tenant, limits={}, plan="pro", until=None, actor=Actor("usr_x", frozenset({"billing.write"})))
    with bound(tenant):
        usage_record(session_id="sess_a", turn_id="turn_before", meters={"session_ms": MINUTE_MS})
    by_hand.override_set(tenant=tenant, limits={"requests_per_minute": 77}, plan="enterprise", until=NOW + timedelta(days=3), actor=SYSTEM)
    assert limit(tenant) == 1000 and limit(tenant, "requests_per_minute") == 77  # a limit by hand counts before a plan by hand
    with bound(tenant):
        assert hold(session_id="sess_a", units={"session_ms": 20_000 * MINUTE_MS})[0] and not hold(session_id="sess_a", units={"session_ms": 1000})[0]
        assert account_spend().limit_micros == 0
        usage_record(session_id="sess_a", turn_id="turn_during", meters={"session_ms": 200 * MINUTE_MS})
        assert [p.totals for p in ClosedPeriod.objects.all()] == ([{"session_ms": MINUTE_MS}] if begins else [])  # what was used before keeps its terms
    row = services.subscription_get(tenant)
    assert row.by_hand == "enterprise" and row.status == ("free" if begins else "none")
    Tenant.objects.filter(pk=tenant.pk).update(override_until=NOW - timedelta(seconds=1))
    tasks.sweep()
    assert limit(tenant) == before and services.subscription_get(tenant).by_hand == ""
    with bound(tenant):
        assert account_spend().limit_micros == (0 if begins else None)
        assert hold(session_id="sess_b", units={"session_ms": 101 * MINUTE_MS})[0] is not begins
    assert by_hand.changed() == [] and by_hand.follow(tenant.id) == 0


def test_months_of_every_length_follow_each_other_without_a_gap(tenant):
    """From 31 January, 23:30, over a leap day and over the hours that many zones skip or repeat: periods are in UTC, which does neither."""
    row = subscription_begin(tenant=tenant)
    starts = datetime(2028, 1, 31, 23, 30, tzinfo=UTC)
    Subscription.objects.filter(pk=row.pk).update(usage_start=starts, usage_end=month_after(starts, 31), anchor_day=31)
    with bound(tenant):
        OpenPeriod.objects.update(starts=starts)
    for number in range(14):
        row.refresh_from_db()
        with bound(tenant):
            usage_record(session_id="sess_m", turn_id=f"turn_{number}", meters={"session_ms": 1000 + number})
        assert _turn(tenant.id, row.usage_end - timedelta(seconds=1)) == 0  # not before
        assert _turn(tenant.id, row.usage_end) == 1
        assert _turn(tenant.id, row.usage_end - timedelta(days=20)) == 0  # a clock that goes back
        with bound(tenant), pytest.raises(Conflict):
            period_close(ends=row.usage_start - timedelta(days=1))
    row.refresh_from_db()
    with bound(tenant):
        closed = list(ClosedPeriod.objects.order_by("number"))
    assert [p.totals for p in closed] == [{"session_ms": 1000 + n} for n in range(14)]
    assert [p.starts for p in closed] + [row.usage_start] == [starts, *(p.ends for p in closed)]
    assert [f"{p.ends:%m-%d}" for p in closed] == ["02-29", "03-31", "04-30", "05-31", "06-30", "07-31", "08-31", "09-30", "10-31", "11-30", "12-31", "01-31", "02-28", "03-31"]
    assert {p.ends.time() for p in closed} == {starts.time()}
    assert Invoice.objects.filter(tenant=tenant, reason="statement").count() == 14


def test_the_same_plan_is_bought_again_at_once_after_its_end(provider, tenant):
    """Within the seconds in which a repeated request is taken for the same one."""
    ready(tenant, provider)
    first = services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM).provider_id
    stripe.Subscription.cancel(first)
    provider.deliver(customer(tenant))
    assert services.subscription_get(tenant).status == "free"
    row = services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    assert row.status == "active" and row.provider_id not in ("", first)
    assert sorted(Invoice.objects.filter(tenant=tenant).exclude(reason="statement").values_list("paid_cents", flat=True)) == [4900, 4900]
    provider.end(customer(tenant))


def test_a_declined_card_is_replaced_and_the_plan_bought_at_once(provider, tenant):
    row = ready(tenant, provider, "pm_card_chargeCustomerFail")
    with pytest.raises(PaymentRequired):
        services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM)
    provider.card(row.customer_id)
    assert services.plan_change(tenant=tenant, plan="pro", actor=SYSTEM).status == "active"
    provider.end(row.customer_id)
