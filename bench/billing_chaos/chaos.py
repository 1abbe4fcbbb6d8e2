"""What goes wrong on purpose, and the tenant it happens to."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from bench.billing_chaos.clients import TURN_S, Client
from bench.house import House

PERIODS = 3  # how often a billing period ends under way
# Killed in the same moment
TOGETHER = (("redis", "gateway-1"), ("redis", "gateway-2"), ("postgres", "gateway-1"), ("postgres", "redis", "gateway-2"), ("postgres", "redis"))


def forget_connections() -> None:
    """Those of this process: they may be of a PostgreSQL that was killed."""
    from django.db import connections

    connections.close_all()
    connections["default"].close_pool()


class Chaos:
    def __init__(self, options: argparse.Namespace, house: House):
        self.options, self.house = options, house
        self.counts: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.timeline: list[tuple[float, str]] = []
        self.entries = 0
        self.began = time.monotonic()

    @property
    def enough(self) -> bool:
        """Events and kills as asked for; or the time is over."""
        done = self.entries >= self.options.events and sum(self.kills.values()) >= self.options.kills
        return done or time.monotonic() - self.began > self.options.seconds

    # A tenant that pays

    def subscribe(self) -> None:
        from apps.apikeys.services import api_key_issue
        from apps.billing import services, wallet
        from apps.common.actors import SYSTEM
        from apps.onboarding.services import workspace_create
        from apps.tenants.context import bound_public
        from apps.tenants.models import Tenant
        from tests.billing import Provider

        with bound_public():
            self.tenant = workspace_create(name="Chaos", slug="chaos", email="owner@example.com")
            Tenant.objects.filter(pk=self.tenant.pk).update(limits={"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrent_sessions": 500})
            self.secret = api_key_issue(tenant=self.tenant, name="chaos", actor=SYSTEM)[1]
            wallet.card_begin(tenant=self.tenant, actor=SYSTEM)
            self.customer = services.subscription_get(self.tenant).customer_id
            Provider.card(self.customer)
            services.plan_change(tenant=self.tenant, plan="pro", actor=SYSTEM)

    def door(self, path: str, **values) -> dict:
        request = urllib.request.Request(f"http://127.0.0.1:{self.house.sandbox_port}/_sandbox/{path}", json.dumps(values).encode() if values else None,
                                         {"Authorization": f"Bearer {self.house.key}"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    # What goes wrong on purpose

    def killing(self) -> None:
        """One part at a time, or several at once; they come back before the next go."""
        every = [(name,) for name in self.house.victims] + list(TOGETHER)
        if self.options.only:
            every = [tuple(names.strip() for names in group.split("+")) for group in self.options.only.split(",")]
        order: list[tuple[str, ...]] = []
        while not self.enough:
            time.sleep(random.uniform(0.6, 1.4) * self.options.kill_every)
            if not order:
                order = random.sample(every, len(every))
            names = order.pop()
            self.timeline.append((round(time.time(), 1), " + ".join(names)))
            self.house.kill(*names, forget_s=1.0 if self.options.power_cuts and len(names) > 1 else 0.0)
            self.kills[" + ".join(names)] += 1
            for name in self.house.supervise():
                self.counts[f"ended by itself: {name}"] += 1
            print(f"{time.monotonic() - self.began:6.0f} s  {sum(self.kills.values()):3} kills  {self.entries:6} entries  {' + '.join(names)}", flush=True)

    async def mischief(self) -> None:
        """Turns written again and out of order; reports and webhooks again."""
        kept: dict[tuple[str, bytes], None] = {}
        while not self.enough:
            await asyncio.sleep(0.5)
            try:
                await asyncio.to_thread(self._again, kept)
            except Exception as error:  # whatever is down just now: the next round
                self.counts[f"mischief refused: {type(error).__name__}"] += 1
                await asyncio.to_thread(forget_connections)

    def _again(self, kept: dict[tuple[str, bytes], None]) -> None:
        from apps.billing.models import UsageReport
        from apps.tenants.context import bound, bound_public
        from apps.usage import journal
        from apps.usage.models import UsageEntry
        from apps.usage.services import usage_record

        with contextlib.closing(journal.connection()) as redis:
            for key in redis.scan_iter("{*}:journal", count=500):
                kept |= {(key.decode()[1:].split("}")[0], entry): None for entry in redis.lrange(key, 0, -1)}
        old = random.sample(list(kept), min(5, len(kept)))
        with bound(self.tenant):
            for session_id, entry in old:  # as two processes do that find what a killed gateway owed: again, and in another order
                _, kind, fields = json.loads(entry)
                journal.entry_write(session_id=session_id, kind=kind, fields=fields)
                self.counts[f"journal entries written again: {kind}"] += 1
        with bound(self.tenant):
            self.entries = UsageEntry.objects.count()
            some = list(UsageEntry.objects.order_by("?")[:5]) if random.random() < 0.3 else []
            for entry in some:
                usage_record(session_id=entry.session_id, turn_id=entry.turn_id, meters={entry.meter: entry.quantity + random.choice((0, 7))})
                self.counts["entries written again"] += 1
        if random.random() < 0.05:
            with bound_public():
                for report in UsageReport.objects.filter(tenant=self.tenant):
                    UsageReport.objects.filter(pk=report.pk).update(through=max(0, report.through - 100))
                    self.counts["meter reports set back"] += 1
            self.counts["webhooks sent again"] += self.door("webhooks/redeliver", since=0, copies=2, shuffle=True)["queued"]
            self.door("outage", seconds=random.randint(3, 12))
            self.counts["outages of the provider"] += 1

    async def renewals(self) -> None:
        """Billing periods end while all that happens."""
        for number in range(1, PERIODS + 1):
            while self.entries < self.options.events * number / (PERIODS + 1) and not self.enough:
                await asyncio.sleep(0.3)
            await asyncio.to_thread(self.renew)

    def renew(self) -> None:
        """Once the provider is there and plays no outage."""
        import stripe

        for _ in range(60):
            with contextlib.suppress(OSError, stripe.StripeError):
                sub = stripe.Subscription.list(customer=self.customer).data[0]
                self.door("clock", to=sub["items"].data[0].current_period_end + 60)
                self.counts["periods ended"] += 1
                return
            time.sleep(0.5)
        self.counts["periods that could not be ended"] += 1

    def run(self) -> list[Client]:
        """Clients on a thread of their own: what this thread starts ends when this thread ends, so it must be the main one that starts parts again."""
        clients = [Client(self.house.gateways, self.secret, lambda: self.enough, self.counts) for _ in range(self.options.sessions)]

        async def live() -> None:
            await asyncio.gather(*(c.talk() for c in clients), self.mischief(), self.renewals())

        with ThreadPoolExecutor(1) as thread:
            talking = thread.submit(asyncio.run, live())
            self.killing()
            talking.result(TURN_S * 4)
        return clients

    # The reckoning

    def settle(self) -> None:
        """Nothing is killed any more: let everything that is under way arrive."""
        from apps.tenants.context import bound
        from apps.usage import journal, rollups

        forget_connections()
        self.house.supervise()
        self.house.end(*(name for name in list(self.house.running) if name.startswith("gateway")))
        with contextlib.closing(journal.connection()) as redis:
            self.counts["written by replay at the end"] = journal.replay(redis, older_than_s=0) + journal.close_lost(redis, older_than_s=0)
            assert redis.hlen(journal.REFUSED) == 0, redis.hgetall(journal.REFUSED)
        with bound(self.tenant):
            rollups.roll()
        self.renew()
        self._until("webhooks are delivered", lambda: self.door("webhooks").get("pending", 0) == 0)
        self._until("usage is invoiced", self._invoiced)
        self._until("usage is reported", self._reported)

    def _until(self, what: str, check, seconds: float = 240) -> None:
        until = time.monotonic() + seconds
        while not check():
            if time.monotonic() > until:
                print(f"after {seconds:.0f} s it is not so that {what}", flush=True)
                return
            time.sleep(1)

    def _invoiced(self) -> bool:
        from apps.billing.models import InvoiceLine
        from apps.tenants.context import bound, bound_public
        from apps.usage import rollups
        from apps.usage.models import OpenPeriod

        with bound(self.tenant):
            open_now = rollups.totals(OpenPeriod.objects.get(pk=1).number)
        with bound_public():
            return not any(open_now.values()) and not InvoiceLine.objects.filter(tenant=self.tenant, kind="usage", invoice=None).exists()

    def _reported(self) -> bool:
        from apps.billing import tasks
        from apps.billing.models import UsageReport
        from apps.tenants.context import bound, bound_public
        from apps.usage.models import UsageEntry

        with bound(self.tenant):
            last = UsageEntry.objects.order_by("-id").values_list("id", flat=True).first()
        with bound_public():
            tasks.report()  # as beat has it done every 20 s
            return UsageReport.objects.filter(tenant=self.tenant, through__gte=last).exists()
