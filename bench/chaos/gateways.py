"""kill -9 of the gateway that holds a session, in the middle of an answer; and SIGTERM."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import Any

from websockets.exceptions import ConnectionClosed

from bench.chaos.ground import VOICE, Ground, lost, p, report
from tests.e2e.client import Client, Refused
from tests.e2e.test_worker_loss import alike


async def whole_answer(ground: Ground, question: str) -> tuple[str, bytes]:
    async with ground.client(ground.stack.realtime) as client:
        await client.type(question, **VOICE)
        await client.answer(60)
        return client.text(), client.audio()


async def until_closed(client: Client) -> None:
    try:
        while True:
            await client.next()
    except ConnectionClosed:
        return


async def come_back(client: Client, urls: list[str], seconds: float = 20) -> float:
    """Resume at any gateway; ms from the try that worked to session.created."""
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


async def killed(ground: Ground, name: str, text: str, audio: bytes, after_s: float, question: str, sig: int) -> tuple[list[str], float]:
    """One answer during which the gateway `name` gets `sig`. (what is wrong, ms to restore)."""
    others = [url for other, url in ground.gateways.items() if other != name]
    async with ground.client(ground.gateways[name]) as client:
        await client.type(question, **VOICE)
        await client.wait("response.created")
        listening = asyncio.create_task(until_closed(client))
        await asyncio.sleep(after_s)
        ground.process(name).send_signal(sig)
        await asyncio.wait_for(listening, 40)
        restored = await come_back(client, others)
        done = next((e["response"] for e in client.events if e["type"] == "response.done"), None) or await client.answer(40)
        wrong = check(client, done, text, audio)
        client.order.finished()
    missing = await lost(ground, client)
    return wrong + [f"{n} {what} lost" if what != "doubled" else f"{n} doubled" for what, n in missing.items() if n], restored


def kill(ground: Ground, times: int) -> bool:
    """kill -9 mid-answer at random instants."""
    question, rng = "count to ten", random.Random(11)
    text, audio = asyncio.run(whole_answer(ground, question))
    restores, faults = [], []
    for i in range(times):
        name = next(reversed(ground.gateways))
        wrong, restored = asyncio.run(killed(ground, name, text, audio, rng.uniform(0.02, max(0.5, len(audio) / 48000 - 2.2)), question, signal.SIGKILL))
        ground.drop_gateway(name)
        ground.add_gateway()
        restores.append(restored)
        faults += [f"kill {i + 1}: {w}" for w in wrong]
        print(f"kill {i + 1}/{times}: restored in {restored:.0f} ms {'; '.join(wrong) or 'whole'}", flush=True)
        rows = [("kill -9 of a gateway mid-answer: resumes", f"{len(restores)}", f"{times}"), ("answers not whole, items lost or doubled", f"{len(faults)}", "0"),
                ("restore p50 / p95", f"{p(restores, 50):.0f} / {p(restores, 95):.0f} ms", "p95 <= 500 ms")]  # fmt: skip
    report("chaos-gateway", rows, {"restores_ms": restores, "faults": faults})
    return not faults and p(restores, 95) <= 500


def drain(ground: Ground, times: int) -> bool:
    """SIGTERM during a turn."""
    question, rng = "count to ten", random.Random(7)
    text, audio = asyncio.run(whole_answer(ground, question))
    exits, faults = [], []
    for i in range(times):
        name = next(reversed(ground.gateways))
        process, began = ground.process(name), time.monotonic()
        wrong, cut, began = asyncio.run(drained(ground, name, text, audio, rng.uniform(0.05, 1.5), question))
        try:
            process.wait(max(0.1, 35 - (time.monotonic() - began)))
        except Exception:
            wrong.append("did not exit in 35 s")
            process.kill()
        exits.append(time.monotonic() - began)
        ground.drop_gateway(name)
        ground.add_gateway()
        faults += [f"drain {i + 1}: {w}" for w in wrong]
        print(f"drain {i + 1}/{times}: exit after {exits[-1]:.1f} s {'; '.join(wrong) or 'whole'}", flush=True)
        rows = [("SIGTERM drain: turns cut", f"{len(faults)} of {len(exits)}", "0"), ("exit p50 / max", f"{p(exits, 50):.1f} / {max(exits):.1f} s", "<= 30 s")]
    report("chaos-drain", rows, {"exits_s": exits, "faults": faults})
    return not faults and max(exits) <= 30


async def drained(ground: Ground, name: str, text: str, audio: bytes, after_s: float, question: str) -> tuple[list[str], bool, float]:
    others = [url for other, url in ground.gateways.items() if other != name]
    async with ground.client(ground.gateways[name]) as client:
        await client.type(question, **VOICE)
        await client.wait("response.created")
        listening = asyncio.create_task(until_closed(client))
        await asyncio.sleep(after_s)
        began = time.monotonic()
        ground.process(name).send_signal(signal.SIGTERM)
        await asyncio.wait_for(listening, 40)
        done = next((e["response"] for e in client.events if e["type"] == "response.done"), None)
        wrong = [] if done else ["the turn was not finished before the move"]
        if client.socket.close_code != 1012:
            wrong.append(f"closed with {client.socket.close_code}")
        await come_back(client, others)
        wrong += check(client, done or await client.answer(40), text, audio)
        await client.type("hello", output_modalities=["text"])
        if (await client.answer())["status"] != "completed":
            wrong.append("the next turn failed")
    return wrong + [f"{n} {what} lost" for what, n in (await lost(ground, client)).items() if n], False, began
