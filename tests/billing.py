"""The payment provider of the billing tests: the sandbox, or Stripe's test mode when STRIPE_TEST_SECRET_KEY is set. The same tests run on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import stripe
from django.conf import settings
from django.test import Client
from djstripe.models import WebhookEventTrigger

from apps.billing import events
from apps.billing import stripe as provider
from apps.common.launch.servers import die_with_parent
from apps.tenants.context import bound_public

ROOT = Path(__file__).resolve().parent.parent
REAL = bool(os.environ.get("STRIPE_TEST_SECRET_KEY"))
NAME = "Stripe's test mode" if REAL else "the billing sandbox, a local stand-in for Stripe"


class Provider:
    """`card`, `advance`, `deliver`: what happens at the provider's side and outside of our pages."""

    def __init__(self, folder: Path):
        self.folder, self.process, self.seen = folder, None, set()
        self.client = Client()

    def start(self, webhook_url: str = "") -> None:
        """`webhook_url`: where the sandbox sends its events by itself; without, `deliver` carries them."""
        if REAL:
            return
        hook = ["--webhook-url", webhook_url, "--webhook-secret", settings.STRIPE_WEBHOOK_SECRET] if webhook_url else []
        command = [sys.executable, "-m", "tools.billing_sandbox", "--port", str(settings.BILLING_SANDBOX_PORT), "--data", str(self.folder / "billing"),
                   "--secret-key", settings.STRIPE_SECRET_KEY, *hook]  # fmt: skip
        with open(self.folder / "billing_sandbox.log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent(),
                                            start_new_session=True)  # fmt: skip
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{settings.STRIPE_API_HOST}/_sandbox/health", timeout=2)
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the billing sandbox did not start: " + (self.folder / "billing_sandbox.log").read_text()[-2000:])

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)

    def door(self, path: str, **values) -> dict:
        request = urllib.request.Request(f"{settings.STRIPE_API_HOST}/_sandbox/{path}", json.dumps(values).encode() if values else None,
                                         {"Authorization": f"Bearer {settings.STRIPE_SECRET_KEY}"}, method="POST" if values else "GET")  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def now(self) -> int:
        return stripe.test_helpers.TestClock.retrieve(settings.STRIPE_TEST_CLOCK).frozen_time if REAL else self.door("clock")["now"]

    def advance(self, to: int) -> None:
        """Move the provider's clock; what falls due on the way happens."""
        if not REAL:
            self.door("clock", to=to)
            return
        stripe.test_helpers.TestClock.advance(settings.STRIPE_TEST_CLOCK, frozen_time=to)
        while stripe.test_helpers.TestClock.retrieve(settings.STRIPE_TEST_CLOCK).status != "ready":
            time.sleep(1)

    @staticmethod
    def card(customer_id: str, token: str = "pm_card_visa") -> str:
        """A saved card that becomes the default, as the provider's form would do it."""
        method = stripe.PaymentMethod.attach(token, customer=customer_id)
        stripe.Customer.modify(customer_id, invoice_settings={"default_payment_method": method.id})
        return method.id

    @staticmethod
    def confirm(secret: str) -> None:
        """The card's holder tells the bank that it is them."""
        if REAL:  # in Stripe's test mode a card that needs no confirmation takes its place; its page cannot be driven from here
            stripe.PaymentIntent.confirm(secret.partition("_secret_")[0], payment_method="pm_card_visa")
            return
        form = urllib.parse.urlencode({"client_secret": secret, "return_url": "", "token": "pm_card_authenticationRequired"}).encode()
        with urllib.request.urlopen(f"{settings.STRIPE_API_HOST}/_sandbox/confirm", form, timeout=30):
            pass
        form = urllib.parse.urlencode({"client_secret": secret, "return_url": "", "outcome": "pass"}).encode()
        with urllib.request.urlopen(f"{settings.STRIPE_API_HOST}/_sandbox/authenticate", form, timeout=30) as answer:
            assert "succeeded" in answer.read().decode()

    @staticmethod
    def end(customer_id: str) -> None:
        """So that moving the clock renews nothing of an earlier test's."""
        for found in stripe.Subscription.list(customer=customer_id).auto_paging_iter():
            stripe.Subscription.cancel(found.id)

    def events(self) -> list[dict]:
        """Those not asked for before, oldest first."""
        found = [json.loads(str(e)) for e in stripe.Event.list(limit=100).auto_paging_iter() if e.id not in self.seen]
        self.seen |= {e["id"] for e in found}
        return found[::-1]

    def post(self, event: dict, *, secret: str = "", age_s: int = 0):
        """An event as the provider would send it."""
        body, at = json.dumps(event), int(time.time()) - age_s
        signature = stripe.WebhookSignature._compute_signature(f"{at}.{body}", secret or settings.STRIPE_WEBHOOK_SECRET)
        return self.client.post("/stripe/webhook", body, content_type="application/json", headers={"Stripe-Signature": f"t={at},v1={signature}"})

    def deliver(self, customer_id: str) -> int:
        """Post what happened to a customer meanwhile, and work it off as the `default` worker does."""
        count = 0
        with bound_public():
            while found := [e for e in self.events() if customer_id in (e["data"]["object"].get("id"), e["data"]["object"].get("customer"))]:
                for event in found:
                    assert self.post(event).status_code == 200, event["type"]
                self.work()
                count += len(found)
        return count

    @staticmethod
    def work() -> None:
        """Until every stored event is worked off; a `default` worker that runs beside us may do a part of them."""
        until = time.monotonic() + 60
        while waiting := list(WebhookEventTrigger.objects.filter(valid=True, processed=False).order_by("id").values_list("pk", flat=True)):
            done = [provider.webhook_work(trigger_id, events.handle) for trigger_id in waiting]
            if not any(done):
                assert time.monotonic() < until, f"events {waiting} are not worked off"
                time.sleep(0.05)
