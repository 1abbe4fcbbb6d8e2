"""Redis and PostgreSQL restarted under live sessions: they go on or resume, and no turn, item or usage is lost."""

from __future__ import annotations

import asyncio
import threading
import time

from websockets.exceptions import ConnectionClosed

from bench.chaos.gateways import come_back
from bench.chaos.ground import Ground, lost, report
from tests import conftest
from tests.e2e.client import Client

SESSIONS = 20


async def talk(client: Client, urls: list[str], until: asyncio.Event, counts: dict[str, int], number: int) -> None:
    """Text turns one after the other until told; a lost connection is resumed."""
    asked = 0
    while not until.is_set():
        try:
            await client.type(f"what is {number % 10} plus {asked % 10}", output_modalities=["text"])
            done = await client.answer(40)
            how = done["status"] if done["status"] != "failed" else f"failed {done['status_details']['error']['code']}"
            counts[how] = counts.get(how, 0) + 1
            asked += 1
            await asyncio.sleep(0.3)
        except ConnectionClosed:
            counts["resumed"] = counts.get("resumed", 0) + 1
            await come_back(client, urls)
            if [e for e in client.events if e["type"] == "response.created"] and sum(e["type"] == "response.created" for e in client.events) > sum(
                    e["type"] == "response.done" for e in client.events):  # fmt: skip
                await client.answer(40)


async def live_through(ground: Ground, times: int, restart, pause_s: float) -> tuple[dict[str, int], list[float], dict[str, int]]:
    counts: dict[str, int] = {}
    urls, stop = list(ground.gateways.values()), asyncio.Event()
    clients = [await Client.connect(urls[n % len(urls)], ground.key) for n in range(SESSIONS)]
    talking = [asyncio.create_task(talk(c, urls, stop, counts, n)) for n, c in enumerate(clients)]
    away = []
    await asyncio.sleep(3)
    for i in range(times):
        began = time.monotonic()
        await asyncio.to_thread(restart)
        away.append(time.monotonic() - began)
        print(f"restart {i + 1}/{times}: away {away[-1]:.2f} s; so far {counts}", flush=True)
        await asyncio.sleep(pause_s)
        if broken := [t for t in talking if t.done()]:
            broken[0].result()
    stop.set()
    await asyncio.gather(*talking)
    missing: dict[str, int] = {}
    for client in clients:
        found = await lost(ground, client, 15)
        missing = {what: missing.get(what, 0) + n for what, n in found.items()}
        client.order.finished()
        await client.close()
    return counts, away, missing


def restarts(ground: Ground, times: int, which: str) -> bool:
    server = {"redis": conftest._redis, "postgres": conftest._postgres}[which]
    requests: list[threading.Event] = []
    done = threading.Event()
    result: list = []

    def restart() -> None:
        """Asked of the main thread: a child ends with the thread that started it."""
        done.clear()
        requests.append(threading.Event())
        done.wait(60)

    def run() -> None:
        result.append(asyncio.run(live_through(ground, times, restart, 4.0)))

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        if requests:
            requests.pop()
            server.stop()
            server.start()
            done.set()
        ground.supervise()
        time.sleep(0.02)
    if not result:
        return False
    counts, away, missing = result[0]
    rows = [(f"{which} restarted {times}x during {SESSIONS} sessions: turns", ", ".join(f"{n} {s}" for s, n in sorted(counts.items())), "go on or resume"),
            ("turns, items, usage lost; doubled", f"{missing['turns']}, {missing['items']}, {missing['usage']}; {missing['doubled']}", "0, 0, 0; 0"),
            ("away p50", f"{sorted(away)[len(away) // 2]:.2f} s", "")]  # fmt: skip
    report(f"chaos-{which}", rows, {"counts": counts, "away_s": away, "missing": missing})
    return not any(missing.values())
