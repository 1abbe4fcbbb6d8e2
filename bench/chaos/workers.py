"""kill -9 and a freeze of 20 s of the worker that holds a job: the turn completes or ends failed in time, nothing hangs, nothing comes twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time

import redis

from bench.chaos.ground import VOICE, Ground, lost, p, report

DEADLINE_S = 30.0
FROZEN_S = 20.0


def holder(ground: Ground, stage: str):
    """The process that is busy with a job of `stage`, else any."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    alive = {proc.pid: proc for name, proc in ground.stack.processes.items() if name.startswith(f"{stage}-") and proc.poll() is None}
    for key in client.scan_iter(f"voice:worker:{stage}:*"):
        pid = int(key.decode().rsplit(":", 1)[1])
        if pid in alive and json.loads(client.get(key) or b'{"busy": 0}')["busy"]:
            return alive[pid]
    return next(iter(alive.values()))


async def turn(ground: Ground, stage: str, after_s: float, strike) -> tuple[str, float, list[str]]:
    """One turn during which the worker of `stage` is struck. (how it ended, seconds, what is wrong)."""
    async with ground.client(ground.stack.realtime) as client:
        began = time.monotonic()
        if stage == "stt":
            await client.speak("samples/question.wav", tail_s=0.6, speed=4)
            await client.wait("input_audio_buffer.committed")
        else:
            await client.type("count to ten", **VOICE)
            await client.wait("response.created")
        await asyncio.sleep(after_s)
        strike()
        try:
            done = await client.answer(DEADLINE_S)
        except AssertionError as error:
            return "hung", time.monotonic() - began, [str(error)[:200]]
        wrong = []
        text = client.text()
        if done["status"] == "completed" and stage != "stt" and not text.rstrip().endswith("ten."):
            wrong.append(f"said {text[-80:]!r}")
        if text.count("seven") > 1:
            wrong.append(f"words twice: {text!r}")
        client.order.finished()
        seconds = time.monotonic() - began
    return done["status"], seconds, wrong + [f"{n} {what} lost" for what, n in (await lost(ground, client)).items() if n]


def refill(ground: Ground, stage: str) -> None:
    """Two live workers again. From the main thread: a child ends with the thread that started it."""
    dead = [n for n, proc in ground.stack.processes.items() if n.startswith(f"{stage}-") and proc.poll() is not None]
    for name in dead:
        ground.stack.processes.pop(name)
        ground.stack.start_worker(stage)
    ground.stack.wait_workers(stage, 2)


def kill(ground: Ground, times: int) -> bool:
    return strike_all(ground, times, "chaos-worker-kill", "kill -9", lambda proc: proc.send_signal(signal.SIGKILL), lambda proc: None)


def freeze(ground: Ground, times: int) -> bool:
    thaw: list[tuple[float, object]] = []

    def stop(proc) -> None:
        proc.send_signal(signal.SIGSTOP)
        thaw.append((time.monotonic() + FROZEN_S, proc))

    def go_on(proc) -> None:
        while thaw:
            at, frozen = thaw.pop()
            time.sleep(max(0.0, at - time.monotonic()))
            frozen.send_signal(signal.SIGCONT)
        time.sleep(1.0)

    return strike_all(ground, times, "chaos-worker-freeze", "SIGSTOP 20 s", stop, go_on)


def strike_all(ground: Ground, times: int, name: str, what: str, strike, after) -> bool:
    rng, numbers, rows, faults = random.Random(3), {}, [], 0
    for stage in ("stt", "llm", "tts"):
        ended: dict[str, int] = {}
        seconds, wrong = [], []
        for i in range(times):
            refill(ground, stage)
            wait = {"stt": rng.uniform(0.0, 0.05), "llm": rng.uniform(0.0, 0.05), "tts": rng.uniform(0.0, 1.5)}[stage]
            status, took, bad = asyncio.run(turn(ground, stage, wait, lambda: strike(holder(ground, stage))))
            after(None)
            ended[status] = ended.get(status, 0) + 1
            seconds.append(took)
            wrong += [f"{stage} {i + 1}: {b}" for b in bad]
            print(f"{what} {stage} {i + 1}/{times}: {status} after {took:.1f} s {'; '.join(bad)}", flush=True)
        faults += len(wrong) + ended.get("hung", 0)
        rows += [(f"{what} of a {stage} worker: how turns ended", ", ".join(f"{n} {s}" for s, n in ended.items()), "completed or failed, 0 hung"),
                 (f"{what} of a {stage} worker: doubled or lost", str(len(wrong)), "0"),
                 (f"{what} of a {stage} worker: turn p50 / max", f"{p(seconds, 50):.1f} / {max(seconds):.1f} s", "within the deadline")]  # fmt: skip
        numbers[stage] = {"ended": ended, "seconds": seconds, "faults": wrong}
        report(name, rows, numbers)
    return not faults


