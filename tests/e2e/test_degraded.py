"""Each part of the product unavailable (protocol section 9): what callers hear, what those are told who asked, and that it ends by itself.

A gateway and workers of its own, on a Redis of its own; PostgreSQL by a cable that can be cut; a language model by URL that can fail or fall silent.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from asgiref.sync import sync_to_async
from channels_redis.pubsub import RedisPubSubChannelLayer

from apps.agents.services import agent_create
from apps.common.actors import SYSTEM
from apps.common.launch import processes
from apps.common.launch.servers import Redis, free_port, new_secret
from apps.tenants.context import bound
from apps.usage.models import UsageEntry
from tests.cable import Cable
from tests.e2e.client import Client
from tests.infrastructure import Stack

pytestmark = pytest.mark.timeout(180)
TEXT = {"output_modalities": ["text"]}
OWN_MODEL = {"engine": "ctranslate2", "model": "embedded-closed-vocab"}


class ModelServer:
    """A stand-in for a language model's server. `mode`: good, broken (500), silent (takes the request and says nothing)."""

    def __init__(self) -> None:
        self.mode, outer = "good", self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if outer.mode == "silent":
                    time.sleep(8)
                    return
                self.send_response(200 if outer.mode == "good" else 500)
                self.end_headers()
                for delta in ({"content": "I am back."}, {}) if outer.mode == "good" else ():
                    self.wfile.write(f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': None if delta else 'stop'}]})}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n" if outer.mode == "good" else b"{}")

            def log_message(self, *arguments) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class WeakStack(Stack):
    """`redis`, `cable` and `model` can be taken away from it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.external = False
        self.redis = Redis(folder, free_port(), new_secret(), folder / "weak-redis.log")
        self.redis.start()
        database = urlsplit(os.environ["DATABASE_URL"])
        self.cable, self.model = Cable(database.port), ModelServer()
        self.database_url = os.environ["DATABASE_URL"].replace(f":{database.port}/", f":{self.cable.port}/")

    def run(self, child, **environment: str):
        return super().run(child, REDIS_URL=self.redis.url, DATABASE_URL=self.database_url, LLM_OPENAI_BASE_URL=self.model.url, START_DEADLINE_MS="500",
                           WAIT_DEADLINE_MS="2000", **environment)  # fmt: skip

    def wait_workers(self, stage: str, count: int) -> None:
        until = time.monotonic() + 60
        while len(list(self.redis._client().scan_iter(f"voice:worker:{stage}:*", count=1000))) < count and time.monotonic() < until:
            time.sleep(0.1)

    def worker_of(self, stage: str) -> str:
        return next(name for name in self.processes if name.startswith(f"{stage}-"))


@pytest.fixture(scope="module")
def weak(database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weak")
    folder.chmod(0o755)
    running = WeakStack(folder)
    try:
        running.start()
        running.tenant, running.key = running.new_tenant("weak")
        yield running
    finally:
        running.stop()
        running.redis.stop()
        running.cable.stop()
        running.model.server.shutdown()


def agent(weak, **fields) -> str:
    with bound(weak.tenant):
        return agent_create(name="Weak", actor=SYSTEM, instructions="Be brief.", **fields).id


async def told(client: Client, kind: str, component: str, timeout_s: float = 20) -> dict:
    """The news of a component, sent already or soon."""
    for event in client.events:
        if event["type"] == kind and event["component"] == component:
            return event
    return await client.wait(kind, timeout_s, lambda e: e["component"] == component)


async def ask(client: Client, text: str = "what is seven plus five", **response) -> tuple[dict, float]:
    """(the response, seconds to its first word)."""
    began, seen = time.monotonic(), len(client.events)
    await client.type(text, **response)
    done = await client.answer()
    first = next((at for e, at in zip(client.events[seen:], client.times[seen:], strict=True) if e["type"].endswith(("text.delta", "transcript.delta"))), 0.0)
    return done, first - began


async def test_a_silent_language_model_is_replaced_within_five_seconds_and_then_not_asked_until_it_is_back(weak):
    name = await sync_to_async(agent)(weak, llm_engine="openai", llm_model="primary", fallbacks={"llm": OWN_MODEL})
    weak.model.mode = "silent"
    clients = [await Client.connect(weak.realtime, weak.key, f"assistant={name}&extensions=1") for _ in range(3)]
    for done, first_s in await asyncio.gather(*(ask(c, **TEXT) for c in clients)):
        assert done["status"] == "completed" and first_s < 5
    client = clients[0]
    degraded = await told(client, "ext.degraded", "llm")
    assert (degraded["mode"], degraded["fallback"]) == ("fallback", "ctranslate2") and degraded["retry_after_ms"] <= 5000
    weak.model.mode = "good"
    done, first_s = await ask(client, **TEXT)  # the breaker is open: nobody waits for the primary
    assert "twelve" in client.text() and first_s < 1.5
    until = time.monotonic() + 20
    while time.monotonic() < until and "I am back." not in client.text():
        await ask(client, "hello", **TEXT)
        await asyncio.sleep(0.5)
    assert "I am back." in client.text() and await told(client, "ext.recovered", "llm")
    async with Client(weak.realtime, weak.key, f"assistant={name}&extensions=1") as fresh:
        await ask(fresh, **TEXT)
        assert "ext.degraded" not in [e["type"] for e in fresh.events]
    for c in clients:
        await c.close()


async def test_without_a_language_model_an_apology_is_heard(weak):
    name = await sync_to_async(agent)(weak, llm_engine="openai", llm_model="alone")
    weak.model.mode = "broken"
    async with Client(weak.realtime, weak.key, f"assistant={name}&extensions=1") as client:
        for _ in range(3):
            done, _ = await ask(client)
            assert done["status"] == "failed" and done["status_details"]["error"]["code"] == "llm_unavailable"
        assert len(client.audio()) > 3 * 24000
        assert (await told(client, "ext.degraded", "llm"))["mode"] == "unavailable"
        async with Client(weak.realtime, weak.key, f"assistant={name}&extensions=1") as late:  # said at once to a session that begins so
            assert (await told(late, "ext.degraded", "llm", 2))["fallback"] is None
    weak.model.mode = "good"


async def test_without_speech_synthesis_the_words_come_alone(weak):
    await asyncio.to_thread(weak.end, weak.worker_of("tts"))
    async with Client(weak.realtime, weak.key, "extensions=1") as client:
        for _ in range(3):
            done, _ = await ask(client)
            assert done["status"] == "completed" and not client.audio()
            assert "twelve" in done["output"][0]["content"][0]["transcript"]
        assert (await told(client, "ext.degraded", "tts"))["mode"] == "unavailable"
        weak.start_worker("tts")  # from this thread: a child ends with the thread that started it
        await asyncio.to_thread(weak.wait_workers, "tts", 1)
        until = time.monotonic() + 20
        while not client.audio() and time.monotonic() < until:
            await ask(client, "hello")
            await asyncio.sleep(0.5)
        assert client.audio() and await told(client, "ext.recovered", "tts")


async def test_without_recognition_the_caller_is_told_aloud(weak):
    await asyncio.to_thread(weak.end, weak.worker_of("stt"))
    async with Client(weak.realtime, weak.key, "extensions=1") as client:
        await client.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
        for _ in range(3):
            await client.speak("samples/question.wav", speed=4)
            failed = await client.wait("conversation.item.input_audio_transcription.failed")
            assert failed["error"]["code"] == "stt_unavailable"
            assert (await client.answer())["status"] == "completed"
        assert len(client.audio()) > 3 * 24000
        assert (await told(client, "ext.degraded", "stt"))["mode"] == "unavailable"
        weak.start_worker("stt")
        await asyncio.to_thread(weak.wait_workers, "stt", 1)
        until = time.monotonic() + 30
        while "twelve" not in client.text() and time.monotonic() < until:
            await client.speak("samples/question.wav", speed=4)
            await client.answer()
        assert "twelve" in client.text() and await told(client, "ext.recovered", "stt")


async def test_without_redis_a_session_goes_on_from_memory(weak):
    async with Client(weak.realtime, weak.key, "extensions=1") as client:
        await ask(client, **TEXT)
        await asyncio.to_thread(weak.redis.stop)
        try:
            assert (await told(client, "ext.degraded", "state"))["mode"] == "unavailable"
            await client.send("session.update", session={"instructions": "Be kind."})
            await client.wait("session.updated", 5)
        finally:
            weak.redis.start()
        await told(client, "ext.recovered", "state")
        until = time.monotonic() + 30
        while (await ask(client, **TEXT))[0]["status"] != "completed":
            assert time.monotonic() < until
        await client.vanish()
        created = await client.resume()
        assert created["resumption"]["resumed"] is True and created["session"]["instructions"] == "Be kind."
        layer = RedisPubSubChannelLayer(hosts=[weak.redis.url], prefix="vv")  # and what the portal has to say reaches it again
        session_id = created["session"]["id"]
        until = time.monotonic() + 10
        while client.socket.close_code is None and time.monotonic() < until:
            await layer.group_send(f"session.{session_id}", {"type": "session.end", "code": "invalid_api_key", "message": "The key is no longer valid."})
            try:
                await asyncio.wait_for(client.socket.wait_closed(), 1)
            except TimeoutError:
                pass
        assert client.socket.close_code == 1008


async def test_without_the_database_what_is_used_is_kept_and_billed_later(weak):
    async with Client(weak.realtime, weak.key, "extensions=1") as client:
        await ask(client, **TEXT)
        weak.cable.cut()
        try:
            degraded = await told(client, "ext.degraded", "billing", 30)
            assert (degraded["mode"], degraded["fallback"]) == ("fallback", "journal") and degraded["since"] > 0
            done, first_s = await ask(client, **TEXT)
            assert done["status"] == "completed" and first_s < 2
        finally:
            weak.cable.mend()
        await told(client, "ext.recovered", "billing", 30)

        def billed() -> set[str]:
            with bound(weak.tenant):
                return set(UsageEntry.objects.filter(session_id=client.events[0]["session"]["id"], meter="tokens_out").values_list("turn_id", flat=True))

        until = time.monotonic() + 15
        while len(await sync_to_async(billed)()) < 2 and time.monotonic() < until:
            await asyncio.sleep(0.3)
        assert len(await sync_to_async(billed)()) == 2


async def test_without_the_detectors_model_loudness_finds_speech(weak, tmp_path):
    """A gateway whose ONNX runtime is broken."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('broken on purpose')\n")
    port = free_port()
    weak.run(processes.Child("gateway-deaf", processes.gateway(port).command), PYTHONPATH=str(tmp_path))
    await asyncio.to_thread(weak.wait, f"http://127.0.0.1:{port}/health")
    async with Client(f"ws://127.0.0.1:{port}/v1/realtime", weak.key, "extensions=1") as client:
        degraded = await told(client, "ext.degraded", "vad")
        assert (degraded["mode"], degraded["fallback"]) == ("fallback", "loudness")
        await client.speak("samples/question.wav")
        assert (await client.answer())["status"] == "completed" and "twelve" in client.text()
    await asyncio.to_thread(weak.end, "gateway-deaf")
