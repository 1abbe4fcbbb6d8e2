"""Bills under kill -9: `python -m bench.billing_chaos [--events 10000]`. Prints what was heard, written, summed, reported and invoiced; ends 1 when they differ.

Clients talk to real gateways while one part of the product after the other is killed with -9 and started again: gateways, engine and
`default` workers, beat, portal, Redis, PostgreSQL, the billing sandbox. Meanwhile turns are written again, out of order, from copies
of the journal; meter events are reported again; webhooks are sent twice and shuffled; billing periods end under way.
The report goes to var/reports/billing_chaos.json.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from websockets.exceptions import WebSocketException

from bench.house import ROOT, House

HEARD = ("tokens_in", "tokens_out", "audio_out_ms")
TURN_S = 30
LINE = (OSError, TimeoutError, WebSocketException)
PERIODS = 3  # how often a billing period ends under way


def forget_connections() -> None:
    """Those of this process: they may be of a PostgreSQL that was killed."""
    from django.db import connections

    connections.close_all()
    connections["default"].close_pool()


class Client:
    """One place at which one session after the other is held; a line that breaks is taken up again at any gateway, as protocol.md says.

    What it heard: response -> audio bytes, usage of its `response.done` (None: it never learned of its end)."""

    def __init__(self, chaos: Chaos):
        self.chaos, self.count = chaos, chaos.counts
        self.heard: dict[str, dict] = {}
        self.session = self.last = ""
        self.open = ""  # the response under way

    async def talk(self) -> None:
        while not self.chaos.enough:
            self.session = self.last = self.open = ""
            turns = random.randint(4, 20)
            while turns > 0:
                try:
                    turns = await self.connected(turns)
                except LINE as error:
                    self.count[f"lines broken or refused: {type(error).__name__}"] += 1
                    if getattr(getattr(error, "response", None), "status_code", 0) in (404, 410):
                        self.count["sessions that could not be taken up again"] += 1
                        break
                    await asyncio.sleep(random.uniform(0.2, 0.8))
                if self.chaos.enough and not self.open:
                    break

    async def connected(self, turns: int) -> int:
        """Hold one line: so many turns, or until it breaks (raises)."""
        from websockets.asyncio.client import connect

        query = f"?session_id={self.session}&last_event_id={self.last}" if self.session else ""
        headers = {"Authorization": f"Bearer {self.chaos.secret}"}
        url = random.choice(self.chaos.house.gateways) + query
        async with connect(url, additional_headers=headers, max_size=2**24, compression=None, open_timeout=8, close_timeout=2) as socket:
            created = await self.next(socket)
            if self.session:
                self.count["lines taken up again"] += 1
                self.count["with a gap"] += bool(created["resumption"]["gap"])
            self.session = created["session"]["id"]
            while turns > 0:
                if not self.open:
                    if self.chaos.enough:
                        break
                    await self.ask(socket)
                turns -= 1
                if not await self.answered(socket):
                    break
            else:
                turns = 0
        self.count["sessions ended in order"] += 1
        return 0

    async def ask(self, socket) -> None:
        numbers = ("one", "two", "three", "four", "five", "six")
        text = f"what is {random.choice(numbers)} plus {random.choice(numbers)}"
        await socket.send(json.dumps({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}}))
        await socket.send(json.dumps({"type": "response.create"}))

    async def next(self, socket) -> dict:
        event = json.loads(await asyncio.wait_for(socket.recv(), TURN_S))
        self.last = event["event_id"]
        return event

    async def answered(self, socket) -> bool:
        """The end of the response; False when the session is better left."""
        while True:
            event = await self.next(socket)
            kind = event["type"]
            if kind == "response.created":
                self.open = event["response"]["id"]
                self.heard[self.open] = {"bytes": 0, "usage": None, "status": "", "session": self.session, "at": round(time.time(), 1)}
            elif kind == "response.output_audio.delta":
                self.heard[event["response_id"]]["bytes"] += len(base64.b64decode(event["delta"]))
            elif kind == "response.done":
                response, self.open = event["response"], ""
                self.heard[response["id"]] |= {"usage": response["usage"], "status": response["status"]}
                self.count[f"responses {response['status']}"] += 1
                return response["status"] == "completed"
            elif kind == "error":
                self.count[f"errors {event['error'].get('code')}"] += 1
                return False


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
        from apps.billing import services
        from apps.common.actors import SYSTEM
        from apps.onboarding.services import workspace_create
        from apps.tenants.context import bound_public
        from apps.tenants.models import Tenant
        from tests.billing import Provider

        with bound_public():
            self.tenant = workspace_create(name="Chaos", slug="chaos", email="owner@example.com")
            Tenant.objects.filter(pk=self.tenant.pk).update(limits={"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrent_sessions": 500})
            self.secret = api_key_issue(tenant=self.tenant, name="chaos", actor=SYSTEM)[1]
            services.card_begin(tenant=self.tenant, actor=SYSTEM)
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
        """One part at a time; each comes back before the next goes."""
        order: list[str] = []
        while not self.enough:
            time.sleep(random.uniform(0.6, 1.4) * self.options.kill_every)
            if not order:
                order = random.sample(self.house.victims, len(self.house.victims))
            name = order.pop()
            self.timeline.append((round(time.time(), 1), name))
            self.house.kill(name)
            self.kills[name] += 1

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
            for _ in range(40):  # until the sandbox is there
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self.renew)
                    break
                await asyncio.sleep(0.5)

    def renew(self) -> None:
        import stripe

        sub = stripe.Subscription.list(customer=self.customer).data[0]
        self.door("clock", to=sub["items"].data[0].current_period_end + 60)
        self.counts["periods ended"] += 1

    def run(self) -> list[Client]:
        """Clients on a thread of their own: what this thread starts ends when this thread ends, so it must be the main one that starts parts again."""
        clients = [Client(self) for _ in range(self.options.sessions)]

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

    def reckon(self, clients: list[Client]) -> dict:
        from django.db.models import Sum

        from apps.billing.models import InvoiceLine
        from apps.conversations.models import TurnTrace, VoiceSession
        from apps.tenants.context import bound, bound_public
        from apps.usage import rollups
        from apps.usage.models import UsageEntry, UsageRollup

        def by_meter(rows, name: str = "quantity") -> dict[str, int]:
            return {row["meter"]: int(row["sum"]) for row in rows.values("meter").annotate(sum=Sum(name)).order_by("meter")}

        heard = {id: h for c in clients for id, h in c.heard.items()}
        with bound(self.tenant):
            response_of = dict(TurnTrace.objects.values_list("turn_id", "response_id"))
            written: dict[str, dict[str, int]] = {}
            for turn_id, meter, quantity in UsageEntry.objects.exclude(turn_id="").values_list("turn_id", "meter", "quantity"):
                written.setdefault(response_of[turn_id], {})[meter] = quantity
            result = {
                "ledger": by_meter(UsageEntry.objects), "entries": UsageEntry.objects.count(),
                "rollups": {g: by_meter(UsageRollup.objects.filter(grain=g)) for g in ("minute", "hour", "day")}, "differences": len(rollups.differences()),
                "sessions": VoiceSession.objects.count(), "session_ms of sessions": VoiceSession.objects.aggregate(sum=Sum("session_ms"))["sum"] or 0,
                "sessions whose time differs": self._times(),
                "sessions left open": VoiceSession.objects.filter(state="live").count(),
            }  # fmt: skip
        with bound_public():
            lines = InvoiceLine.objects.filter(tenant=self.tenant, kind="usage")
            result["invoice lines"] = by_meter(lines.filter(invoice__finalized_at__isnull=False))
            result["periods invoiced"] = lines.values("period").distinct().count()
        result["provider's meters"] = self._provider(result["ledger"])
        return result | self._compare(heard, written)

    @staticmethod
    def _times() -> list[tuple]:
        """Sessions whose row and ledger say different times."""
        from django.db.models import Sum

        from apps.conversations.models import VoiceSession
        from apps.usage.models import UsageEntry

        said = {r["session_id"]: r["sum"] for r in UsageEntry.objects.filter(meter="session_ms").values("session_id").annotate(sum=Sum("quantity"))}
        rows = VoiceSession.objects.values_list("id", "session_ms", "state", "close_reason")
        return [(id, ms, said.get(id, 0), state, reason) for id, ms, state, reason in rows if (ms or 0) != said.get(id, 0)][:20]

    def _provider(self, meters: dict[str, int]) -> dict[str, int]:
        """What the provider's meters counted, of all time."""
        import stripe

        names = {m.event_name.removeprefix("vivavoce_"): m.id for m in stripe.billing.Meter.list(limit=100).auto_paging_iter()}
        span = {"start_time": 0, "end_time": (self.door("clock")["now"] // 60 + 10) * 60}
        return {m: sum(int(r.aggregated_value) for r in stripe.billing.Meter.list_event_summaries(names[m], customer=self.customer, **span).data) for m in meters if m in names}

    @staticmethod
    def _compare(heard: dict[str, dict], written: dict[str, dict[str, int]]) -> dict:
        """Turn by turn. A response whose end its client never learned (the session could not be taken up again) can be compared by its audio only."""
        sums, lost, wrong = Counter(), [], []
        told, ledger_told = Counter(), Counter()
        for id, h in heard.items():
            entry, audio_ms = written.get(id, {}), h["bytes"] // 48
            if h["usage"] is None:
                sums["cut before the end was told"] += 1
                sums["cut, and in the ledger"] += bool(entry)
                if entry and entry.get("audio_out_ms", 0) != audio_ms:
                    wrong.append((id, h["session"], h["at"], "cut", entry, audio_ms))
                continue
            usage = {"tokens_in": h["usage"]["input_token_details"]["text_tokens"], "tokens_out": h["usage"]["output_token_details"]["text_tokens"], "audio_out_ms": audio_ms}
            told.update(usage)
            ledger_told.update({m: entry.get(m, 0) for m in HEARD})
            if not entry and any(usage.values()):
                lost.append((id, h["session"], h["at"], h["status"], usage))
            elif {m: q for m, q in usage.items() if q} != {m: entry[m] for m in HEARD if entry.get(m)}:
                wrong.append((id, h["session"], h["at"], h["status"], entry, usage))
        stray = [id for id in written if id not in heard]
        return {"heard": dict(told), "ledger of what was told": dict(ledger_told), "turns told": sum(h["usage"] is not None for h in heard.values()),
                **sums, "lost": lost[:20], "different": wrong[:20], "in the ledger and heard by nobody": stray[:20]}  # fmt: skip


def verdict(r: dict) -> list[str]:
    """What does not add up; empty is right."""
    ledger, bad = r["ledger"], []
    checks = {
        "heard = ledger": r["heard"] == r["ledger of what was told"] and not r["lost"] and not r["different"] and not r["in the ledger and heard by nobody"],
        "ledger = roll-ups": all(sums == ledger for sums in r["rollups"].values()) and r["differences"] == 0,
        "ledger = invoice lines": r["invoice lines"] == ledger,
        "ledger = provider's meters": r["provider's meters"] == ledger,
        "session_ms = sessions": ledger.get("session_ms", 0) == r["session_ms of sessions"] and r["sessions left open"] == 0,
    }  # fmt: skip
    for name, holds in checks.items():
        print(f"{'yes' if holds else 'NO '}  {name}", flush=True)
        if not holds:
            bad.append(name)
    return bad


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.billing_chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000, help="ledger entries to write")
    parser.add_argument("--seconds", type=float, default=1800, help="stop earlier after so long; the report says so")
    parser.add_argument("--sessions", type=int, default=16, help="clients at once")
    parser.add_argument("--kills", type=int, default=36, help="at least so many; twelve are one round through all parts")
    parser.add_argument("--kill-every", type=float, default=4, help="seconds between two kills, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=ROOT / "var" / "reports" / "billing_chaos.json")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse()
    random.seed(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="vivavoce-chaos-"))
    folder.chmod(0o755)
    house = House(folder)
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    import django

    django.setup()
    import config.celery  # noqa: F401

    try:
        house.start_servers()
        from apps.tenants.bootstrap import prepare

        prepare()
        house.start()
        chaos = Chaos(options, house)
        chaos.subscribe()
        clients = chaos.run()
        took = time.monotonic() - chaos.began
        chaos.settle()
        result = chaos.reckon(clients)
        report = {"seconds": round(took, 1), "kills": dict(chaos.kills), "timeline": chaos.timeline, "planted and counted": dict(chaos.counts), **result}
        bad = verdict(result)
        report |= {"does not add up": bad, "events asked for": options.events}
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report, indent=1, default=str))
        print(json.dumps({k: v for k, v in report.items() if k not in ("rollups", "timeline")}, indent=1, default=str))
        if bad:
            kept = options.report.with_suffix(".logs")
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            for log in folder.glob("*.log"):
                shutil.copy(log, kept)
        return 1 if bad or result["entries"] < options.events else 0
    finally:
        house.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
