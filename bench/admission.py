"""What one gateway process can hold: quality against the number of sessions, and what a storm of connections costs those who talk.

Part of `python -m bench` (`--only admission`); writes var/reports/admission.json. voice/gateway/admission.py has its numbers from this curve.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from bench.surroundings import ROOT, percentile, report
from tests.e2e.client import Client, Refused

STEPS = (25, 50, 75, 100, 125, 150, 175, 200)
GOOD_MS = 50.0  # echo p99 that callers do not notice


@dataclass
class Point:
    sessions: int
    core: float  # share of one used
    late_p90_ms: float  # of the event loop, as admission sees it: the worst of 1 s looks
    echo_p50_ms: float
    echo_p99_ms: float
    first_word_p50_ms: float  # of a text turn beside them
    first_word_p95_ms: float


def late_ms(url: str) -> float:
    with urllib.request.urlopen(url.replace("ws://", "http://").replace("/v1/realtime", "/metrics"), timeout=10) as answer:
        line = next(line for line in answer.read().decode().splitlines() if line.startswith("voice_loop_late_seconds "))
    return float(line.split()[1]) * 1000


async def first_words(url: str, key: str, over: asyncio.Event) -> list[float]:
    """ms from a question to the first word of its answer, one a second."""
    times = []
    async with Client(url, key) as client:
        while not over.is_set():
            began = time.monotonic()
            await client.type("what is seven plus five", output_modalities=["text"])
            await client.wait("response.output_text.delta", 60)
            times.append((time.monotonic() - began) * 1000)
            await client.answer(60)
            await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))
    return times


async def under_load(url: str, pid: int, key: str, sessions: int, seconds: float, beside: Callable[[], Any] | None = None) -> tuple[Point, Any]:
    """`sessions` stream speech (bench/load.py) for so long; what came of it, and of `beside()` in the middle of it."""
    command = [sys.executable, "-m", "bench.load", url, str(sessions), str(seconds), "40", "echo"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE, limit=2**26, env=os.environ | {"VOICE_API_KEY": key})
    assert (await process.stdout.readline()) == b"begin\n"
    over, worst, gateway = asyncio.Event(), 0.0, psutil.Process(pid)
    before, began = sum(gateway.cpu_times()[:2]), time.monotonic()
    asking = asyncio.create_task(first_words(url, key, over))
    await asyncio.sleep(min(4.0, seconds / 3))
    result = await beside() if beside else None
    while time.monotonic() < began + seconds - 1:
        worst = max(worst, await asyncio.to_thread(late_ms, url))
        await asyncio.sleep(1)
    core = (sum(gateway.cpu_times()[:2]) - before) / (time.monotonic() - began)
    over.set()
    words = await asking
    assert (await process.stdout.readline()) == b"end\n"
    echoes = json.loads(await process.stdout.readline())["echoes"]
    await process.wait()
    return Point(sessions, core, worst, percentile(echoes, 50), percentile(echoes, 99), percentile(words, 50), percentile(words, 95)), result


@dataclass
class Storm:
    """All at once: how long each took from its first try, and how often one was told to wait."""

    count: int
    refused: int
    p50_ms: float
    p95_ms: float
    max_ms: float


async def storm(let_in: list[Callable[[], Any]]) -> Storm:
    refused = 0

    async def one(connect: Callable[[], Any]) -> float:
        nonlocal refused
        began = time.monotonic()
        while True:
            try:
                await connect()
                return (time.monotonic() - began) * 1000
            except Refused as error:
                if error.status != 503 or time.monotonic() > began + 60:
                    raise
                refused += 1
                await asyncio.sleep(float(error.headers["Retry-After"]))

    times = await asyncio.gather(*map(one, let_in))
    return Storm(len(times), refused, percentile(times, 50), percentile(times, 95), max(times))


async def connect_at_once(url: str, key: str, count: int) -> Storm:
    clients = [Client(url, key) for _ in range(count)]
    found = await storm([client.__aenter__ for client in clients])
    for client in clients:
        await client.close()
    return found


async def come_over(victim: str, kill: Callable[[], None], url: str, key: str, count: int) -> Storm:
    """The gateway of `count` sessions dies, and all of them come to this one."""
    clients = [await Client.connect(victim, key) for _ in range(count)]
    kill()
    for client in clients:
        await client.socket.wait_closed()

    def back(client: Client):
        return lambda: client.resume(url)

    found = await storm([back(client) for client in clients])
    for client in clients:
        await client.close()
    return found


def measure(stack, key: str, quick: bool) -> list[tuple[str, str, str, str, str]]:
    """Rows of the bench's table."""
    seconds, steps = (6, STEPS[:2]) if quick else (14, STEPS)
    url, process = stack.extra_gateway(ADMISSION_LATE_MS="0", GATEWAY_MAX_SESSIONS="1000")
    rows, points = [], []
    for sessions in steps:
        point, _ = asyncio.run(under_load(url, process.pid, key, sessions, seconds))
        points.append(point)
        rows.append((f"{sessions} sessions that stream: echo p50 / p99", f"{point.echo_p50_ms:.1f} / {point.echo_p99_ms:.1f} ms", f"{point.core * 100:.0f} % of a core, "
                     f"loop late p90 {point.late_p90_ms:.0f} ms", f"first word p50 / p95 {point.first_word_p50_ms:.0f} / {point.first_word_p95_ms:.0f} ms", ""))  # fmt: skip
        print(rows[-1], flush=True)
        report("admission", {"points": [asdict(p) for p in points]})
        if point.echo_p99_ms > 8 * GOOD_MS:
            break
    process.kill()
    held = max((p.sessions for p in points if p.echo_p99_ms <= GOOD_MS), default=0)
    rows.append((f"sessions with echo p99 <= {GOOD_MS:.0f} ms", str(held), "", "", ""))
    count = 20 if quick else 100
    storms = {}
    for name in ("new", "resumed"):
        url, process = stack.extra_gateway(GATEWAY_MAX_SESSIONS="1000")
        victim, dying = stack.extra_gateway(GATEWAY_MAX_SESSIONS="1000", ADMISSION_LATE_MS="0")
        beside = {"new": lambda url=url: connect_at_once(url, key, count), "resumed": lambda url=url: come_over(victim, dying.kill, url, key, count)}[name]  # noqa: B023
        calm, _ = asyncio.run(under_load(url, process.pid, key, count // 2, seconds))
        point, found = asyncio.run(under_load(url, process.pid, key, count // 2, seconds + 6, beside))
        storms[name] = {"beside": asdict(point), "calm": asdict(calm), **asdict(found)}
        rows += [(f"{count} {name} at once beside {count // 2}: let in p50 / p95 / last", f"{found.p50_ms:.0f} / {found.p95_ms:.0f} / {found.max_ms:.0f} ms",
                  f"{found.refused} x 503", "", "0 x 503"),
                 ("  echo p99 of those who talk", f"{point.echo_p99_ms:.1f} ms", f"{calm.echo_p99_ms:.1f} ms (before)", "", f"<= {GOOD_MS:.0f} ms")]  # fmt: skip
        print(rows[-2:], flush=True)
        process.kill()
        dying.kill()
    report("admission", {"points": [asdict(p) for p in points], "storms": storms})
    return rows
