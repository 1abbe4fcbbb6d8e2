"""What a preview says is what the next invoice takes, to the cent: random plans, prices, currencies, moments and changes.

The full form, with its report in var/reports/proration.json: `PRORATION_CHANGES=500 python -m pytest tests/integration/test_billing_proration.py`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.billing import services
from apps.billing import stripe as payments
from apps.billing.models import Invoice, Plan, PlanVersion, Price
from apps.billing.subscriptions import subscription_sync
from apps.common.actors import SYSTEM
from apps.tenants.context import bound_public
from tests.billing import NAME
from tests.integration.test_billing_plans import ready, workspace

CHANGES = int(os.environ.get("PRORATION_CHANGES", "20"))
STEPS = 5  # changes an example
AMOUNT = st.integers(1, 2_000_000)
CASE = st.fixed_dictionaries({
    "currency": st.sampled_from(["usd", "eur", "gbp"]), "interval": st.sampled_from(["month", "year"]),
    "amounts": st.lists(AMOUNT, min_size=8, max_size=8),  # three plans and an add-on, by the month and the year
    "steps": st.lists(st.tuples(st.sampled_from(["plan", "addon"]), st.integers(0, 2), st.sampled_from(["month", "year"]), st.integers(0, 9), st.floats(0, 0.9)),
                      min_size=STEPS, max_size=STEPS),
})  # fmt: skip
_count = iter(range(10**6))


def plans(tenant, case) -> tuple[list[str], str]:
    """Codes of three plans, each more than the last, and of an add-on, sold to this tenant alone."""
    codes, word = [], f"h{time.time_ns() % 10**9}-{next(_count)}"
    for number, kind in enumerate(("base", "base", "base", "addon")):
        plan = Plan.objects.create(code=f"{word}-{number}", kind=kind, name=f"Plan {number}", listed=False, position=100 + number)
        plan.offered_to.add(tenant)
        version = PlanVersion.objects.create(plan=plan, number=1)
        for interval, cents in zip(("month", "year"), case["amounts"][2 * number : 2 * number + 2], strict=True):
            Price.objects.create(version=version, currency=case["currency"], interval=interval, amount_cents=cents)
        PlanVersion.objects.filter(pk=version.pk).update(published_at=timezone.now())
        codes.append(plan.code)
    return codes[:3], codes[3]


def begun(provider):
    """A workspace with a card; one a currency serves all examples, so that balances of earlier changes count in later ones."""
    tenant = workspace("prorated")
    ready(tenant, provider)
    return tenant


def leave(tenant) -> None:
    """Back to Free at once."""
    if (row := services.subscription_get(tenant)).provider_id:
        subscription_sync(tenant.id, payments.subscription_end(row.provider_id))


def change(tenant, step, codes, addon):
    """Make one change that is charged at once; (what was previewed, the invoice that followed)."""
    what, number, interval, quantity, _ = step
    known = set(Invoice.objects.filter(tenant=tenant).values_list("pk", flat=True))
    row = services.subscription_get(tenant)
    kind = services.change_of(row, tenant, codes[number], interval, row.currency).kind if what == "plan" and (codes[number], interval) != (
        row.version.plan_id, row.price.interval) else ""  # fmt: skip
    if kind == "upgrade":
        _, preview, quote = services.plan_preview(tenant=tenant, plan=codes[number], interval=interval, actor=SYSTEM)
        services.plan_change(tenant=tenant, plan=codes[number], interval=interval, quote=quote, actor=SYSTEM)
    else:
        held = next((a.quantity for a in row.addons.all()), 0)
        wanted = quantity if quantity != held else held + 1
        preview, quote = services.addon_preview(tenant=tenant, addon=addon, quantity=wanted, actor=SYSTEM)
        services.addon_set(tenant=tenant, addon=addon, quantity=wanted, quote=quote, actor=SYSTEM)
    return preview, Invoice.objects.filter(tenant=tenant).exclude(pk__in=known).get()


@pytest.mark.timeout(60 + 5 * CHANGES)
def test_every_preview_is_the_invoice_that_follows(provider):
    made, tenants, started = [], {}, time.monotonic()

    @settings(max_examples=max(1, CHANGES // STEPS), deadline=None, database=None, derandomize="PRORATION_CHANGES" not in os.environ,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(CASE)
    def run(case):
        with bound_public():
            tenant = tenants[case["currency"]] = tenants.get(case["currency"]) or begun(provider)
            leave(tenant)
            codes, addon = plans(tenant, case)
            services.plan_change(tenant=tenant, plan=codes[0], interval=case["interval"], currency=case["currency"], actor=SYSTEM)
            for step in case["steps"]:
                row = services.subscription_get(tenant)
                now = provider.now()
                ahead = int((row.period_end.timestamp() - now) * step[4])
                if ahead > 60:  # the clock goes on by itself, and never back
                    provider.advance(now + ahead)
                preview, invoice = change(tenant, step, codes, addon)
                assert (preview.total_cents, preview.due_cents, preview.tax_cents) == (invoice.total_cents, invoice.paid_cents + invoice.due_cents, invoice.tax_cents)
                assert sorted(line.amount for line in preview.lines) == sorted(invoice.lines.values_list("amount_cents", flat=True))
                made.append(invoice.total_cents)

    with bound_public():
        run()
        for tenant in tenants.values():
            leave(tenant)
    assert len(made) >= CHANGES
    if "PRORATION_CHANGES" in os.environ:
        report = Path(__file__).parents[2] / "var/reports/proration.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps({"provider": NAME, "changes": len(made), "equal_to_the_cent": len(made), "different": 0, "smallest_cents": min(made),
                                      "largest_cents": max(made), "seconds": round(time.monotonic() - started, 1)}, indent=1))  # fmt: skip
