"""Mutated events and noise against a real gateway, and what its log says of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.e2e.client import Client, Refused
from tests.rfc6455 import CLOSE, PATIENCE_S, TEXT, Raw, frame

USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
SEEDS = [json.dumps({"type": t, "event_id": "e", **rest}) for t, rest in (
    ("session.update", {"session": {"instructions": "x", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}}),
    ("session.update", {"session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}, "output": {"voice": "ash", "speed": 1.0}}, "tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object"}}], "truncation": {"type": "retention_ratio", "retention_ratio": 0.5}}}),
    ("session.update", {"session": {"prompt": {"id": "agt_1", "version": "2", "variables": {"a": "b"}}, "model": "agt_2", "include": []}}),
    ("session.update", {"session": {"modalities": ["text"], "input_audio_format": "g711_alaw", "max_response_output_tokens": 5}}),
    ("conversation.item.create", {"item": USER}), ("conversation.item.create", {"item": {"type": "function_call_output", "call_id": "c", "output": "1"}}),
    ("conversation.item.create", {"previous_item_id": "root", "item": {"id": "a", "type": "message", "role": "user", "content": [
        {"type": "input_audio", "audio": "AAAAAAAA"}]}}),
    ("conversation.item.truncate", {"item_id": "a", "content_index": 0, "audio_end_ms": 5}), ("conversation.item.delete", {"item_id": "a"}),
    ("conversation.item.retrieve", {"item_id": "a"}), ("input_audio_buffer.append", {"audio": "AAAAAAAA"}), ("input_audio_buffer.commit", {}),
    ("input_audio_buffer.clear", {}), ("response.cancel", {"response_id": "resp_1"}), ("output_audio_buffer.clear", {}),
    ("transcription_session.update", {"session": {"input_audio_transcription": {"model": "x"}}}),
)]  # fmt: skip
VALUES = ("null", "1e999", "[]", "{}", "true", '"x"', "-1", "1" * 50, '"\\u0000"', "1.5", '[[[[{"a":1}]]]]')
SIGNS = (0, 9, 34, 92, 123, 125, 0x2028, 0x1F600, 0xD7FF)


def mutate(rng: random.Random) -> str:
    text = rng.choice(SEEDS)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        how = rng.randrange(4)
        if how == 0:
            text = text[:at] + chr(rng.choice((*SIGNS, rng.randrange(32, 127)))) + text[at:]
        elif how == 1:
            text = text[:at] + text[at + rng.randint(1, 6) :]
        elif how == 2:
            text = text[:at] + rng.choice(VALUES) + text[at:]
        else:
            text = text[:at] + text[at : at + 8] * 2 + text[at:]
    return text


async def admitted(dial: Callable[[], Client]) -> Client:
    """A connected client; a gateway that has too much to do (503) is asked again when it said."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await dial().__aenter__()
            except Refused as refused:
                if refused.status != 503:
                    raise
                await asyncio.sleep(int(refused.headers["Retry-After"]))


async def attack(dial: Callable[[], Client], count: int, seed: int) -> Counter:
    """`count` mutated events over one connection; each frame that comes back fits the models. Then the session must still answer. Counts by type."""
    rng, answers = random.Random(seed), Counter()
    async with await admitted(dial) as client:

        async def listen() -> None:
            while True:
                answers[(await client.next(60))["type"]] += 1

        listener = asyncio.create_task(listen())
        for i in range(count):
            await client.socket.send(mutate(rng))
            if i % 500 == 499:
                await asyncio.sleep(0)
        while True:  # until it has been quiet for a second
            before = answers.total()
            await asyncio.sleep(1)
            if answers.total() == before:
                break
        if listener.done():
            listener.result()
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
        await client.send("session.update", session={"instructions": "", "tools": [], "tool_choice": "auto", "prompt": None, "model": "default", "max_output_tokens": "inf"})
        hello = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}]
        await client.send("response.create", response={"conversation": "none", "output_modalities": ["text"], "input": hello})
        done = await client.wait("response.done", 30, lambda e: e["response"]["conversation_id"] is None)
        assert done["response"]["status"] == "completed", done
    return answers


LEGAL_CLOSES = {1000, 1002, 1003, 1007, 1009}


async def noise(host: str, port: int, key: str, seed: int) -> str:
    """Random bytes instead of frames, or a frame with its bytes changed: the connection ends legally or stays open."""
    rng, raw = random.Random(seed), Raw(host, port, key)
    assert b" 101 " in await raw.open()
    try:
        if rng.random() < 0.5:
            data = rng.randbytes(rng.randint(1, 3000))
        else:
            changed = bytearray(b"".join(frame(TEXT, mutate(rng).encode(errors="replace"), key=rng.randbytes(4)) for _ in range(5)))
            for _ in range(rng.randint(1, 10)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            data = bytes(changed)
        raw.writer.write(data)
        raw.writer.write_eof()
        async with asyncio.timeout(15):
            while True:
                opcode, payload = await raw.frame()
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big") if payload else 1005
                    assert code in LEGAL_CLOSES | {1005} or code >= 3000 or 1007 <= code <= 1014, code  # a close of ours is echoed
                    return f"close {code}"
    except (asyncio.IncompleteReadError, ConnectionError):
        return "eof"
    finally:
        raw.close()


def faults(log: Path, offset: int = 0) -> list[str]:
    """Lines of a gateway's log since `offset` that tell of an exception nobody handled."""
    found = []
    for line in log.read_bytes()[offset:].decode(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            found.append(line[:300])  # not ours: a traceback on stderr
            continue
        if event.get("event", "").startswith("Invalid UTF-8 sequence"):
            continue  # uvicorn says so and closes 1007
        if "exception" in event or event.get("level") in ("error", "critical"):
            found.append(json.dumps(event)[:600])
    return found


def size(log: Path) -> int:
    return os.path.getsize(log) if log.exists() else 0


def workspace(stack) -> str:
    """The key of a workspace that may leave many broken connections behind (each holds its place until it can no longer be resumed)."""
    from apps.tenants.context import bound_public
    from apps.tenants.models import Tenant

    tenant, key = stack.new_tenant("fuzz")
    with bound_public():
        Tenant.objects.filter(pk=tenant.id).update(limits={"concurrent_sessions": 10_000, "resume_seconds": 10, "requests_per_minute": 1_000_000, "events_per_second": 10**6})
    return key
