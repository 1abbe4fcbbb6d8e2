"""Seven measurements in one run, each beside what it is compared with; prints one table and writes var/reports/bench.json."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tests import conftest  # chooses ports and sets the environment before Django loads

ROOT = Path(__file__).resolve().parent.parent
BESIDE_8B = "voice to voice beside an 8B model"
SLOW = ((200, 75), (250, 75))  # ms to the first token, tokens a second


def p(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def say(text: str) -> None:
    print(text, flush=True)


class Bench:
    def __init__(self, quick: bool, only: str = ""):
        self.quick, self.only = quick, only
        self.rows: list[tuple[str, str, str, str, str]] = []

    def row(self, what: str, ours: str, theirs: str, ratio: str, bar: str) -> None:
        self.rows.append((what, ours, theirs, ratio, bar))

    def start(self) -> None:
        from apps.tenants.bootstrap import prepare
        from tests.infrastructure import Stack

        for server in (conftest._postgres, conftest._redis):
            if server is not None:
                server.start()
        prepare()
        self.stack = Stack(conftest.WORK)
        if self.only in BESIDE_8B:
            self.start_slow_model()
        self.stack.start()
        self.tenant, self.key = self.stack.new_tenant("bench")
        os.environ["VOICE_API_KEY"] = self.key

    def stop(self) -> None:
        self.stack.stop()
        for server in (conftest._postgres, conftest._redis):
            if server is not None:
                server.stop()

    def start_slow_model(self) -> None:
        """A language model that is as slow as a larger one: a stand-in in a process of its own, spoken to by URL.

        As Llama 3.1 8B by vLLM on an A100: the first token after 150-250 ms (cloudach.vercel.app/blog/sub-100ms-ttft-llama3-vllm), then
        75 a second (johnmusgrave.com/p/vllm-throughput-latency-sweep-on).
        """
        from apps.common.launch import processes
        from apps.common.launch.servers import free_port

        port = free_port()
        os.environ |= {"LLM_OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "LLM_OPENAI_API_KEY": "right"}
        self.stack.run(processes.Child("slow-model", (sys.executable, "-m", "tests.integration.openai_server", str(port))))

    # 1 voice to voice

    def bare_pipeline(self, **other):
        """The same models one after the other in this process, behind the same endpointing. `other`: stage=(engine, model)."""
        from config.workers import DEFAULTS, engine_settings
        from voice.engines import create

        engines, url = {}, os.environ.get("LLM_OPENAI_BASE_URL", "")
        settings = replace(engine_settings(), openai_base_url=url, openai_api_key=os.environ.get("LLM_OPENAI_API_KEY", ""))
        for stage, (name, model) in {**DEFAULTS, **other}.items():
            engines[stage] = create(stage, name, model, settings)
            engines[stage].load()
        return engines

    async def bare_turn(self, engines, pcm: bytes, end: int) -> float:
        """ms from the end of speech to the first audio byte."""
        import numpy as np
        import soxr

        from voice.audio.detector import Detector
        from voice.core.chunker import Chunker
        from voice.core.setters import SERVER_VAD
        from voice.engines.base import CompletionRequest, TextDelta

        detector, began, whole, start = Detector(SERVER_VAD), time.monotonic(), pcm + bytes(72000), 0
        for at in range(0, len(whole), 1920):
            edges = detector.push(whole[at : at + 1920])
            if edges and edges[0].kind == "started":
                start = max(0, edges[0].at_ms - 300) * 48
            if edges and edges[-1].kind == "stopped":
                heard = np.frombuffer(whole[start : at + 1920], "<i2")
                text = list(engines["stt"].transcribe(soxr.resample(heard, 24000, 16000).astype("<i2").tobytes()))[-1].text
                messages = [{"role": "system", "content": "You are a friendly voice assistant. Answer briefly."}, {"role": "user", "content": text}]
                chunker, sentence = Chunker(), ""
                for found in engines["llm"].complete(CompletionRequest(messages)):
                    if isinstance(found, TextDelta) and not sentence:
                        sentence = next(iter(chunker.feed(found.text)), "")
                next(engines["tts"].synthesize(sentence or chunker.flush()[0]))
                return (time.monotonic() - began - end / 48000) * 1000
            await asyncio.sleep(max(0, began + (at + 1920) / 48000 - time.monotonic()))
        raise RuntimeError("no end of speech found")

    async def voice_to_voice(self) -> None:
        """Answers begun ahead, the same begun at the end of the turn, and the bare pipeline, turn about."""
        self.compare_turns(await self.turns(self.bare_pipeline(), {}), "embedded models")

    async def beside_8b(self) -> None:
        """The same with a language model that takes its time: what is hidden in the silence shows where there is something to hide."""
        for first_ms, per_s in SLOW:
            model = f"as-{first_ms}ms-{per_s}tps"
            found = await self.turns(self.bare_pipeline(llm=("openai", model)), {"llm_engine": "openai", "llm_model": model})
            self.compare_turns(found, f"language model by URL as fast as one of 8B (stand-in: {first_ms} ms, {per_s} tokens/s)")

    async def turns(self, engines, fields: dict) -> tuple[list, dict]:
        """(ms of the bare pipeline, {ahead, waiting, semantic: results})."""
        import numpy as np

        from voice.gateway.talk import Talk, read_wav

        pcm = read_wav(ROOT / "samples" / "question.wav")
        loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2")) > 200)
        end = (int(loud[-1]) + 1) * 2
        keys = {"ahead": await asyncio.to_thread(self.new_caller, "ahead", **fields),
                "waiting": await asyncio.to_thread(self.new_caller, "waiting", turn_detection={"preemptive": False}, **fields),
                "semantic": await asyncio.to_thread(self.new_caller, "semantic", turn_detection={"type": "semantic_vad"}, **fields)}  # fmt: skip
        bare, ours = [], {name: [] for name in keys}
        for _ in range(5 if self.quick else 15):
            bare.append(await self.bare_turn(engines, pcm, end))
            for name, key in keys.items():
                ours[name].append(await Talk(self.stack.realtime, key, lambda text: None).run(pcm, None, None, None))
        return bare, ours

    def compare_turns(self, found: tuple[list, dict], what: str) -> None:
        bare, ours = found
        b, wait_ms = statistics.median(bare), 500
        for name, bar in (("ahead", "<= 0.6x"), ("waiting", "<= 1.10x + 10 ms")):
            a = statistics.median(r.first_audio_ms for r in ours[name])
            self.row(f"voice to voice, {what}, answer begun {name}, p50", f"{a:.0f} ms", f"{b:.0f} ms (bare pipeline)",
                     f"{a / b:.3f}x, {a - b:+.1f} ms", bar)  # fmt: skip
            a = statistics.median(r.first_audio_ms - r.endpoint_ms for r in ours[name])
            self.row(f"  of which after the end of the turn was certain, {name}, p50", f"{a:.1f} ms", f"{b - wait_ms:.0f} ms (bare pipeline)",
                     f"{a / (b - wait_ms):.3f}x", "<= 30 ms" if name == "ahead" else "")  # fmt: skip
        # where a model decides that the user has finished, the bare pipeline is given the same moment to begin at
        a, ends_ms = (statistics.median(getattr(r, name) for r in ours["semantic"]) for name in ("first_audio_ms", "endpoint_ms"))
        same = b - wait_ms + ends_ms
        self.row(f"voice to voice, {what}, semantic_vad, answer begun ahead, p50", f"{a:.0f} ms",
                 f"{same:.0f} ms (bare pipeline)", f"{a / same:.3f}x, {a - same:+.1f} ms", "<= 0.6x")  # fmt: skip
        self.row("  of which after the end of the turn was certain, p50", f"{a - ends_ms:.1f} ms", f"{b - wait_ms:.0f} ms (bare pipeline)", "", "")

    def turn_end(self) -> None:
        """semantic_vad on made utterances with pauses inside, none of them seen in training."""
        from bench.turn_end import measure
        from config.workers import DEFAULTS, engine_settings
        from voice.engines import create

        engine = create("stt", *DEFAULTS["stt"], engine_settings())
        engine.load()
        count = 40 if self.quick else 200
        for eagerness in ("auto", "high", "low"):
            found = measure(count, 2026, engine, eagerness)
            bars = ("<= 2 %", "<= 300 ms") if eagerness == "auto" else ("", "")
            self.row(f"end of turn, {count} utterances with {found.pauses} pauses, {eagerness}: cut off", f"{len(found.cut_off)} = {len(found.cut_off) / count:.1%}",
                     "", "", bars[0])  # fmt: skip
            self.row(f"  wait after the true end, {eagerness}, p50 / p95", f"{found.p50_ms:.0f} / {p(found.waits_ms, 95):.0f} ms", "", "", bars[1])

    def new_caller(self, slug: str, **fields) -> str:
        """A key of a workspace whose agent is like this."""
        from apps.agents.models import Agent
        from apps.agents.services import agent_publish, draft_save
        from apps.common.actors import SYSTEM
        from apps.tenants.context import bound

        tenant, key = self.stack.new_tenant(slug)
        with bound(tenant):
            agent = Agent.objects.first()
            draft_save(agent=agent, actor=SYSTEM, tool_hosts=[], **fields)
            agent_publish(agent=agent, actor=SYSTEM)
        return key

    # 2 gateway CPU

    def cpu(self, pid: int) -> float:
        import psutil

        times = psutil.Process(pid).cpu_times()
        return times.user + times.system

    def load(self, url: str, pid: int, sessions: int, seconds: float, chunk_ms: int, echo: bool = False) -> tuple[float, list[float]]:
        """(CPU ms per session-second of process `pid`, echo times)."""
        command = [sys.executable, "-m", "bench.load", url, str(sessions), str(seconds), str(chunk_ms), *(["echo"] if echo else [])]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "begin\n"
            before = self.cpu(pid)
            assert process.stdout.readline() == "end\n"
            spent = self.cpu(pid) - before
            return spent * 1000 / (sessions * seconds), json.loads(process.stdout.read())["echoes"]

    def gateway_cpu(self) -> None:
        from apps.common.launch import processes
        from apps.common.launch.servers import free_port

        port = free_port()
        bare = self.stack.run(processes.Child("bare", (sys.executable, "-m", "bench.bare_server", str(port))))
        plain = processes.gateway(free_port())
        whole = self.stack.run(processes.Child("gateway-no-gate", plain.command), VAD_GATE_DB="0")
        self.stack.wait(f"http://127.0.0.1:{plain.port}/health")
        targets = {"bare": (f"ws://127.0.0.1:{port}", bare.pid), "same VAD": (f"ws://127.0.0.1:{plain.port}/v1/realtime", whole.pid),
                   "energy gate": (self.stack.realtime, self.stack.processes["gateway"].pid)}  # fmt: skip
        for chunk_ms in (20, 100):
            found: dict[str, list[float]] = {name: [] for name in targets}
            for _ in range(1 if self.quick else 3):
                for name, (url, pid) in targets.items():
                    found[name].append(self.load(url, pid, 20, 5 if self.quick else 10, chunk_ms)[0])
            ms = {name: statistics.median(values) for name, values in found.items()}
            for name, bar in (("same VAD", "<= 1.1x"), ("energy gate", "<= 0.85x")):
                self.row(f"gateway CPU a session-second, {chunk_ms} ms chunks, {name}", f"{ms[name]:.2f} ms", f"{ms['bare']:.2f} ms (bare server)",
                         f"{ms[name] / ms['bare']:.2f}x", bar)  # fmt: skip
        self.stack.end("bare")
        self.stack.end("gateway-no-gate")

    # 3 and 4, on the bus

    async def hop_and_cancel(self) -> None:
        import redis.asyncio
        from django.conf import settings

        from config import workers
        from voice.bus.redis import RedisGatewayBus
        from voice.core.jobs import ChunkKind, Feed, Job, Stage

        bus = RedisGatewayBus(settings.CONNECT_REDIS_ASYNC, "bench", workers.message)
        await bus.start()
        client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
        chunks = bus.chunks()
        count = 30 if self.quick else 200
        started, over, plain, idle = [], [], [], []
        for i in range(count):
            job = Job(f"job_hop{i}", 1, Stage.LLM, "sess_bench", *workers.DEFAULTS["llm"], 10000, {
                "messages": [{"role": "user", "content": "hello"}], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
                "max_tokens": 32, "temperature": 0.0, "prefix": ""})  # fmt: skip
            began, first, at = time.monotonic(), 0.0, 0.0
            await bus.open(job)
            async for chunk in chunks:
                at = time.monotonic()
                if chunk.kind is ChunkKind.STARTED:
                    started.append((at - began) * 1000)
                elif chunk.kind is ChunkKind.TEXT and not first:
                    first = (at - began) * 1000
                elif chunk.kind is ChunkKind.DONE:
                    over.append(first - chunk.meta["first_ms"])
                    break
            began = time.monotonic()
            await client.xadd("bench:a", {"x": "1"}, maxlen=10)
            await client.xread({"bench:a": "0"}, count=1)
            await client.xadd("bench:b", {"x": "1"}, maxlen=10)
            await client.xread({"bench:b": "0"}, count=1)
            plain.append((time.monotonic() - began) * 1000)
            job = Job(f"job_cancel{i}", 1, Stage.TTS, "sess_bench", *workers.DEFAULTS["tts"], 60000,
                      {"voice": "alloy", "speed": 1.0, "language": "en", "rate_hz": 24000})  # fmt: skip
            await bus.open(job, (Feed(0, "Tell me a very long story about a dragon. " * (1 if i % 2 else 30)),))
            async for chunk in chunks:
                if chunk.kind is ChunkKind.AUDIO and chunk.job == job.id:
                    break
            began = time.monotonic()
            await bus.cancel(job, "client_cancelled")
            async for chunk in chunks:
                if chunk.kind is ChunkKind.FAILED and chunk.job == job.id:
                    idle.append((time.monotonic() - began) * 1000)
                    break
        await client.aclose()
        await bus.close()
        self.row("job opened to its first chunk, p50 / p95", f"{p(started, 50):.2f} / {p(started, 95):.2f} ms", f"{p(plain, 50):.2f} / {p(plain, 95):.2f} ms "
                 "(4 plain Redis calls)", f"{p(started, 50) / p(plain, 50):.1f}x", "<= 3 / 5 ms")  # fmt: skip
        self.row("job opened to first word, over the engine's own time, p50 / p95", f"{p(over, 50):.2f} / {p(over, 95):.2f} ms", "", "", "<= 3 / 5 ms")
        self.row("cancel to worker idle, p50 / p95", f"{p(idle, 50):.1f} / {p(idle, 95):.1f} ms", "", "", "p95 <= 50 ms")

    async def cancel(self) -> None:
        """A client that only notes when frames come: checking them would take longer than the cancel."""
        from websockets.asyncio.client import connect

        late: list[float] = []
        headers = {"Authorization": f"Bearer {self.key}"}
        async with connect(self.stack.realtime, additional_headers=headers, compression=None) as socket:
            audio, begun, ended = [0.0], asyncio.Event(), asyncio.Event()

            async def read() -> None:
                async for text in socket:
                    if '"response.output_audio.delta"' in text:
                        audio[0] = time.monotonic()
                        begun.set()
                    elif '"response.done"' in text:
                        ended.set()

            reader = asyncio.create_task(read())
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "tell me a story"}]}
            for i in range(10 if self.quick else 60):
                begun.clear(), ended.clear()
                await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
                await socket.send('{"type": "response.create"}')
                await asyncio.wait_for(begun.wait(), 10)
                await asyncio.sleep(0.02 + 0.01 * (i % 9))
                sent = time.monotonic()
                await socket.send('{"type": "response.cancel"}')
                await asyncio.wait_for(ended.wait(), 10)
                late.append(max(0.0, (audio[0] - sent) * 1000))
            reader.cancel()
        self.row("cancel to the last audio byte, p50 / p95", f"{p(late, 50):.1f} / {p(late, 95):.1f} ms", "", "", "p95 <= 20 ms")

    # 5 sessions

    def sessions(self) -> None:
        pid = self.stack.processes["gateway"].pid
        for count in (25, 50, 100):
            cpu, echoes = self.load(self.stack.realtime, pid, count, 5 if self.quick else 15, 40, echo=True)
            self.row(f"{count} live sessions, echo p50 / p99", f"{p(echoes, 50):.1f} / {p(echoes, 99):.1f} ms", f"{cpu * count / 10:.0f} % of a core", "", "")

    # 6 tenants

    def tenants(self) -> None:
        """200 workspaces: what one more costs to make, and to connect to, beside the first five."""
        from tests.e2e.client import Client

        async def connecting(own) -> float:
            began = time.perf_counter()
            client = await Client.connect(self.stack.realtime, own[1])
            spent = (time.perf_counter() - began) * 1000
            await client.close()
            return spent

        async def measure(owns) -> float:
            for own in owns[:2]:
                await connecting(own)
            return statistics.median([await connecting(owns[i % len(owns)]) for i in range(60)])

        made, times = [], []
        for count in range(20 if self.quick else 200):
            began = time.perf_counter()
            made.append(self.stack.new_tenant(f"many{count}"))
            times.append(time.perf_counter() - began)
            if count == 4:
                few = asyncio.run(measure(made))
        many = asyncio.run(measure(made))
        self.row(f"making {len(made)} workspaces, each p50 / p95", f"{p(times, 50):.2f} / {p(times, 95):.2f} s", "", "", "p95 <= 2 s")
        self.row(f"connecting with {len(made)} workspaces", f"{many:.1f} ms", f"{few:.1f} ms (with 5)", f"{many / few:.2f}x", "<= 1.1x")

    # 7 admission

    def admission(self) -> None:
        from bench.admission import measure
        from tests.fuzzing import workspace

        self.rows += measure(self.stack, workspace(self.stack), self.quick)

    def run(self) -> int:
        say("starting the product …")
        self.start()
        try:
            for name, step in (("voice to voice", self.voice_to_voice), (BESIDE_8B, self.beside_8b), ("turn end", self.turn_end),
                               ("gateway CPU", self.gateway_cpu), ("worker hop and cancel", self.hop_and_cancel), ("cancel", self.cancel), ("sessions", self.sessions), ("tenants", self.tenants), ("admission", self.admission)):  # fmt: skip
                if self.only not in name:
                    continue
                say(f"{name} …")
                done = step()
                if done is not None:
                    asyncio.run(done)
        finally:
            self.stop()
        widths = [max(len(row[i]) for row in self.rows) for i in range(5)]
        for row in [("what", "ours", "compared with", "ratio", "bar"), *self.rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        report = ROOT / "var" / "reports" / "bench.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps([dict(zip(("what", "ours", "compared_with", "ratio", "bar"), row, strict=True)) for row in self.rows], indent=1))
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    parser.add_argument("--only", default="", help="measurements whose name holds this")
    options = parser.parse_args()
    from apps.tenants.context import bound_public

    with bound_public():
        sys.exit(Bench(options.quick, options.only).run())


if __name__ == "__main__":
    main()
