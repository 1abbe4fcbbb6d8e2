"""Billing as a customer meets it, by HTTP against the running portal: subscription and usage, payment methods, plans up and down, invoices.

The payment provider is the sandbox, whose webhooks reach the portal and are worked off by the `default` worker; with STRIPE_TEST_SECRET_KEY
it is Stripe's test mode (the run's header says which), and the tests carry its events to the portal.
"""

from __future__ import annotations

import calendar
import re
import time

import pytest
import requests
import stripe

from apps.accounts.models import User
from apps.billing.services import subscription_get
from apps.common.launch import processes
from apps.teams.models import Membership
from apps.tenants.context import bound, bound_public
from apps.usage import rollups
from apps.usage.reservations import check_open
from apps.usage.services import usage_record
from tests.billing import REAL
from tests.conftest import WORK
from tests.infrastructure import Stack
from tests.integration.test_billing_plans import workspace

DAY, PASSWORD = 86_400, "a-long-password-7"


@pytest.fixture(scope="module")
def portal(provider):
    running = Stack(WORK)
    try:
        address = running.start_portal()
        running.run(processes.default_worker())
        running.run(processes.beat(WORK))
        provider.stop()
        provider.start(webhook_url=f"{address}/stripe/webhook")
        yield address
    finally:
        running.stop()
        provider.stop()
        provider.start()


class Customer:
    """An owner's browser and API client."""

    def __init__(self, address: str):
        self.address, self.browser = address, requests.Session()
        with bound_public():
            self.tenant = workspace("e2e")
            user = User.objects.create_user(f"{self.tenant.slug}@example.com", PASSWORD)
            Membership.objects.create(tenant=self.tenant, user=user, role="owner")
        self.get("/accounts/login/")
        answer = self.post("/accounts/login/", login=user.email, password=PASSWORD)
        assert "/accounts/login" not in answer.url, answer.text[:500]

    def get(self, path: str) -> requests.Response:
        return self.browser.get(path if path.startswith("http") else self.address + path, timeout=60)

    def post(self, path: str, **form) -> requests.Response:
        """A form of the page that was looked at, with its token."""
        form["csrfmiddlewaretoken"] = self.browser.cookies.get("csrftoken", "")
        return self.browser.post(self.address + path, form, headers={"Referer": self.address + path}, timeout=60)

    @property
    def billing(self) -> str:
        return f"/t/{self.tenant.slug}/billing"

    def api(self, path: str, method: str = "GET", **body) -> requests.Response:
        headers = {"X-CSRFToken": self.browser.cookies.get("csrftoken", ""), "Referer": self.address, "X-Vivavoce-Tenant": self.tenant.slug}
        return self.browser.request(method, f"{self.address}/api/v1/{path}", json=body or None, headers=headers, timeout=60)

    def add_card(self, token: str = "pm_card_visa", outcome: str = "pass") -> str:
        """By the provider's own form; the portal never sees it. Returns the page it ends on."""
        self.get(self.billing)
        if REAL:
            setup = self.api("billing/cards", "POST").json()["setup_intent"]
            stripe.SetupIntent.confirm(setup, payment_method=token, return_url=self.address)
            return self.get(f"{self.billing}/cards/return?setup_intent={setup}").text
        form = self.post(f"{self.billing}/cards")
        assert "/_sandbox/confirm" in form.url and "stand-in for Stripe" in form.text
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form.text))
        page = self.browser.post(form.url.partition("?")[0], {**hidden, "token": token}, timeout=60)
        if "/_sandbox/authenticate" in page.url:
            hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page.text))
            page = self.browser.post(page.url.partition("?")[0], {**hidden, "outcome": outcome}, timeout=60)
        return page.text

    def change(self, **asked) -> str:
        """Look at the preview and take it: what the button says it costs is what is paid."""
        page = self.browser.get(self.address + self.billing, params=asked, timeout=60).text
        preview = page[page.index('id="preview"'):]
        form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', preview[: preview.index("</form>")]))
        self.cost = (re.search(r"Pay ([\d.,]+) \w+ and change", preview) or ["", ""])[1]
        return self.post(f"{self.billing}/plan", **form).text

    def until(self, seen, seconds: float = 30):
        """What the API says once `seen(subscription)` holds: webhooks arrive in their own time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.api("billing").json()
            if seen(found):
                return found
            time.sleep(0.2)
        raise AssertionError(f"after {seconds} s: {found}")


@pytest.fixture(scope="module")
def customer(portal):
    return Customer(portal)


def events_arrive(provider, customer) -> None:
    """On Stripe's test mode nobody outside can reach this portal: carry its events there."""
    if REAL:
        with bound_public():
            provider.deliver(subscription_get(customer.tenant).customer_id)


def test_view_subscription_and_usage(customer):
    page = customer.get(customer.billing).text
    assert "This workspace has no plan" in page and ("stand-in for Stripe" in page) is not REAL
    assert customer.api("billing").json()["plan"] is None
    assert {p["code"] for p in customer.api("billing/plans").json()} >= {"free", "pro", "sessions-10"}
    customer.post(f"{customer.billing}/trial", currency="usd")
    page = customer.get(customer.billing).text
    assert "Plan: Pro" in page and "trialing" in page and "then Free, unless you add a card" in page
    with bound(customer.tenant):
        usage_record(session_id="sess_e2e", turn_id="turn_1", meters={"session_ms": 90_000})
    assert customer.api("usage").json()["session_ms"] == 90_000
    assert customer.api("limits").json()["limits"]["concurrent_sessions"] == 50


def test_add_payment_methods(customer):
    assert "declined" in customer.add_card("pm_card_chargeDeclined").lower() or REAL
    assert "The card is saved" in customer.add_card()
    page = customer.add_card("pm_card_mastercard")
    assert "4242" in page and "4444" in page and not re.search(r"\b4242 ?4242", page)
    cards = customer.api("billing/cards").json()
    assert [c["last4"] for c in cards if c["default"]] == ["4242"]
    other = next(c["id"] for c in cards if c["last4"] == "4444")
    customer.post(f"{customer.billing}/cards/{other}/default")
    assert [c["last4"] for c in customer.api("billing/cards").json() if c["default"]] == ["4444"]
    assert customer.api(f"billing/cards/{other}", "DELETE").status_code == 204
    visa = next(c["id"] for c in cards if c["last4"] == "4242")
    assert customer.api(f"billing/cards/{visa}/default", "POST").status_code == 200
    if not REAL:
        assert "was not saved" in customer.add_card("pm_card_authenticationRequiredOnSetup", outcome="fail")
        assert "The card is saved" in customer.add_card("pm_card_authenticationRequiredOnSetup")


def test_upgrade_and_downgrade_plans(customer, provider):
    assert "Done" in customer.change(plan="pro", interval="month")
    assert customer.cost == "49.00"
    assert customer.until(lambda s: s["status"] == "active")["amount_cents"] == 4900
    assert "Done" in customer.change(plan="pro", interval="year")
    yearly = customer.until(lambda s: s["interval"] == "year")
    latest = customer.api("billing/invoices").json()["data"][:2]  # both may be of one second
    assert customer.cost in [f"{i['total_cents'] / 100:,.2f}" for i in latest if i["status"] == "paid" and i["total_cents"] != 4900]
    customer.change(plan="pro", interval="month")
    planned = customer.api("billing").json()
    assert customer.cost == "" and planned["interval"] == "year" and planned["next_plan"] == "pro" and planned["cancel_at_period_end"]
    assert "Taken back" in customer.post(f"{customer.billing}/keep").text
    assert "Everything stays until" in customer.post(f"{customer.billing}/cancel").text
    assert customer.api("billing/keep", "POST").json()["cancel_at_period_end"] is False
    customer.api("billing/cancel", "POST")
    end = customer.api("billing").json()["period_end"]
    assert end == yearly["period_end"]
    provider.advance(int(time.mktime(time.strptime(end[:19], "%Y-%m-%dT%H:%M:%S"))) - time.timezone + 3600)
    events_arrive(provider, customer)
    free = customer.until(lambda s: s["status"] == "free")
    assert free["plan"] == "free" and free["entitlements"]["concurrent_sessions"] == 2


def test_view_invoices(customer):
    found = customer.api("billing/invoices").json()["data"]
    used = next(i for i in found if any(line["meter"] == "session_ms" for line in customer.api(f"billing/invoices/{i['id']}").json()["lines"]))
    line = next(line for line in customer.api(f"billing/invoices/{used['id']}").json()["lines"] if line["meter"] == "session_ms")
    assert line["quantity"] == 90_000
    entries = customer.api(f"billing/invoices/{used['id']}/lines/{line['id']}/entries").json()["data"]
    assert [(e["session_id"], e["turn_id"], e["quantity"]) for e in entries] == [("sess_e2e", "turn_1", 90_000)]
    page = customer.get(f"{customer.billing}/invoices/{used['id']}").text
    assert f"/lines/{line['id']}" in page
    assert "turn_1" in customer.get(f"{customer.billing}/invoices/{used['id']}/lines/{line['id']}").text
    paid = next(i for i in found if i["total_cents"] == 4900)
    pdf = customer.get(f"{customer.billing}/invoices/{paid['id']}.pdf")
    assert pdf.headers["Content-Type"] == "application/pdf" and pdf.content.startswith(b"%PDF") and pdf.content == customer.get(f"{customer.billing}/invoices/{paid['id']}.pdf").content
    rows = customer.get(f"{customer.billing}/invoices/{paid['id']}.csv").text.splitlines()
    assert rows[0].startswith("invoice,kind") and any(",4900,usd," in row for row in rows)
    assert all(i["number"] for i in found) and customer.get(f"{customer.billing}/invoices/ivc_000000000000000000000000").status_code == 404


# While the provider is there, and while it is not


def metered(customer, provider) -> dict[str, int]:
    """What the provider's meters have of a customer."""
    with bound_public():
        customer_id = subscription_get(customer.tenant).customer_id
    span = {"start_time": 0, "end_time": (provider.now() // 60 + 60) * 60}  # its clock may be years ahead of ours
    meters = {m.event_name.removeprefix("vivavoce_"): m.id for m in stripe.billing.Meter.list(limit=100).auto_paging_iter()}
    sums = {name: sum(int(r.aggregated_value) for r in stripe.billing.Meter.list_event_summaries(i, customer=customer_id, **span).data) for name, i in meters.items()}
    return {name: units for name, units in sums.items() if units}


def ledger(customer) -> dict[str, int]:
    with bound(customer.tenant):
        return rollups.totals()


def waited(seen, seconds: float) -> float:
    """How long it took until it was so."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if seen():
            return time.monotonic() - began
        time.sleep(0.25)
    raise AssertionError(f"not so after {seconds:.0f} s")


@pytest.fixture(scope="module")
def buyer(portal):
    made = Customer(portal)
    made.add_card()
    made.change(plan="pro", interval="month")
    made.until(lambda s: s["status"] == "active")
    return made


def test_usage_is_at_the_provider_within_a_minute(buyer, provider):
    with bound(buyer.tenant):
        for turn in range(3):
            usage_record(session_id="sess_minute", turn_id=f"turn_{turn}", meters={"session_ms": 61_000 + turn, "tokens_out": 40})
    assert waited(lambda: metered(buyer, provider) == ledger(buyer), 60) < 60


def test_an_hour_without_the_provider_costs_nothing(buyer, provider):
    """A renewal falls into it: work goes on, usage waits, and what the provider has to say arrives afterwards by itself."""
    ends = calendar.timegm(time.strptime(buyer.api("billing").json()["period_end"][:19], "%Y-%m-%dT%H:%M:%S"))
    provider.advance(ends - 1800)
    provider.door("outage", seconds=3600)
    provider.advance(ends + 1500)
    page = buyer.get(buyer.billing)
    assert page.status_code == 200 and "does not answer" in page.text and "Plan: Pro" in page.text
    refused = buyer.api("billing/plan", "POST", plan="pro", interval="year")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "billing_unavailable") and refused.headers["Retry-After"]
    with bound(buyer.tenant):
        check_open()
        usage_record(session_id="sess_hour", turn_id="turn_1", meters={"session_ms": 120_000})
        before = rollups.totals()
    assert buyer.api("usage").json()["session_ms"] == before["session_ms"]
    time.sleep(25)  # a round of reports and one of the sweep come to nothing
    state = buyer.api("billing").json()
    assert (state["status"], state["plan"], state["entitlements"]["concurrent_sessions"]) == ("active", "pro", 50)
    with bound(buyer.tenant):
        usage_record(session_id="sess_hour", turn_id="turn_2", meters={"session_ms": 7_000})
    provider.advance(ends + 1800 + 60)
    used = ledger(buyer)
    assert used["session_ms"] == before["session_ms"] + 7_000
    waited(lambda: metered(buyer, provider) == used, 90)
    waited(lambda: buyer.api("billing").json()["period_start"] >= state["period_end"], 60)

    def lines() -> list[int]:
        found = [buyer.api(f"billing/invoices/{i['id']}").json() for i in buyer.api("billing/invoices").json()["data"]]
        return [line["quantity"] for invoice in found for line in invoice["lines"] if line["meter"] == "session_ms"]

    waited(lambda: sum(lines()) == used["session_ms"], 90)  # whole, and once
    assert buyer.api("billing").json()["status"] == "active"


def test_a_provider_that_is_gone_altogether_is_waited_for(buyer, provider, portal):
    provider.stop()
    try:
        assert "does not answer" in buyer.get(buyer.billing).text
        with bound(buyer.tenant):
            usage_record(session_id="sess_gone", turn_id="turn_1", meters={"session_ms": 3_000})
    finally:
        provider.start(webhook_url=f"{portal}/stripe/webhook")
    waited(lambda: metered(buyer, provider) == ledger(buyer), 90)
