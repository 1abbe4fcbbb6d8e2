"""Signed deliveries of events, in no promised order, at least once, again with growing pauses until the endpoint says 2xx.

The signature is Stripe's scheme v1 (docs.stripe.com/webhooks#verify-manually): HMAC-SHA256 of "<t>.<body>" with the endpoint's secret.
Its `t` and the pauses are real time; only `created` inside the event is the sandbox's own clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import random
import time
import urllib.error
import urllib.request

from tools.billing_sandbox.sandbox import Sandbox

PAUSES_S = (1, 2, 5, 10, 30, 60, 300, 900, 3600)  # then hourly, for three days
GIVE_UP = 80
TIMEOUT_S = 10
TOGETHER = 4
LOG = logging.getLogger("billing_sandbox.webhooks")


def sign(body: bytes, secret: str, at: int) -> str:
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Deliveries:
    def __init__(self, sandbox: Sandbox):
        self.sandbox, self.store = sandbox, sandbox.store
        self.wake = asyncio.Event()
        self._under_way: set[int] = set()
        self._tasks: set[asyncio.Task] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for row in self.store.due_deliveries(time.time(), TOGETHER * 4) if not self._held() else []:
                if row[0] not in self._under_way and len(self._under_way) < TOGETHER:
                    self._under_way.add(row[0])
                    task = asyncio.create_task(self._deliver(*row))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            self.wake.clear()
            try:
                await asyncio.wait_for(self.wake.wait(), 0.2)
            except TimeoutError:
                pass

    def _held(self) -> bool:
        return self.store.setting("webhooks_paused", False) or self.sandbox.now() < self.store.setting("outage_until", 0)

    async def _deliver(self, id: int, event_id: str, endpoint_id: str, attempts: int) -> None:
        try:
            event, endpoint = self.store.get(event_id), self.store.get(endpoint_id)
            if event is None or endpoint is None or endpoint["status"] != "enabled":
                self.store.settle_delivery(id, "dropped", attempts, "the endpoint is gone")
                return
            body = json.dumps(event).encode()
            headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Billing-Sandbox/1.0 (stand-in for Stripe)",
                       "Stripe-Signature": sign(body, endpoint["_secret"], int(time.time()))}  # fmt: skip
            ok, answer = await asyncio.to_thread(_post, endpoint["url"], body, headers)
            attempts += 1
            if ok:
                self.store.settle_delivery(id, "done", attempts, answer)
            elif attempts >= GIVE_UP:
                self.store.settle_delivery(id, "failed", attempts, answer)
            else:
                pause = PAUSES_S[min(attempts, len(PAUSES_S)) - 1] * random.uniform(0.8, 1.2)
                self.store.settle_delivery(id, "pending", attempts, answer, time.time() + pause)
                LOG.info("%s to %s: %s; again in %.0f s", event["type"], endpoint["url"], answer, pause)
        except Exception:
            LOG.exception("delivery %s", id)
            self.store.settle_delivery(id, "pending", attempts + 1, "internal error", time.time() + 60)
        finally:
            self._under_way.discard(id)
            self.wake.set()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[bool, str]:
    """(was it taken, how it was answered)."""
    try:
        with OPENER.open(urllib.request.Request(url, body, headers), timeout=TIMEOUT_S) as answer:
            return True, str(answer.status)
    except urllib.error.HTTPError as error:
        return False, f"{error.code} {error.read(300).decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return False, str(error)
