"""`python -m bench.soak [--quick] [--only NAME] [--count N] [--seconds S]`: what long use leaves behind, many sessions at once, and clients that never read.

Prints its tables and writes var/reports/soak-*.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request

import psutil
import redis

from bench.chaos.ground import ROOT, Ground, lost, p, report
from tests.e2e.client import Client
from tests.fuzzing import admitted

MB = 2**20
LEAKS = ("tasks", "files", "keys", "places", "sessions", "in_memory")  # what `look` counts and use must not leave behind
FLAT, UNMOVED = 1.05, 1.5  # how far RSS may rise, and a 99th percentile move


def rss(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / MB


def look(ground: Ground) -> dict[str, float]:
    """What the gateway and Redis hold now."""
    pid = ground.process("gateway").pid
    with urllib.request.urlopen(f"{ground.stack.base_url}/metrics", timeout=5) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if line.startswith(("voice_tasks ", "voice_sessions_in_memory "))]
    metrics = {name: float(value) for name, value in lines}
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    keys = list(client.scan_iter(count=1000))
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.ttl(key)
        lasting = [key for key, ttl in zip(keys, pipe.execute(), strict=True) if ttl == -1]
    places = sum(client.zcard(key) for key in client.scan_iter("limits:sessions:*"))
    return {"rss_mb": rss(pid), "files": psutil.Process(pid).num_fds(), "tasks": metrics["voice_tasks"], "keys": len(lasting), "places": places,
            "sessions": client.zcard("voice:sessions"), "in_memory": metrics["voice_sessions_in_memory"], "names": sorted(k.decode() for k in lasting)}  # fmt: skip


async def cycle(ground: Ground, number: int) -> None:
    async with await admitted(lambda: ground.client(ground.stack.realtime)) as client:
        await client.append(b"\0\0" * 2400)
        await client.type(f"what is {number % 10} plus {number // 10 % 10}")
        done = await client.answer(30)
        assert done["status"] == "completed", done["status_details"]


async def cycles(ground: Ground, count: int, at_once: int = 8) -> None:
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for number in left:
            await cycle(ground, number)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))


def connect_talk_close(ground: Ground, count: int, seconds: float) -> bool:
    warm = min(200, count)
    asyncio.run(cycles(ground, warm))
    time.sleep(6)
    before = look(ground)
    done, took, after, good = 0, 0.0, before, True
    while done < count:  # a report now and then
        part = min(100, count - done)
        began = time.monotonic()
        asyncio.run(cycles(ground, part))
        took, done = took + time.monotonic() - began, done + part
        if done == count:
            time.sleep(6)
        after = look(ground)
        print(f"{done}/{count}: {after['rss_mb']:.1f} MB, {after['files']} files, {after['tasks']:.0f} tasks", flush=True)
        good = tell_cycles(before, after, done, warm, took, show=done == count)
    return good


def tell_cycles(before: dict, after: dict, count: int, warm: int, took: float, show: bool) -> bool:
    growth = (after["rss_mb"] / before["rss_mb"] - 1) * 100
    grown = {n: after[n] - before[n] for n in LEAKS}
    rows = [(f"{count} connect-talk-close cycles (after {warm}), {count / took:.1f} a second: RSS", f"{before['rss_mb']:.1f} -> {after['rss_mb']:.1f} MB, "
             f"{growth:+.1f} %", "<= +5 %"), ("leaked tasks, files, keys without expiry, places, sessions, ended sessions in memory",
             ", ".join(f"{int(n)}" for n in grown.values()), "0")]  # fmt: skip
    new = sorted(set(after["names"]) - set(before["names"]))
    report("soak-cycles", rows, {"before": before, "after": after, "new_keys": new}, show)
    return growth <= 5 and not any(n > 0 for n in grown.values())


async def hundred_sessions(ground: Ground, sessions: int, seconds: float) -> tuple[dict[str, int], list[str]]:
    """Text turns of sessions whose order and models are checked, beside the streams of bench.load."""
    faults, counts, missing = [], {"answers": 0}, {}

    async def live(number: int) -> None:
        async with await admitted(lambda: ground.client(ground.stack.realtime)) as client:
            until = time.monotonic() + seconds
            await asyncio.sleep(number / sessions * 10)
            while time.monotonic() < until:
                await client.type(f"what is {number % 10} plus 2", output_modalities=["text"])
                done = await client.answer(30)
                if done["status"] != "completed":
                    faults.append(str(done["status_details"]))
                counts["answers"] += 1
                await asyncio.sleep(10)
            client.order.finished()
            for what, n in (await lost(ground, client)).items():
                missing[what] = missing.get(what, 0) + n

    results = await asyncio.gather(*(live(n) for n in range(sessions)), return_exceptions=True)
    return counts | missing, faults + [repr(r)[:300] for r in results if isinstance(r, BaseException)]


def load(url: str, sessions: int, seconds: float, pid: int, *how: str) -> tuple[float, dict, list[float]]:
    """(CPU ms a session-second, what bench.load says, RSS in MB every 5 s) of sessions that stream."""
    command = [sys.executable, "-m", "bench.load", url, str(sessions), str(seconds), "40", "echo", *how]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begin\n"
        started, times = psutil.Process(pid).cpu_times(), []
        until = time.monotonic() + seconds - 3
        while time.monotonic() < until:
            times.append(rss(pid))
            time.sleep(5)
        assert process.stdout.readline() == "end\n"
        ended = psutil.Process(pid).cpu_times()
        spent = ended.user + ended.system - started.user - started.system
        return spent * 1000 / (sessions * seconds), json.loads(process.stdout.read()), times


def hundred(ground: Ground, sessions: int, seconds: float) -> bool:
    from apps.common.launch import processes
    from apps.common.launch.servers import free_port

    os.environ["VOICE_API_KEY"] = ground.key
    port = free_port()
    bare = ground.stack.run(processes.Child("bare", (sys.executable, "-m", "bench.bare_server", str(port))))
    time.sleep(3)
    bare_url, gateway = f"ws://127.0.0.1:{port}", ground.process("gateway").pid
    floor, _, _ = load(bare_url, sessions, max(10, seconds / 5), bare.pid)
    silent_floor, _, _ = load(bare_url, sessions, max(10, seconds / 10), bare.pid, "silence")
    ground.stack.end("bare")
    silent_cpu, _, _ = load(ground.stack.realtime, sessions, max(10, seconds / 10), gateway, "silence")
    cpu, told, memory = load(ground.stack.realtime, sessions, seconds, gateway)
    echoes, utterances = told["echoes"], told["utterances"]
    flat = memory[len(memory) // 4 :] or memory
    counts, faults = asyncio.run(hundred_sessions(ground, sessions // 2, max(15, seconds / 5)))
    faults += told["faults"] + [f"{n} utterances of {wanted}" for n, wanted in zip(utterances, told["spoken"], strict=True) if n < wanted]
    rows = [(f"{sessions} live sessions, {seconds:.0f} s: echo p50 / p99", f"{p(echoes, 50):.1f} / {p(echoes, 99):.1f} ms", "p99 <= 50 ms"),
            ("CPU a session-second against the bare server", f"{cpu:.2f} / {floor:.2f} ms, {cpu / floor:.2f}x", "<= 0.85x"),
            ("  the same while nobody speaks", f"{silent_cpu:.2f} / {silent_floor:.2f} ms, {silent_cpu / silent_floor:.2f}x", ""),
            ("RSS from the first quarter on", f"{flat[0]:.0f} -> {flat[-1]:.0f} MB", "flat"),
            ("lost, doubled, reordered", f"{len(faults)} faults in {sum(utterances)} utterances, then {counts}", "0")]  # fmt: skip
    report("soak-hundred", rows, {"echoes_p99": p(echoes, 99), "cpu": cpu, "bare": floor, "silence": [silent_cpu, silent_floor], "rss": memory,
                                    "faults": faults, "counts": counts, "utterances": utterances})  # fmt: skip
    return p(echoes, 99) <= 50 and cpu / floor <= 0.85 and flat[-1] <= FLAT * flat[0] and not faults


async def silent(ground: Ground, count: int, seconds: float) -> tuple[list[float], list[float], float, float]:
    """(echoes before, echoes beside clients that never read, RSS before, highest RSS)."""
    pid = ground.process("gateway").pid

    async def echoes(for_s: float) -> list[float]:
        times = []
        async with Client(ground.stack.realtime, ground.key) as client:
            until = time.monotonic() + for_s
            while time.monotonic() < until:
                began = time.monotonic()
                await client.send("conversation.item.retrieve", item_id="none")
                await client.error()
                times.append((time.monotonic() - began) * 1000)
                await asyncio.sleep(0.05)
        return times

    before, base = await echoes(seconds), rss(pid)
    command = [sys.executable, "-m", "bench.silent", ground.stack.realtime, str(count), str(seconds)]
    readers = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=os.environ | {"VOICE_API_KEY": ground.key})
    highest = base

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, rss(pid))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    beside = await echoes(seconds)
    watching.cancel()
    await readers.wait()
    return before, beside, base, highest


def never_readers(ground: Ground, count: int, seconds: float) -> bool:
    before, beside, base, highest = asyncio.run(silent(ground, count, seconds))
    rows = [(f"{count} clients that never read: RSS", f"{base:.0f} -> {highest:.0f} MB, {highest - base:+.0f} MB", "<= +200 MB"),
            ("echo p50 / p99 of others, before", f"{p(before, 50):.1f} / {p(before, 99):.1f} ms", ""),
            ("echo p50 / p99 of others, beside them", f"{p(beside, 50):.1f} / {p(beside, 99):.1f} ms", "unmoved")]  # fmt: skip
    report("soak-silent", rows, {"before": before, "beside": beside, "rss": [base, highest]})
    return highest - base <= 200 and p(beside, 99) <= UNMOVED * p(before, 99)


# name -> (what, (count, seconds) in full, and quick)
PARTS = {"cycles": (connect_talk_close, (1000, 0), (60, 0)), "hundred": (hundred, (100, 300), (20, 12)), "silent": (never_readers, (50, 40), (10, 6))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--only", default="", help=f"comma-separated parts of {', '.join(PARTS)}")
    parser.add_argument("--count", type=int, default=0, help="cycles, sessions or clients")
    parser.add_argument("--seconds", type=float, default=0, help="how long")
    options = parser.parse_args()
    from apps.tenants.context import bound_public

    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    ground, good = Ground(), True
    with bound_public():
        try:
            ground.start(gateways=1, workers=1)
            for name in names:
                print(f"== {name}", flush=True)
                run, full, quick = PARTS[name]
                count, seconds = quick if options.quick else full
                good &= run(ground, options.count or count, options.seconds or seconds)
        finally:
            ground.stop()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
