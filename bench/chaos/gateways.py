"""kill -9 of the gateway that holds a session, in the middle of an answer; and SIGTERM."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import time
from typing import Any

from websockets.exceptions import ConnectionClosed

from bench.chaos.ground import VOICE, Ground, former, lost, p, report
from tests.e2e.client import Client, Refused
from tests.e2e.test_worker_loss import alike

QUESTION = "count to ten"


async def whole_answer(ground: Ground) -> tuple[str, bytes]:
    async with ground.client(ground.stack.realtime) as client:
        await client.type(QUESTION, **VOICE)
        await client.answer(60)
        return client.text(), client.audio()


async def until_closed(client: Client) -> None:
    try:
        while True:
            await client.next()
    except ConnectionClosed:
        return


async def come_back(client: Client, urls: list[str], seconds: float = 20) -> float:
    """Resume at any gateway; ms from the try that worked to session.created. Raises AssertionError when something is lost."""
    until = time.monotonic() + seconds
    while True:
        for url in urls:
            began = time.monotonic()
            try:
                created = await client.resume(url)
                assert created["resumption"]["gap"] is False, "a gap"
                return (time.monotonic() - began) * 1000
            except (OSError, Refused):
                if time.monotonic() > until:
                    raise
        await asyncio.sleep(0.05)


def done_of(client: Client) -> dict[str, Any] | None:
    return next((e["response"] for e in client.events if e["type"] == "response.done"), None)


def check(client: Client, done: dict[str, Any], text: str, audio: bytes) -> list[str]:
    """What is wrong with what the client heard in all."""
    wrong = []
    if done["status"] != "completed":
        wrong.append(f"ended {done['status']}: {done['status_details']}")
    if client.text() != text:
        wrong.append(f"text differs: {client.text()[:200]!r}")
    if abs(len(client.audio()) - len(audio)) > 0.1 * 48000:
        wrong.append(f"{len(client.audio()) / 48000:.2f} s heard of {len(audio) / 48000:.2f} s")
    elif (likeness := alike(client.audio(), audio)) < 0.85:
        wrong.append(f"sound is {likeness:.2f} like the whole")
    added = [e["item"]["id"] for e in client.events if e["type"] == "conversation.item.added"]
    if len(added) != len(set(added)):
        wrong.append("an item twice")
    return wrong


async def missing(ground: Ground, client: Client) -> list[str]:
    return [f"{n} doubled" if what == "doubled" else f"{n} {what} lost" for what, n in (await lost(ground, client)).items() if n]


async def killed(ground: Ground, name: str, text: str, audio: bytes, after_s: float) -> tuple[list[str], float, float]:
    """One answer during which the gateway `name` is killed. (what is wrong, ms to restore, ms from the broken line to session.created)."""
    others = [url for other, url in ground.gateways.items() if other != name]
    async with ground.client(ground.gateways[name]) as client:
        await client.type(QUESTION, **VOICE)
        await client.wait("response.created")
        listening = asyncio.create_task(until_closed(client))
        await asyncio.sleep(after_s)
        ground.process(name).send_signal(signal.SIGKILL)
        await asyncio.wait_for(listening, 40)
        broke = time.monotonic()
        wrong = ["the answer was over before the kill"] if done_of(client) else []
        restored = await come_back(client, others)
        away = (time.monotonic() - broke) * 1000
        wrong += check(client, done_of(client) or await client.answer(40), text, audio)
        client.order.finished()
    return wrong + await missing(ground, client), restored, away


def kill(ground: Ground, times: int) -> bool:
    """kill -9 mid-answer at random instants."""
    text, audio = asyncio.run(whole_answer(ground))
    before = former(ground, "chaos-gateway")
    restores, aways, faults = before.get("restores_ms", []), before.get("aways_ms", []), before.get("faults", [])
    rng = random.Random(11 + len(restores))
    for i in range(len(restores), times):
        name = ground.next_victim()
        try:
            wrong, restored, away = asyncio.run(killed(ground, name, text, audio, rng.uniform(0.02, max(0.5, len(audio) / 48000 - 2.2))))
        except Exception as error:  # counted, and the run goes on
            ground.process(name).kill()
            wrong, restored, away = [f"{type(error).__name__}: {str(error)[:300]}"], 20000.0, 20000.0
        ground.drop_gateway(name)
        ground.add_gateway()
        restores.append(restored)
        aways.append(away)
        faults += [f"kill {i + 1}: {w}" for w in wrong]
        print(f"kill {i + 1}/{times}: restored in {restored:.0f} ms {'; '.join(wrong) or 'whole'}", flush=True)
        rows = [("kill -9 of a gateway mid-answer: resumes", f"{len(restores)}", f"{times}"), ("answers not whole, items lost or doubled", f"{len(faults)}", "0"),
                ("restore p50 / p95", f"{p(restores, 50):.0f} / {p(restores, 95):.0f} ms", "p95 <= 500 ms"),
                ("from the broken line to session.created p50 / p95", f"{p(aways, 50):.0f} / {p(aways, 95):.0f} ms", "")]  # fmt: skip
        report("chaos-gateway", rows, {"restores_ms": restores, "aways_ms": aways, "faults": faults}, show=i + 1 == times)
    return not faults and p(restores, 95) <= 500


def drain(ground: Ground, times: int) -> bool:
    """SIGTERM during a turn."""
    text, audio = asyncio.run(whole_answer(ground))
    before = former(ground, "chaos-drain")
    exits, faults = before.get("exits_s", []), before.get("faults", [])
    rng = random.Random(7 + len(exits))
    for i in range(len(exits), times):
        name = ground.next_victim()
        process, began = ground.process(name), time.monotonic()
        try:
            wrong, began = asyncio.run(drained(ground, name, text, audio, rng.uniform(0.05, 1.5)))
        except Exception as error:  # counted, and the run goes on
            wrong = [f"{type(error).__name__}: {str(error)[:300]}"]
            process.terminate()
        try:
            process.wait(max(0.1, 35 - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            wrong.append("did not exit in 35 s")
            process.kill()
        exits.append(time.monotonic() - began)
        ground.drop_gateway(name)
        ground.add_gateway()
        faults += [f"drain {i + 1}: {w}" for w in wrong]
        print(f"drain {i + 1}/{times}: exit after {exits[-1]:.1f} s {'; '.join(wrong) or 'whole'}", flush=True)
        rows = [(f"SIGTERM drain {len(exits)}x: turns cut", f"{len(faults)}", "0"), ("exit p50 / max", f"{p(exits, 50):.1f} / {max(exits):.1f} s", "<= 30 s")]
        report("chaos-drain", rows, {"exits_s": exits, "faults": faults}, show=i + 1 == times)
    return not faults and max(exits) <= 30


async def drained(ground: Ground, name: str, text: str, audio: bytes, after_s: float) -> tuple[list[str], float]:
    """(what is wrong, when SIGTERM was sent)."""
    others = [url for other, url in ground.gateways.items() if other != name]
    async with ground.client(ground.gateways[name]) as client:
        await client.type(QUESTION, **VOICE)
        await client.wait("response.created")
        listening = asyncio.create_task(until_closed(client))
        await asyncio.sleep(after_s)
        began = time.monotonic()
        ground.process(name).send_signal(signal.SIGTERM)
        await asyncio.wait_for(listening, 40)
        wrong = [] if done_of(client) else ["the turn was not finished before the move"]
        if client.socket.close_code != 1012:
            wrong.append(f"closed with {client.socket.close_code}")
        await come_back(client, others)
        wrong += check(client, done_of(client) or await client.answer(40), text, audio)
        await client.type("hello", output_modalities=["text"])
        if (await client.answer())["status"] != "completed":
            wrong.append("the next turn failed")
    return wrong + await missing(ground, client), began
