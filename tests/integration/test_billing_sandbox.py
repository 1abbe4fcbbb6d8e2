"""The billing sandbox through stripe-python's real client: what a product that knows only Stripe would see."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sandbox import RunningSandbox

DAY = 86_400


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    running = RunningSandbox(tmp_path_factory.mktemp("sandbox"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def api(sandbox):
    return sandbox.client


@pytest.fixture(scope="module")
def plans(api):
    """Free, Pro by month and year, Enterprise, in dollars; Pro in euros; minutes by meter."""
    product = api.products.create({"name": "Pro"})

    def price(cents, currency="usd", interval="month", **more):
        return api.prices.create({"product": product.id, "currency": currency, "unit_amount": cents, "recurring": {"interval": interval}} | more).id

    meter = api.billing.meters.create({"event_name": "minutes", "display_name": "Minutes", "default_aggregation": {"formula": "sum"}})
    minutes = api.prices.create({"product": product.id, "currency": "usd", "unit_amount_decimal": "1.5", "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id}})
    return SimpleNamespace(product=product, free=price(0), pro=price(2900), year=price(29_000, interval="year"), big=price(9900), euro=price(2700, "eur"),
                           minutes=minutes.id, meter=meter)  # fmt: skip


def person(api, card: str = "pm_card_visa", **values) -> str:
    """A customer with a default card ("" = none)."""
    customer = api.customers.create({"email": "ann@example.com"} | values)
    if card:
        method = api.payment_methods.attach(card, {"customer": customer.id})
        api.customers.update(customer.id, {"invoice_settings": {"default_payment_method": method.id}})
    return customer.id


def subscribe(api, customer: str, *prices: str, **values) -> stripe.Subscription:
    return api.subscriptions.create({"customer": customer, "items": [{"price": p} for p in prices]} | values)


def invoices(api, customer: str) -> list[stripe.Invoice]:
    """Oldest first."""
    return list(api.invoices.list({"customer": customer, "limit": 100}).auto_paging_iter())[::-1]


def post(url: str, **form) -> tuple[int, str, str]:
    """(status, Location, text) of a form post, redirects not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    try:
        with urllib.request.build_opener(Stay).open(url, urllib.parse.urlencode(form).encode(), timeout=10) as answer:
            return answer.status, "", answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Location", ""), error.read().decode()


# Shapes


def check_shape(cls: type, value: dict, path: str) -> None:
    """The keys of `value` are those that stripe-python's typed class declares: none made up, none missing that is not optional."""
    declared = cls.__annotations__
    unknown = set(value) - set(declared) - {"deleted"}
    assert not unknown, f"{path}: {unknown}"
    missing = {k for k, t in declared.items() if k not in value and not re.search("Optional|NoneType", str(t))} - {"OBJECT_NAME", "deleted"}
    assert not missing, f"{path} lacks {missing}"
    for key, inner in value.items():
        named = re.findall(r"\b[A-Z]\w+", str(declared.get(key, "")).rsplit(".", 1)[-1])
        kinds = [k for k in (getattr(cls, name, None) for name in named) if isinstance(k, type) and hasattr(k, "__annotations__")]
        for row in inner if isinstance(inner, list) else [inner]:
            if kinds and isinstance(row, dict) and row.get("object") is None:
                check_shape(kinds[0], row, f"{path}.{key}")


def test_answers_have_the_keys_of_stripes_types(sandbox, api, plans):
    rate = api.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": False})
    coupon = api.coupons.create({"percent_off": 10, "duration": "forever"})
    customer = person(api, address={"country": "DE"}, tax_id_data=[{"type": "eu_vat", "value": "DE123456789"}])
    sub = subscribe(api, customer, plans.pro, plans.minutes, default_tax_rates=[rate.id], discounts=[{"coupon": coupon.id}])
    invoice = api.invoices.retrieve(sub.latest_invoice, {"expand": ["payments", "confirmation_secret", "discounts"]})
    intent = api.payment_intents.retrieve(invoice.payments.data[0].payment.payment_intent)
    refund = api.refunds.create({"payment_intent": intent.id, "amount": 100})
    note = api.credit_notes.create({"invoice": invoice.id, "amount": 100, "credit_amount": 100})
    item = api.invoice_items.create({"customer": customer, "amount": 500, "currency": "usd"})
    found = {
        stripe.Customer: api.customers.retrieve(customer), stripe.Subscription: sub, stripe.SubscriptionItem: sub["items"].data[0], stripe.Invoice: invoice,
        stripe.InvoiceLineItem: invoice.lines.data[0], stripe.PaymentIntent: intent, stripe.Charge: api.charges.retrieve(intent.latest_charge), stripe.Refund: refund,
        stripe.CreditNote: note, stripe.InvoiceItem: item, stripe.Price: api.prices.retrieve(plans.minutes), stripe.Product: plans.product, stripe.Coupon: coupon,
        stripe.TaxRate: rate, stripe.Discount: invoice.discounts[0], stripe.billing.Meter: plans.meter, stripe.Event: api.events.list({"limit": 1}).data[0],
        stripe.SetupIntent: api.setup_intents.create({"customer": customer}), stripe.InvoicePayment: invoice.payments.data[0],
        stripe.PaymentMethod: api.payment_methods.list({"customer": customer}).data[0], stripe.Account: api.accounts.retrieve_current(),
        stripe.TaxId: api.customers.tax_ids.list(customer).data[0], stripe.WebhookEndpoint: api.webhook_endpoints.list().data[0],
        stripe.SubscriptionSchedule: api.subscription_schedules.create({"from_subscription": sub.id}),
        stripe.CustomerBalanceTransaction: api.customers.balance_transactions.list(customer).data[0],
        stripe.BalanceTransaction: api.balance_transactions.retrieve(api.charges.retrieve(intent.latest_charge).balance_transaction),
        stripe.billing.MeterEvent: api.billing.meter_events.create({"event_name": "minutes", "payload": {"stripe_customer_id": customer, "value": "1"}}),
    }  # fmt: skip
    for cls, value in found.items():
        assert type(value) is cls, (cls, value)
        check_shape(cls, value.to_dict(), cls.__name__)


# Subscriptions


def test_a_subscription_from_trial_to_its_end(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.pro, plans.minutes, trial_period_days=14)
    assert sub.status == "trialing" and invoices(api, customer)[0].total == 0
    sandbox.pass_days(14)
    sub = api.subscriptions.retrieve(sub.id, {"expand": ["latest_invoice"]})
    assert sub.status == "active" and sub.latest_invoice.status == "draft" and sub.latest_invoice.total == 2900
    sandbox.door("clock", advance=3600)
    assert api.invoices.retrieve(sub.latest_invoice.id).status == "paid"

    for value in ("100", "23"):
        api.billing.meter_events.create({"event_name": "minutes", "payload": {"stripe_customer_id": customer, "value": value}})
    item = sub["items"].data[0]
    api.subscriptions.update(sub.id, {"cancel_at_period_end": True})
    again = api.subscriptions.update(sub.id, {"cancel_at_period_end": False})
    assert again.cancel_at is None and again.status == "active"
    api.subscriptions.update(sub.id, {"cancel_at_period_end": True})
    sandbox.door("clock", to=item.current_period_end + 3601)
    ended = api.subscriptions.retrieve(sub.id)
    assert ended.status == "canceled" and ended.ended_at == item.current_period_end
    last = invoices(api, customer)[-1]
    assert (last.status, last.total, last.lines.data[0].quantity) == ("paid", 185, 123)  # 123 x 1.5 cents = 184.5, half up


def test_periods_of_the_31st(sandbox, api, plans):
    now = datetime.fromtimestamp(sandbox.now(), UTC)
    start = int(datetime(now.year + 1, 1, 31, 12, tzinfo=UTC).timestamp())
    sandbox.door("clock", to=start)
    customer = person(api)
    sub = subscribe(api, customer, plans.pro)
    ends = []
    for _ in range(3):
        end = api.subscriptions.retrieve(sub.id)["items"].data[0].current_period_end
        ends.append(datetime.fromtimestamp(end, UTC).day)
        sandbox.door("clock", to=end)
    assert ends == [29 if (now.year + 1) % 4 == 0 else 28, 31, 30]
    api.subscriptions.cancel(sub.id)


def test_renewals_of_a_year_happen_each_at_its_time(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.pro)
    sandbox.pass_days(366)
    made = invoices(api, customer)
    assert len(made) == 13 and all(i.status == "paid" or i is made[-1] for i in made)
    assert all(b.created - a.created >= 28 * DAY for a, b in zip(made, made[1:], strict=False))
    api.subscriptions.cancel(sub.id)


def lines_of(invoice) -> list[tuple]:
    return [(line.description, line.amount, line.quantity, line.period.start, line.period.end) for line in invoice.lines.data]


@settings(max_examples=int(os.environ.get("PREVIEW_EXAMPLES", "40")), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_preview_is_the_invoice_that_follows(sandbox, api, plans, data):
    """Random plans, quantities, moments, balances and ways to prorate: equal line by line."""
    flat = st.sampled_from([plans.free, plans.pro, plans.big, plans.year])
    customer = person(api)
    if credit := data.draw(st.integers(-5000, 5000), "balance"):
        api.customers.balance_transactions.create(customer, {"amount": credit, "currency": "usd"})
    sub = api.subscriptions.create({"customer": customer, "items": [{"price": data.draw(flat, "from"), "quantity": data.draw(st.integers(1, 9), "seats")}]})
    sandbox.door("clock", advance=data.draw(st.integers(1, 27 * DAY), "after"))
    behavior = data.draw(st.sampled_from(["always_invoice", "create_prorations", "none"]))
    items = [{"id": sub["items"].data[0].id, "price": data.draw(flat, "to"), "quantity": data.draw(st.integers(1, 9), "new seats")}]
    change = {"items": items, "proration_behavior": behavior, "proration_date": sandbox.now()}
    shown = api.invoices.create_preview({"customer": customer, "subscription": sub.id, "subscription_details": change})
    before = {i.id for i in invoices(api, customer)}
    after = api.subscriptions.update(sub.id, change)
    made = [i for i in invoices(api, customer) if i.id not in before]
    if not made:  # on the renewal's invoice, then
        sandbox.door("clock", to=after["items"].data[0].current_period_end + 1)
        made = [i for i in invoices(api, customer) if i.id not in before]
    if not made[0].starting_balance and made[0].status == "paid":
        assert shown.amount_due == made[0].amount_due
    assert (shown.total, shown.subtotal, shown.amount_due) == (made[0].total, made[0].subtotal, made[0].amount_due)
    assert [r[:3] for r in lines_of(shown)] == [r[:3] for r in lines_of(made[0])]
    assert sum(line.amount for line in made[0].lines.data) == made[0].subtotal
    api.subscriptions.cancel(sub.id)


def test_a_downgrade_waits_for_the_period_to_end(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.big, plans.minutes)
    schedule = api.subscription_schedules.create({"from_subscription": sub.id})
    first = schedule.phases[0]
    phases = [{"start_date": first.start_date, "end_date": first.end_date, "items": [{"price": plans.big}, {"price": plans.minutes}]},
              {"items": [{"price": plans.pro}, {"price": plans.minutes}], "duration": {"interval": "month"}}]  # fmt: skip
    api.subscription_schedules.update(schedule.id, {"phases": phases})
    api.billing.meter_events.create({"event_name": "minutes", "payload": {"stripe_customer_id": customer, "value": "10"}})
    sandbox.door("clock", to=first.end_date + 3601)
    after = api.subscriptions.retrieve(sub.id)
    assert [i.price.id for i in after["items"].data] == [plans.pro, plans.minutes]
    assert invoices(api, customer)[-1].total == 2900 + 15
    api.subscription_schedules.release(schedule.id)
    assert api.subscriptions.retrieve(sub.id).schedule is None
    api.subscriptions.cancel(sub.id)


def test_a_customer_has_one_currency_at_a_time(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.pro)
    with pytest.raises(stripe.InvalidRequestError, match="expected currency: `usd`"):
        api.subscriptions.update(sub.id, {"items": [{"id": sub["items"].data[0].id, "price": plans.euro}]})
    with pytest.raises(stripe.InvalidRequestError, match="cannot combine currencies"):
        subscribe(api, customer, plans.euro)
    api.subscriptions.cancel(sub.id)
    assert subscribe(api, customer, plans.euro).currency == "eur"


# Cards


def test_a_failing_card_is_retried_then_unpaid_then_paid(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.pro)
    bad = api.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": customer})
    api.customers.update(customer, {"invoice_settings": {"default_payment_method": bad.id}})
    sandbox.door("clock", to=sub["items"].data[0].current_period_end + 3601)
    invoice = invoices(api, customer)[-1]
    assert (api.subscriptions.retrieve(sub.id).status, invoice.status, invoice.attempt_count) == ("past_due", "open", 1)
    assert invoice.next_payment_attempt - sandbox.now() == pytest.approx(3 * DAY, abs=60)
    sandbox.pass_days(16)
    invoice = api.invoices.retrieve(invoice.id)
    assert (api.subscriptions.retrieve(sub.id).status, invoice.attempt_count, invoice.next_payment_attempt) == ("unpaid", 4, None)
    with pytest.raises(stripe.CardError) as refused:
        api.invoices.pay(invoice.id)
    assert (refused.value.code, refused.value.http_status) == ("card_declined", 402)
    good = api.payment_methods.attach("pm_card_mastercard", {"customer": customer})
    assert api.invoices.pay(invoice.id, {"payment_method": good.id}).status == "paid"
    assert api.subscriptions.retrieve(sub.id).status == "active"
    api.subscriptions.cancel(sub.id)


def test_declined_and_unauthenticated_first_payments(sandbox, api, plans):
    with pytest.raises(stripe.CardError) as refused:
        person(api, "pm_card_chargeDeclinedInsufficientFunds")
    assert (refused.value.code, refused.value.error.decline_code) == ("card_declined", "insufficient_funds")
    customer = person(api, "pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError):
        subscribe(api, customer, plans.pro, payment_behavior="error_if_incomplete")
    assert invoices(api, customer) == []  # nothing is left of it
    assert subscribe(api, customer, plans.pro).status == "incomplete"
    nobody = person(api, "")
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        subscribe(api, nobody, plans.pro)

    waiting = subscribe(api, person(api, "pm_card_authenticationRequired"), plans.pro, expand=["latest_invoice.confirmation_secret"])
    assert waiting.status == "incomplete"
    secret = waiting.latest_invoice.confirmation_secret.client_secret
    for outcome, status in (("fail", "incomplete"), ("pass", "active")):
        if outcome == "pass":  # the customer tries again on the card page
            assert "authenticate" in post(f"{sandbox.url}/_sandbox/confirm", client_secret=secret, token="pm_card_authenticationRequired")[1]
        post(f"{sandbox.url}/_sandbox/authenticate", client_secret=secret, outcome=outcome)
        assert api.subscriptions.retrieve(waiting.id).status == status

    expired = subscribe(api, person(api, "pm_card_authenticationRequired"), plans.pro)
    sandbox.pass_days(1)
    assert api.subscriptions.retrieve(expired.id).status == "incomplete_expired"
    assert api.invoices.retrieve(expired.latest_invoice).status == "void"


@pytest.mark.parametrize(("token", "authentication", "outcome"), [
    ("pm_card_visa", False, "succeeded"), ("pm_card_authenticationRequiredOnSetup", True, "succeeded"), ("pm_card_chargeDeclined", False, "declined"),
])  # fmt: skip
def test_the_page_that_stands_for_the_card_form(sandbox, api, token, authentication, outcome):
    customer = person(api, "")
    intent = api.setup_intents.create({"customer": customer, "usage": "off_session"})
    back = "http://localhost:28000/t/acme/billing?card=1"
    page = urllib.request.urlopen(f"{sandbox.url}/_sandbox/confirm?client_secret={intent.client_secret}", timeout=10).read().decode()
    assert "stand-in for Stripe" in page and 'type="radio"' in page and "number" not in re.sub("no card number is asked for", "", page)
    status, location, text = post(f"{sandbox.url}/_sandbox/confirm", client_secret=intent.client_secret, token=token, return_url=back)
    if outcome == "declined":
        assert status == 200 and "declined" in text and api.setup_intents.retrieve(intent.id).last_setup_error.code == "card_declined"
        return
    if authentication:
        assert "/_sandbox/authenticate" in location and api.setup_intents.retrieve(intent.id).status == "requires_action"
        status, location, _ = post(f"{sandbox.url}/_sandbox/authenticate", client_secret=intent.client_secret, return_url=back, outcome="pass")
    assert status == 303 and location.startswith(back + "&setup_intent=seti_") and "redirect_status=succeeded" in location
    done = api.setup_intents.retrieve(intent.id)
    assert done.status == "succeeded" and [m.id for m in api.payment_methods.list({"customer": customer}).data] == [done.payment_method]
    for bad in ({"client_secret": intent.id + "_secret_no"}, {"client_secret": intent.client_secret, "return_url": "javascript:alert(1)"}):
        assert post(f"{sandbox.url}/_sandbox/confirm", token=token, **bad)[0] in (400, 404)


def test_a_publishable_key_opens_only_its_intent(sandbox, api):
    intent, other = api.setup_intents.create({}), api.setup_intents.create({})
    browser = stripe.StripeClient("pk_test_anything", base_addresses={"api": sandbox.url}, max_network_retries=0).v1
    assert browser.setup_intents.retrieve(intent.id, {"client_secret": intent.client_secret}).id == intent.id
    for attempt in (lambda: browser.setup_intents.retrieve(other.id, {"client_secret": intent.client_secret}), lambda: browser.customers.list()):
        with pytest.raises(stripe.AuthenticationError):
            attempt()


# Money back, taxes, discounts


def test_refunds_and_credit_notes(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.big, expand=["latest_invoice.payments"])
    intent = sub.latest_invoice.payments.data[0].payment.payment_intent
    api.refunds.create({"payment_intent": intent, "amount": 900})
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        api.refunds.create({"payment_intent": intent, "amount": 9001})
    note = api.credit_notes.create({"invoice": sub.latest_invoice.id, "amount": 1000, "refund_amount": 600, "credit_amount": 400})
    assert (note.post_payment_amount, note.type) == (1000, "post_payment") and api.customers.retrieve(customer).balance == -400
    charge = api.charges.retrieve(api.payment_intents.retrieve(intent).latest_charge, {"expand": ["refunds"]})
    assert charge.amount_refunded == 1500 and len(charge.refunds.data) == 2
    api.refunds.create({"payment_intent": intent})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        api.refunds.create({"payment_intent": intent})
    assert refused.value.code == "charge_already_refunded"
    with pytest.raises(stripe.InvalidRequestError, match="exceeds what is left"):
        api.credit_notes.create({"invoice": sub.latest_invoice.id, "amount": 8901, "credit_amount": 8901})
    # the credit is used by the next invoice
    sandbox.door("clock", to=sub["items"].data[0].current_period_end + 3601)
    following = invoices(api, customer)[-1]
    assert (following.total, following.amount_due, following.starting_balance, following.ending_balance) == (9900, 9500, -400, 0)
    api.subscriptions.cancel(sub.id)


def test_taxes_and_coupons_are_summed_line_by_line(sandbox, api, plans):
    vat = api.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": False})
    coupon = api.coupons.create({"percent_off": 25, "duration": "once"})
    customer = person(api)
    sub = subscribe(api, customer, plans.pro, plans.minutes, default_tax_rates=[vat.id], discounts=[{"coupon": coupon.id}], expand=["latest_invoice"])
    first = sub.latest_invoice
    assert (first.subtotal, first.total_discount_amounts[0].amount, first.total_excluding_tax, first.total) == (2900, 725, 2175, 2588)  # 2175 + 413.25
    sandbox.door("clock", to=sub["items"].data[0].current_period_end + 3601)
    assert invoices(api, customer)[-1].total == 2900 + 551  # the coupon was for once
    api.customers.update(customer, {"tax_exempt": "reverse"})
    assert api.invoices.create_preview({"subscription": sub.id}).total == 2900
    api.subscriptions.cancel(sub.id)


# Usage


def test_usage_counts_once_and_late_usage_still_counts(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.minutes)
    end = sub["items"].data[0].current_period_end

    def use(value, **more):
        return api.billing.meter_events.create({"event_name": "minutes", "payload": {"stripe_customer_id": customer, "value": str(value)}} | more)

    use(100, identifier="turn-1" + customer)
    with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier"):
        use(100, identifier="turn-1" + customer)
    use(-20)
    for bad, more in (("nine", {}), (10**16, {}), (5, {"timestamp": sandbox.now() - 36 * DAY}), (5, {"timestamp": sandbox.now() + 600})):
        with pytest.raises(stripe.InvalidRequestError):
            use(bad, **more)
    sandbox.door("clock", to=end + 1800)
    use(5, timestamp=end - 60)  # the draft still takes it
    use(1000)  # of the next period
    shown = api.billing.meters.event_summaries.list(plans.meter.id, {"customer": customer, "start_time": (end - 31 * DAY) // 60 * 60, "end_time": end // 60 * 60})
    assert [s.aggregated_value for s in shown.data] == [85]
    sandbox.door("clock", advance=1801)
    closed = invoices(api, customer)[-1]
    assert (closed.status, closed.lines.data[0].quantity, closed.total) == ("paid", 85, 128)
    assert api.invoices.create_preview({"subscription": sub.id}).lines.data[0].quantity == 1000
    api.subscriptions.cancel(sub.id)


# The interface itself


def test_idempotency_keys(sandbox, api):
    first = api.customers.create({"name": "Ann"}, {"idempotency_key": "k1"})
    assert api.customers.create({"name": "Ann"}, {"idempotency_key": "k1"}).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        api.customers.create({"name": "Bob"}, {"idempotency_key": "k1"})
    with pytest.raises(stripe.InvalidRequestError):
        api.customers.create({"email": "nonsense"}, {"idempotency_key": "k2"})
    assert api.customers.create({"email": "ann@example.com"}, {"idempotency_key": "k2"}).id  # a refusal that changed nothing is not remembered


def test_errors_say_what_is_wrong(sandbox, api, plans):
    for attempt, status, code, param in (
        (lambda: api.customers.retrieve("cus_nobody"), 404, "resource_missing", "id"),
        (lambda: api.prices.create({"product": plans.product.id, "unit_amount": 5}), 400, "parameter_missing", "currency"),
        (lambda: api.prices.create({"product": plans.product.id, "currency": "usd", "unit_amount": -5}), 400, "parameter_invalid_integer", "unit_amount"),
        (lambda: api.customers.create({"nickname": "x"}), 400, "parameter_unknown", "nickname"),
        (lambda: api.invoices.list({"limit": 101}), 400, "parameter_invalid_integer", "limit"),
        (lambda: api.customers.list({"expand": ["data.colour"]}), 400, None, "expand"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            attempt()
        error = refused.value
        assert (error.http_status, error.code, error.param) == (status, code, param) and error.request_id.startswith("req_")
    stranger = stripe.StripeClient("sk_test_somebodyelse000000000000000", base_addresses={"api": sandbox.url}, max_network_retries=0).v1
    with pytest.raises(stripe.AuthenticationError):
        stranger.customers.list()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(sandbox.url + "/_sandbox/clock", timeout=5)


def test_lists_are_paged_to_the_end(sandbox, api):
    made = [api.customers.create({"email": "page@example.com", "metadata": {"n": str(n)}}).id for n in range(23)]
    assert [c.id for c in api.customers.list({"email": "page@example.com", "limit": 5}).auto_paging_iter()] == made[::-1]
    assert [c.id for c in api.customers.list({"limit": 2, "ending_before": made[3]}).data] == [made[5], made[4]]
    assert [c.id for c in api.customers.search({"query": "email:'page@example.com' AND metadata['n']:'7'"}).data] == [made[7]]


def test_the_clock_never_goes_back(sandbox):
    now = sandbox.now()
    with pytest.raises(urllib.error.HTTPError, match="400"):
        sandbox.door("clock", to=now - 1)
    time.sleep(1.1)
    assert sandbox.now() > now  # real time passes too


def test_an_outage_is_a_503_and_ends(sandbox, api):
    sandbox.door("outage", seconds=3600)
    with pytest.raises(stripe.APIError) as refused:
        api.customers.list()
    assert refused.value.http_status == 503
    sandbox.door("outage", seconds=0)
    assert api.customers.list({"limit": 1}).data


def test_webhooks_are_signed_retried_and_sent_again(sandbox, api):
    sandbox.listener.wait(lambda events: sandbox.door("webhooks").get("pending", 0) == 0, 60)
    sandbox.listener.refusals = 1
    product = api.products.create({"name": "Announced"})

    def heard(events):
        return [e for e in events if e.type == "product.created" and e.data.object.id == product.id]

    sandbox.listener.wait(heard)  # again after the first was refused
    [event] = heard(sandbox.listener.events)
    api.products.update(product.id, {"name": "Renamed"})
    sandbox.listener.wait(lambda events: [e for e in events if e.type == "product.updated" and e.data.previous_attributes.get("name") == "Announced"])
    assert sandbox.door("webhooks/redeliver", events=[event.id], copies=2, shuffle=True) == {"queued": 2}
    sandbox.listener.wait(lambda events: len(heard(events)) == 3)
    assert {e.id for e in heard(sandbox.listener.events)} == {event.id}


def test_a_killed_sandbox_loses_nothing(sandbox, api, plans):
    customer = person(api)
    sub = subscribe(api, customer, plans.minutes)
    for n in range(50):
        api.billing.meter_events.create({"event_name": "minutes", "identifier": f"kill-{customer}-{n}", "payload": {"stripe_customer_id": customer, "value": "2"}})
    now = sandbox.now()
    sandbox.end(signal.SIGKILL)
    sandbox.start()
    assert sandbox.now() >= now and api.subscriptions.retrieve(sub.id).status == "active"
    assert api.invoices.create_preview({"subscription": sub.id}).lines.data[0].quantity == 100
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        api.billing.meter_events.create({"event_name": "minutes", "identifier": f"kill-{customer}-0", "payload": {"stripe_customer_id": customer, "value": "2"}})
