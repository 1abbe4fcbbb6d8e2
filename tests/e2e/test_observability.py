"""What an operator sees of a turn: spans at a collector, histograms, log lines; and what nobody may see: keys and words."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.e2e.client import Client


class SpanReceiver:
    """Stands in for an OpenTelemetry collector: takes OTLP/HTTP on a socket of its own and keeps the spans."""

    def __init__(self) -> None:
        self.spans: dict[bytes, object] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        receiver.spans |= {span.span_id: span for span in scope.spans}
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    async def wait(self, name: str, timeout_s: float = 15):
        for _ in range(int(timeout_s * 20)):
            if found := [span for span in self.spans.values() if span.name == name]:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"no span {name!r}; there are {sorted(span.name for span in self.spans.values())}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def observed(stack):
    """(address of a gateway that logs everything and traces, where its spans arrive, its log file)"""
    receiver = SpanReceiver()
    url, _ = stack.extra_gateway(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, LOG_LEVEL="DEBUG")
    name = next(reversed(stack.processes))
    yield url, receiver, stack.folder / f"{name}.log"
    stack.end(name)
    receiver.close()


def http_of(url: str) -> str:
    return url.replace("ws://", "http://").removesuffix("/v1/realtime")


async def test_a_turn_is_a_tree_of_spans_and_fills_the_histograms(observed, caller):
    url, receiver, _ = observed
    async with Client(url, caller[1]) as client:
        session_id = client.events[0]["session"]["id"]
        await client.speak("samples/question.wav")
        done = await client.wait("response.done")
        assert done["response"]["status"] == "completed"
    [session] = await receiver.wait("session")
    turn = next(span for span in receiver.spans.values() if span.name == "turn" and span.parent_span_id == session.span_id)
    stages = {span.name: span for span in receiver.spans.values() if span.parent_span_id == turn.span_id}
    assert {"endpointing", "stt", "llm", "tts"} <= set(stages)
    attributes = {a.key: a.value.string_value for a in turn.attributes}
    assert attributes["vivavoce.session"] == session_id and attributes["vivavoce.status"] == "completed"
    assert attributes["vivavoce.response"] == done["response"]["id"]
    assert len({span.trace_id for span in receiver.spans.values() if span.parent_span_id in (session.span_id, turn.span_id)}) == 1
    ordered = sorted(stages.values(), key=lambda span: span.start_time_unix_nano)
    for before, after in zip(ordered, ordered[1:], strict=False):
        assert after.start_time_unix_nano >= before.end_time_unix_nano - 1000, (before.name, after.name)  # one after the other, no gap
        if before.name in ("endpointing", "stt", "llm"):
            assert after.start_time_unix_nano - before.end_time_unix_nano < 1_000_000
    for stage in ("stt", "llm"):
        [engine] = await receiver.wait(f"{stage} engine")
        assert engine.end_time_unix_nano > engine.start_time_unix_nano
    with urllib.request.urlopen(f"{http_of(url)}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    for name in ("voice_vad", "voice_stt", "voice_llm_first_token", "voice_tts_first_byte", "voice_first_audio"):
        assert float(re.search(rf"^{name}_seconds_count (\S+)", text, re.MULTILINE).group(1)) >= 1, name
    assert re.search(r'^voice_queue_depth\{queue="stt"\} ', text, re.MULTILINE) and re.search(r'^voice_workers\{stage="tts"\} [1-9]', text, re.MULTILINE)


def canary() -> str:
    return f"cnry{secrets.token_hex(16)}"


async def refused(url: str, **options) -> None:
    with pytest.raises(InvalidStatus):
        async with connect(url, compression=None, **options):
            pass


async def plant_keys(url: str) -> list[str]:
    """Wrong keys by every door a key can come through."""
    planted = []
    for i in range(20):
        secret = f"{'vv' if i % 2 else 'ek'}_{secrets.token_hex(4)}{canary()}{secrets.token_hex(8)}"
        planted += [secret, f"q{secret}", f"s{secret}", f"h{secret}"]
        await refused(url, additional_headers={"Authorization": f"Bearer {secret}"})
        await refused(f"{url}?access_token=q{secret}")
        await refused(url, subprotocols=["realtime", f"openai-insecure-api-key.s{secret}"])
        async with httpx.AsyncClient() as http:
            await http.post(f"{http_of(url)}/v1/realtime/client_secrets", headers={"Authorization": f"Bearer h{secret}"}, json={})
    return planted


async def plant_words(url: str, key: str) -> list[str]:
    """Words in every field that can hold some, well and badly formed."""
    planted: list[str] = []

    def word() -> str:
        planted.append(canary())
        return planted[-1]

    async with connect(url, additional_headers={"Authorization": f"Bearer {key}"}, compression=None) as socket:
        for i in range(15):
            tool = {"type": "function", "name": f"f{i}", "description": word(), "parameters": {"type": "object", "properties": {word(): {"type": "string"}}}}
            for event in (
                {"type": "session.update", "session": {"type": "realtime", "instructions": word(), "tools": [tool]}},
                {"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"voice": word()}}}},
                {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": word()}]}},
                {"type": "conversation.item.retrieve", "item_id": word()},
                {"type": word()},
            ):
                await socket.send(json.dumps(event))
            await socket.send(word())
        await socket.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"], "metadata": {"note": word()}}}))
        async with asyncio.timeout(30):
            async for frame in socket:
                if json.loads(frame)["type"] == "response.done":
                    break
    return planted


async def test_two_hundred_canaries_are_in_no_log(stack, observed, caller):
    url, receiver, path = observed
    planted = [*await plant_keys(url), *await plant_words(url, caller[1])]
    assert len(planted) >= 200
    async with Client(url, caller[1]) as client:  # and what is said aloud
        await client.speak("samples/question.wav")
        await client.wait("response.done")
    await asyncio.sleep(0.5)
    logs = {p.name: p.read_text(errors="replace") for p in stack.folder.glob("*.log")}
    found = [(name, word) for name, text in logs.items() for word in planted if word in text]
    assert not found, found[:5]
    assert not any("seven plus five" in text.lower() for text in logs.values())
    spans = str(list(receiver.spans.values()))
    assert not any(word in spans for word in planted) and caller[1] not in spans + "".join(logs.values())
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
    assert lines and all({"event", "level", "timestamp", "tenant"} <= set(line) for line in lines)
