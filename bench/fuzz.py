"""`python -m bench.fuzz [--quick] [--count N]`: what hostile and broken clients get out of the gateway.

machine: random legal and illegal orders of events, chunks and timers on the pure core (Hypothesis) · events: mutated events over real sockets ·
noise: random bytes and damaged frames · rfc6455: byte-level cases, each with its legal answers. Prints a table, writes var/reports/fuzz.json,
exits 1 when a session died, an answer was not legal, or the gateway's log tells of an unhandled exception.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from typing import Any

from bench.surroundings import report, stack

SOCKETS = 10


def machine(steps: int) -> dict[str, Any]:
    """Hypothesis on the core. Raises what it finds."""
    from hypothesis import HealthCheck, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.unit.driver import Driver
    from tests.unit.test_core_machine import CONFIG, SessionMachine

    counted = Counter()

    def counting(name, method):
        def call(self, *arguments, **keywords):
            counted[name] += 1
            return method(self, *arguments, **keywords)

        return call

    class CountedDriver(Driver):
        send, chunk = counting("client events", Driver.send), counting("chunks", Driver.chunk)
        pass_time, audio = counting("waits", Driver.pass_time), counting("audio", Driver.audio)

    class Machine(SessionMachine):
        def __init__(self):
            super().__init__()
            self.d = CountedDriver(**CONFIG)

    while counted.total() < steps:
        left = max(20, (steps - counted.total()) // 25)
        run_state_machine_as_test(Machine, settings=settings(max_examples=min(left, 2000), stateful_step_count=50, deadline=None, database=None,
                                                             suppress_health_check=list(HealthCheck)))  # fmt: skip
    return dict(counted)


async def sockets(running, key: str, events: int, noises: int) -> dict[str, Any]:
    from tests.e2e.client import Client
    from tests.fuzzing import attack, faults, noise, size
    from tests.rfc6455 import cases, run

    log = running.folder / "gateway.log"
    offset, host, port = size(log), "127.0.0.1", running.gateway_port
    began = time.monotonic()
    answers = sum(await asyncio.gather(*(attack(lambda: Client(running.realtime, key), events // SOCKETS, seed) for seed in range(SOCKETS))), Counter())
    events_s = time.monotonic() - began
    ended = Counter()
    for first in range(0, noises, SOCKETS):
        ended.update(await asyncio.gather(*(noise(host, port, key, seed) for seed in range(first, min(first + SOCKETS, noises)))))
    wrong, all_cases = [], cases()
    for first in range(0, len(all_cases), SOCKETS):
        batch = all_cases[first : first + SOCKETS]
        for case, seen in zip(batch, await asyncio.gather(*(run(c, host, port, key) for c in batch)), strict=True):
            if seen not in case.legal:
                wrong.append({"case": case.name, "legal": case.legal, "seen": seen})
    async with Client(running.realtime, key) as client:  # and the gateway still answers
        await client.type("What is seven plus five?", output_modalities=["text"])
        assert (await client.answer())["status"] == "completed"
    return {"mutated_events": events, "answers": dict(answers), "events_per_s": round(events / events_s), "noise": noises, "noise_ended": dict(ended),
            "rfc6455_cases": len(all_cases), "rfc6455_wrong": wrong, "unhandled": faults(log, offset),
            "gateway_alive": running.processes["gateway"].poll() is None}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--count", type=int, default=0, help="mutated events on sockets")
    options = parser.parse_args()
    from tests.fuzzing import workspace

    share = 10 if options.quick else 1
    found: dict[str, Any] = {"machine": machine(50_000 // share)}
    with stack() as running:
        key = workspace(running)
        found |= asyncio.run(sockets(running, key, options.count or 100_000 // share, 1000 // share))
    rows = (
        ("core: events, chunks, waits, audio (Hypothesis)", sum(found["machine"].values())), ("mutated events on sockets", found["mutated_events"]),
        ("  answered by frames", sum(found["answers"].values())), ("noise on sockets", found["noise"]), ("RFC 6455 cases", found["rfc6455_cases"]),
        ("  answered otherwise than legal", len(found["rfc6455_wrong"])), ("unhandled exceptions in the log", len(found["unhandled"])),
        ("crashes", int(not found["gateway_alive"])),
    )  # fmt: skip
    for what, value in rows:
        print(f"{what:50} {value:>9,}")
    for line in [*found["rfc6455_wrong"], *found["unhandled"]][:40]:
        print(line)
    report("fuzz", found)
    return 1 if found["rfc6455_wrong"] or found["unhandled"] or not found["gateway_alive"] else 0


if __name__ == "__main__":
    sys.exit(main())
