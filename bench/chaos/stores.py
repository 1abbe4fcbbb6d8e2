"""Redis and PostgreSQL restarted or frozen under live sessions: they go on or resume, and no turn, item or usage is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

import psutil
from websockets.exceptions import ConnectionClosed

from bench.chaos.gateways import come_back
from bench.chaos.ground import Ground, lost, p, report
from tests import conftest
from tests.e2e.client import Client

SESSIONS = 20
PAUSE_S = 4.0  # between two strikes
FREEZES_S = (3, 1, 6, 10, 15)  # one after the other
SHORT_S = 7.0  # frozen for less, a server costs time and no turn
# of a long talk the model is shown the end alone: what is struck is the servers, not how fast a model reads on this machine
SHORT = {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 200}}


class Talker:
    """Text turns one after the other until told; a lost connection is resumed. `clients`: one a session, more than one when a session could not go on."""

    def __init__(self, ground: Ground, number: int, counts: Counter, faults: list[str]):
        self.ground, self.number, self.counts, self.faults = ground, number, counts, faults
        self.urls, self.clients = list(ground.gateways.values()), []
        self.over = False

    async def run(self) -> None:
        fresh = True
        while not self.over:
            try:
                if fresh:
                    self.clients.append(await Client.connect(self.urls[self.number % len(self.urls)], self.ground.key))
                    await self.clients[-1].send("session.update", session={"truncation": SHORT})
                    fresh = False
                await self.talk(self.clients[-1])
            except Exception as error:  # counted, and a new session takes its place
                self.faults.append(f"session {self.number}: {type(error).__name__}: {str(error)[:300]}")
                fresh = True
                await asyncio.sleep(1)

    async def talk(self, client: Client) -> None:
        asked = 0
        while not self.over:
            try:
                await client.type(f"what is {self.number % 10} plus {asked % 10}", output_modalities=["text"])
                done = await client.answer(40)
                self.counts[done["status"] if done["status"] != "failed" else f"failed {done['status_details']['error']['code']}"] += 1
                asked += 1
                await asyncio.sleep(0.3)
            except ConnectionClosed:
                self.counts["resumed"] += 1
                await come_back(client, self.urls)
                kinds = Counter(e["type"] for e in client.events)
                if kinds["response.created"] > kinds["response.done"]:
                    await client.answer(40)

    async def lost(self) -> Counter:
        found: Counter = Counter()
        for client in self.clients:
            found.update(await lost(self.ground, client, 15))
            client.order.finished()
            await client.close()
        return found


async def live_through(ground: Ground, times: int, what: str, strike: Callable[[], None]) -> tuple[bool, Counter]:
    """Was nothing lost, and how the turns ended."""
    counts, faults, away = Counter(), [], []
    talkers = [Talker(ground, n, counts, faults) for n in range(SESSIONS)]
    tasks = [asyncio.create_task(t.run()) for t in talkers]
    await asyncio.sleep(3)
    for i in range(times):
        began = time.monotonic()
        await asyncio.to_thread(strike)
        away.append(time.monotonic() - began)
        print(f"{what} {i + 1}/{times}: away {away[-1]:.2f} s; so far {dict(counts)}, {len(faults)} faults", flush=True)
        write(ground, what, counts, away, faults, None)
        await asyncio.sleep(PAUSE_S)
    for talker in talkers:
        talker.over = True
    await asyncio.gather(*tasks)
    missing = sum([await t.lost() for t in talkers], Counter())
    write(ground, what, counts, away, faults, missing)
    return not faults and not missing.total() and not ground.restarted, counts


def write(ground: Ground, what: str, counts: Counter, away: list[float], faults: list[str], missing: Counter | None) -> None:
    found = "not known yet" if missing is None else "{turns}, {items}, {usage}; {doubled}".format_map(Counter(missing))
    rows = [(f"{what} {len(away)}x during {SESSIONS} sessions: turns", ", ".join(f"{n} {s}" for s, n in sorted(counts.items())), "go on or resume"),
            ("turns, items, usage lost; doubled", found, "0, 0, 0; 0"), ("sessions that could not go on", str(len(faults)), "0"),
            ("workers that ended and were started again", str(ground.restarted), "0"),
            ("away p50 / max", f"{p(away, 50):.2f} / {p(away, 100):.2f} s", "")]  # fmt: skip
    report(f"chaos-{what.replace(' ', '-')}", rows, {"counts": counts, "away_s": away, "missing": missing, "faults": faults, "restarted": ground.restarted},
           show=missing is not None)  # fmt: skip


def restarts(ground: Ground, times: int, which: str) -> bool:
    def restart(server) -> None:
        server.stop()
        server.start()

    return strikes(ground, times, which, "restarted", restart)[0]


def freezes(ground: Ground, times: int, which: str) -> bool:
    """Connections stay open and nothing answers, as behind a line that drops everything or on a host that pauses."""
    lengths = cycle(FREEZES_S)

    def freeze(server) -> None:
        root = psutil.Process(server.process.pid)
        frozen = [root, *root.children(recursive=True)]
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        time.sleep(next(lengths))
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    good, turns = strikes(ground, times, which, "frozen", freeze)
    return good and (max(FREEZES_S[:times]) > SHORT_S or set(turns) <= {"completed", "resumed"})


def strikes(ground: Ground, times: int, which: str, what: str, strike: Callable[..., None]) -> tuple[bool, Counter]:
    """`strike(server)` so many times under talking sessions: see `live_through`."""
    server = {"redis": conftest._redis, "postgres": conftest._postgres}[which]
    ground.restarted = 0
    ground.ready()
    wanted, done, result = threading.Event(), threading.Event(), []

    def ask() -> None:
        """Of the main thread: a child ends with the thread that started it."""
        done.clear()
        wanted.set()
        done.wait(60)

    thread = threading.Thread(target=lambda: result.append(asyncio.run(live_through(ground, times, f"{which} {what}", ask))))
    thread.start()
    while thread.is_alive():
        if wanted.is_set():
            wanted.clear()
            strike(server)
            done.set()
        ground.supervise()
        time.sleep(0.02)
    return result[0] if result else (False, Counter())
