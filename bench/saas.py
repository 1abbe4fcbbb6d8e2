"""`python -m bench.saas [--tenants 200] [--only tenants|endings|limits] [--quick]`: what the platform around the sessions must hold.

tenants: making many, and connecting among many as fast as among five · endings: revoke and suspend close live sockets · limits: fifty
racing clients never get more than the limit. Prints a table, writes var/reports/saas.json, exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bench.surroundings import percentile, report, stack

PAUSE_S = 0.05  # between connections: how long one takes is asked, not how many fit into a second (then admission refuses)
FIRST = 5
RACERS = 50


@dataclass
class Bench:
    stack: object
    tenants: int
    quick: bool
    rows: list[dict] = field(default_factory=list)

    def row(self, what: str, value: float, bar: float, unit: str, **more: float) -> None:
        self.rows.append({"what": what, "value": round(value, 3), "bar": bar, "unit": unit, "met": value <= bar, **more})
        print(f"{what:58} {value:10.3f} {unit:5} bar {bar:<8} {'met' if value <= bar else 'MISSED'}  {more or ''}", flush=True)

    def prepare(self) -> None:
        from apps.apikeys.services import operator_key_issue
        from apps.common.actors import SYSTEM

        boss = operator_key_issue(name="bench", actor=SYSTEM)[1]
        self.admin = httpx.Client(base_url=f"{self.stack.start_portal()}/api/v1/admin/", headers={"Authorization": f"Bearer {boss}"}, timeout=60)

    def make(self) -> tuple[str, str, float]:
        """A workspace by the operators' API and a key of it: (id, secret, seconds it took)."""
        from apps.apikeys.services import SCOPES, api_key_issue
        from apps.common.actors import SYSTEM
        from apps.tenants.models import Tenant

        began = time.monotonic()
        answer = self.admin.post("tenants", json={"name": "Bench", "slug": f"bench-{time.time_ns() % 10**12}"})
        took = time.monotonic() - began
        answer.raise_for_status()
        tenant = Tenant.objects.get(pk=answer.json()["id"])
        return tenant.id, api_key_issue(tenant=tenant, name="bench", scopes=list(SCOPES), actor=SYSTEM)[1], took

    def dial(self, secret: str):
        return connect(self.stack.realtime, additional_headers={"Authorization": f"Bearer {secret}"}, compression=None, open_timeout=30)

    # tenants

    async def connecting(self, secrets: list[str], count: int) -> list[float]:
        """ms from the first packet to session.created, one after the other over the workspaces in random order."""
        times, rng = [], random.Random(3)
        for _ in range(count):
            began = time.perf_counter()
            async with self.dial(rng.choice(secrets)) as socket:
                await socket.recv()
                times.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_S)
        return times

    async def among_many(self) -> None:
        secrets, took = [], []
        for number in range(self.tenants):
            if number == FIRST:
                few, few_all = await self.calmest(secrets)
            made = await asyncio.to_thread(self.in_public, self.make)
            secrets.append(made[1])
            took.append(made[2])
        many, many_all = await self.calmest(secrets)
        again, _ = await self.calmest(secrets[:FIRST])
        self.row(f"make a workspace, p95 of {self.tenants}", percentile(took, 95), 2.0, "s", p50=round(statistics.median(took), 3), max=round(max(took), 3))
        self.row(f"connect among {self.tenants} / among {FIRST} workspaces, p50", many / few, 1.1, "x",
                 few_ms=round(few, 2), many_ms=round(many, 2), first_five_among_all_ms=round(again, 2),
                 few_p95_ms=round(percentile(few_all, 95), 2), many_p95_ms=round(percentile(many_all, 95), 2))  # fmt: skip

    async def calmest(self, secrets: list[str]) -> tuple[float, list[float]]:
        """(the smallest median of some rounds, all times), in ms, each workspace connected to once before: what else the machine did counts little."""
        for secret in secrets:
            await self.connecting([secret], 1)
        rounds = [await self.connecting(secrets, 20 if self.quick else 60) for _ in range(2 if self.quick else 5)]
        return min(map(statistics.median, rounds)), [t for r in rounds for t in r]

    @staticmethod
    def in_public(function, *args):
        from apps.tenants.context import bound_public

        with bound_public():
            return function(*args)

    # endings

    async def closing(self, socket) -> float:
        """The moment its close arrives."""
        try:
            while True:
                await asyncio.wait_for(socket.recv(), 30)
        except ConnectionClosed:
            return time.monotonic()

    async def refused(self, secret: str) -> bool:
        """Do both doors refuse the key at this moment?"""
        async with httpx.AsyncClient(base_url=self.stack.base_url) as http:
            rest = (await http.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})).status_code in (401, 403)
        try:
            async with self.dial(secret):
                return False
        except InvalidStatus as error:
            return rest and error.response.status_code in (401, 403)

    async def endings(self) -> None:
        for what, count, each in (("revoke", 10 if self.quick else 40, 1), ("suspend", 3 if self.quick else 10, 4)):
            times, late = [], 0
            for _ in range(count):
                tenant_id, secret, _ = await asyncio.to_thread(self.in_public, self.make)
                sockets = [await self.dial(secret).__aenter__() for _ in range(each)]
                waiting = [asyncio.create_task(self.closing(s)) for s in sockets]
                began = time.monotonic()
                await asyncio.to_thread(self.revoke if what == "revoke" else self.suspend, tenant_id, secret)
                late += not await self.refused(secret)
                times += [at - began for at in await asyncio.gather(*waiting)]
            self.row(f"{what}: live socket closed, p95 of {len(times)}", percentile(times, 95), 5.0, "s", p50=round(statistics.median(times), 3), max=round(max(times), 3))
            self.row(f"{what}: connections let in after the answer", late, 0, "")

    def revoke(self, tenant_id: str, secret: str) -> None:
        with httpx.Client(base_url=str(self.admin.base_url).replace("/admin/", "/"), headers={"Authorization": f"Bearer {secret}"}) as client:
            key = client.get("keys").json()["data"][0]["id"]
            client.delete(f"keys/{key}").raise_for_status()

    def suspend(self, tenant_id: str, secret: str) -> None:
        self.admin.post(f"tenants/{tenant_id}/suspend", json={"reason": "bench"}).raise_for_status()

    # limits

    async def limits(self) -> None:
        over = {"concurrent_sessions": 0, "requests_per_minute": 0}
        rounds = 2 if self.quick else 6
        for _ in range(rounds):
            tenant_id, secret, _ = await asyncio.to_thread(self.in_public, self.make)
            self.admin.post(f"tenants/{tenant_id}/override", json={"limits": {"concurrent_sessions": 7, "requests_per_minute": 13}}).raise_for_status()
            held = [s for s in await asyncio.gather(*(self.race(secret) for _ in range(RACERS))) if s]
            over["concurrent_sessions"] = max(over["concurrent_sessions"], len(held) - 7)
            assert len(held) == 7, f"only {len(held)} of 7 places were given"
            for socket in held:
                await socket.close()
            async with httpx.AsyncClient(base_url=self.stack.base_url, headers={"Authorization": f"Bearer {secret}"}, timeout=30) as client:
                answers = await asyncio.gather(*(client.get("/v1/models") for _ in range(RACERS)))
            good = sum(a.status_code == 200 for a in answers)
            over["requests_per_minute"] = max(over["requests_per_minute"], good - 13)
            assert good == 13, f"only {good} of 13 requests were let through"
        for name, value in over.items():
            self.row(f"{name}: more than the limit, {RACERS} racing, {rounds} rounds", value, 0, "")

    async def race(self, secret: str):
        try:
            return await self.dial(secret).__aenter__()
        except InvalidStatus as error:
            assert error.response.status_code == 429
            return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--only", choices=("tenants", "endings", "limits"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with stack() as running:
        bench = Bench(running, 20 if options.quick else options.tenants, options.quick)
        bench.prepare()
        for name, part in (("tenants", bench.among_many), ("endings", bench.endings), ("limits", bench.limits)):
            if options.only in (None, name):
                asyncio.run(part())
    report("saas" if options.only is None else f"saas-{options.only}", {"rows": bench.rows})
    return 0 if all(row["met"] for row in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
