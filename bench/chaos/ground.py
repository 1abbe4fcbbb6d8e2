"""The product on servers that keep what they were given, and the pieces all parts of the chaos runs share."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests import conftest  # chooses ports and sets the environment before Django loads
from tests.e2e.client import Client

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "var" / "reports"
VOICE = {"audio": {"output": {"voice": "echo", "speed": 1.5}}}  # fast: less to wait for


def p(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class Ground:
    """Servers, gateways, workers and one workspace; gateways by name -> (address, process)."""

    def __init__(self, go_on: bool = False):
        """`go_on`: parts begin where the last run of them was stopped."""
        self.go_on, self.restarted = go_on, 0

    def start(self, gateways: int = 2, workers: int = 2) -> None:
        from apps.agents.services import agent_create
        from apps.common.actors import SYSTEM
        from apps.tenants.bootstrap import prepare
        from apps.tenants.context import bound
        from tests.infrastructure import STAGES, Stack

        for server in (conftest._postgres, conftest._redis):
            if server is not None:
                server.durable = True
                server.start()
        prepare()
        self.stack = Stack(conftest.WORK)
        self._start_slow_model()
        self.stack.start()
        self.gateways: dict[str, str] = {"gateway": self.stack.realtime}
        for _ in range(gateways - 1):
            self.add_gateway()
        for stage in STAGES:
            for _ in range(workers - 1):
                self.stack.start_worker(stage)
            self.stack.wait_workers(stage, workers)
        self.tenant, self.key = self.stack.new_tenant("chaos")
        with bound(self.tenant):
            self.slow_agent = agent_create(name="Slow", actor=SYSTEM, instructions="", llm_engine="openai", llm_model="slow").id

    def _start_slow_model(self) -> None:
        """A language model that takes a second or two, so that its worker can be struck while it has the job: a stand-in, spoken to by URL."""
        from apps.common.launch import processes
        from apps.common.launch.servers import free_port

        self.model_port = free_port()
        os.environ |= {"LLM_OPENAI_BASE_URL": f"http://127.0.0.1:{self.model_port}/v1", "LLM_OPENAI_API_KEY": "right"}
        self.stack.run(processes.Child("slow-model", (sys.executable, "-m", "tests.integration.openai_server", str(self.model_port), "300", "30")))

    def stop(self) -> None:
        self.stack.stop()
        REPORTS.mkdir(parents=True, exist_ok=True)
        for log in self.stack.folder.glob("*.log"):
            shutil.copy(log, REPORTS / f"chaos-{log.name}")
        for server in (conftest._postgres, conftest._redis):
            if server is not None:
                server.stop()

    def supervise(self) -> None:
        """As `manage.py up` and Kubernetes do: a worker that ended is started again (Celery's ends when Redis goes while it has messages in hand)."""
        from tests.infrastructure import STAGES

        for name, process in list(self.stack.processes.items()):
            if process.poll() is not None and name.split("-")[0] in STAGES:
                del self.stack.processes[name]
                self.stack.start_worker(name.split("-")[0])
                self.restarted += 1

    def add_gateway(self) -> str:
        """Begin one more; `ready` waits for it."""
        url, _ = self.stack.extra_gateway(wait=False)
        name = f"gateway-{self.stack._count}"
        self.gateways[name] = url
        return name

    def ready(self) -> None:
        for url in self.gateways.values():
            self.stack.wait(url.replace("ws://", "http://").replace("/v1/realtime", "/health"))

    def next_victim(self) -> str:
        """The gateway that is alive for longest, but the first; when all others answer."""
        self.ready()
        return list(self.gateways)[1]

    def process(self, name: str):
        return self.stack.processes[name]

    def drop_gateway(self, name: str) -> None:
        self.stack.processes.pop(name).wait(30)
        del self.gateways[name]

    def client(self, url: str, query: str = "") -> Client:
        return Client(url, self.key, query)

    async def written(self, session_id: str) -> dict[str, Any]:
        """What PostgreSQL has of a session."""
        from apps.conversations.models import Item, TurnTrace, VoiceSession
        from apps.tenants.context import in_tenant
        from apps.usage.models import UsageEntry

        def look() -> dict[str, Any]:
            return {
                "state": VoiceSession.objects.filter(pk=session_id).values_list("state", flat=True).first(),
                "items": list(Item.objects.filter(session_id=session_id).values_list("item_id", flat=True)),
                "turns": list(TurnTrace.objects.filter(session_id=session_id).values_list("response_id", flat=True)),
                "usage": list(UsageEntry.objects.filter(session_id=session_id).values_list("turn_id", "meter")),
            }

        return await in_tenant(self.tenant, look)


def owed(client: Client) -> tuple[set[str], set[str]]:
    """(items, responses) a client was told are done: PostgreSQL owes them all."""
    items = {e["item"]["id"] for e in client.events if e["type"] == "conversation.item.done"}
    return items, {e["response"]["id"] for e in client.events if e["type"] == "response.done"}


async def lost(ground: Ground, client: Client, wait_s: float = 10) -> dict[str, int]:
    """What of it is not there, or there twice, after a moment."""
    from django.db import Error

    items, turns = owed(client)
    until = time.monotonic() + wait_s
    while True:
        try:
            found = await ground.written(client.events[0]["session"]["id"])
        except Error:  # PostgreSQL is being restarted
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.2)
            continue
        billed = {turn for turn, _ in found["usage"]}
        missing = {"items": len(items - set(found["items"])), "turns": len(turns - set(found["turns"])),
                   "doubled": sum(len(v) - len(set(v)) for v in (found["items"], found["turns"], found["usage"])),
                   "usage": max(0, len(set(found["turns"])) - len(billed - {""}))}  # fmt: skip
        if not any(missing.values()) or time.monotonic() > until:
            return missing
        await asyncio.sleep(0.2)


def former(ground: Ground, name: str) -> dict[str, Any]:
    """The numbers of a run that was stopped, if it is to go on; else {}."""
    path = REPORTS / f"{name}.json"
    return json.loads(path.read_text())["numbers"] if ground.go_on and path.exists() else {}


def report(name: str, rows: list[tuple[str, str, str]], numbers: dict[str, Any], show: bool = True) -> None:
    """Print (what, found, bar) and write var/reports/<name>.json."""
    widths = [max(len(row[i]) for row in [("what", "found", "bar"), *rows]) for i in range(3)]
    for row in [("what", "found", "bar"), *rows] if show else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    value = {"at": time.time(), "cores": os.cpu_count(), "rows": [dict(zip(("what", "found", "bar"), row, strict=True)) for row in rows], "numbers": numbers}
    (REPORTS / f"{name}.json").write_text(json.dumps(value, indent=1))
