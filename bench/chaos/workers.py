"""kill -9 and a freeze of 20 s of the worker that holds a job: the turn completes or ends failed in time, nothing hangs, nothing comes twice."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import psutil

from bench.chaos.gateways import missing
from bench.chaos.ground import VOICE, Ground, former, p, report

DEADLINE_S = 30.0
FROZEN_S = 20.0
STAGES = ("stt", "llm", "tts")
WAITS_S = {"stt": (0.3, 1.6), "llm": (0.1, 1.2), "tts": (0.0, 1.5)}
TEXT = {"output_modalities": ["text"]}
Workers = dict[subprocess.Popen, float]  # process -> its CPU seconds at the beginning of a turn


def alive(ground: Ground, stage: str) -> Workers:
    found = {proc: psutil.Process(proc.pid) for name, proc in ground.stack.processes.items() if name.startswith(f"{stage}-") and proc.poll() is None}
    return {proc: sum(seen.cpu_times()[:2]) for proc, seen in found.items() if seen.status() != psutil.STATUS_STOPPED}


def holder(ground: Ground, stage: str, before: Workers) -> subprocess.Popen:
    """The process that has the job: the one that talks with the language model's server, else the one that worked most since then."""
    now = alive(ground, stage)
    if stage == "llm":
        for proc in now:
            if any(c.raddr and c.raddr.port == ground.model_port for c in psutil.Process(proc.pid).net_connections("tcp")):
                return proc
    return max(now, key=lambda proc: now[proc] - before.get(proc, now[proc]))


async def turn(ground: Ground, stage: str, after_s: float, strike: Callable[[subprocess.Popen], float]) -> tuple[str, float, list[str]]:
    """One turn during which the worker of `stage` is struck; `strike` says how many seconds later something might still come of it.

    (how it ended, seconds, what is wrong).
    """
    async with ground.client(ground.stack.realtime, f"assistant={ground.slow_agent}" if stage == "llm" else "") as client:
        began, before = time.monotonic(), alive(ground, stage)
        if stage == "stt":
            await client.send("session.update", session=TEXT)
            speaking = asyncio.create_task(client.speak("samples/question.wav"))
            await client.wait("input_audio_buffer.speech_started")
        else:
            await client.type("count to ten", **(VOICE if stage == "tts" else TEXT))
            await client.wait("response.created")
        await asyncio.sleep(after_s)
        later = time.monotonic() + strike(holder(ground, stage, before))
        try:
            done = await client.answer(DEADLINE_S)
        except AssertionError as error:
            return "hung", time.monotonic() - began, [str(error)[:200]]
        seconds, wrong, text = time.monotonic() - began, [], client.text()
        if done["status"] == "completed" and not text.rstrip().endswith("twelve." if stage == "stt" else "ten."):
            wrong.append(f"said {text[-80:]!r}")
        if stage == "stt":
            await speaking
        if text.count("seven") > 1:
            wrong.append(f"words twice: {text!r}")
        while (left := later - time.monotonic()) > 0:
            try:
                event = await client.next(left)
            except AssertionError as error:
                if not str(error).startswith("nothing for"):
                    raise
                break
            if event["type"] != "rate_limits.updated":
                wrong.append(f"after the end: {json.dumps(event)[:200]}")
        client.order.finished()
    return done["status"], seconds, wrong + await missing(ground, client)


def refill(ground: Ground, stage: str) -> None:
    """Three workers again; two must be there. From the main thread: a child ends with the thread that started it."""
    for name in [n for n, proc in ground.stack.processes.items() if n.startswith(f"{stage}-") and proc.poll() is not None]:
        ground.stack.processes.pop(name)
        ground.stack.start_worker(stage)
    time.sleep(0.2)
    ground.stack.wait_workers(stage, 2)


def kill(ground: Ground, times: int) -> bool:
    def strike(worker: subprocess.Popen) -> float:
        worker.kill()
        return 0.0

    book = Book(ground, "chaos-worker-kill", "kill -9", times)
    for stage in STAGES:
        for number in book.left(stage):
            refill(ground, stage)
            book.write(stage, number, asyncio.run(struck(ground, stage, number, strike)))
    return book.good


def freeze(ground: Ground, times: int) -> bool:
    """All three kinds at once: one worker of three of each is asleep nearly all the time."""

    def strike(worker: subprocess.Popen) -> float:
        worker.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(FROZEN_S, worker.send_signal, signal.SIGCONT)
        return FROZEN_S + 2

    book = Book(ground, "chaos-worker-freeze", "SIGSTOP 20 s", times)

    async def one_kind(stage: str) -> None:
        for number in book.left(stage):
            book.write(stage, number, await struck(ground, stage, number, strike))

    async def all_kinds() -> None:
        await asyncio.gather(*map(one_kind, STAGES))

    asyncio.run(all_kinds())
    return book.good


async def struck(ground: Ground, stage: str, number: int, strike) -> tuple[str, float, list[str]]:
    try:
        return await turn(ground, stage, random.Random(f"{stage} {number}").uniform(*WAITS_S[stage]), strike)
    except Exception as error:  # counted, and the run goes on
        return "broke", 0.0, [f"{type(error).__name__}: {str(error)[:300]}"]


class Book:
    """What is known of a run so far; its report."""

    def __init__(self, ground: Ground, name: str, what: str, times: int):
        self.name, self.what, self.times = name, what, times
        self.found: dict[str, dict] = {stage: {"ended": {}, "seconds": [], "faults": []} for stage in STAGES} | former(ground, name)

    def left(self, stage: str) -> range:
        return range(len(self.found[stage]["seconds"]), self.times)

    @property
    def good(self) -> bool:
        return not any(f["faults"] or f["ended"].get("hung") for f in self.found.values())

    def write(self, stage: str, number: int, result: tuple[str, float, list[str]]) -> None:
        status, seconds, wrong = result
        found = self.found[stage]
        found["ended"] = dict(Counter(found["ended"]) + Counter([status]))
        found["seconds"].append(seconds)
        found["faults"] += [f"{stage} {number + 1}: {w}" for w in wrong]
        print(f"{self.what} {stage} {number + 1}/{self.times}: {status} after {seconds:.1f} s {'; '.join(wrong)}", flush=True)
        rows = []
        for stage, found in self.found.items():
            if found["seconds"]:
                rows += [(f"{self.what} of a {stage} worker, {len(found['seconds'])}x: turns", ", ".join(f"{n} {s}" for s, n in found["ended"].items()),
                          "completed or failed, 0 hung"), ("  doubled or lost", str(len(found["faults"])), "0"),
                         ("  turn p50 / max", f"{p(found['seconds'], 50):.1f} / {max(found['seconds']):.1f} s", "within the deadline")]  # fmt: skip
        report(self.name, rows, self.found, show=number + 1 == self.times)
