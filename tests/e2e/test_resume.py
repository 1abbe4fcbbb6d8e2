"""A lost line costs the caller nothing (protocol section 9): the session goes on in the same gateway or in another one."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed

from apps.common.launch import processes
from examples.resume_with_openai import Memory
from examples.speak_with_openai import Caller
from tests.e2e.client import CHUNK, Client, Refused
from tests.e2e.test_worker_loss import alike
from voice.gateway.talk import read_wav

VOICE = {"audio": {"output": {"voice": "echo"}}}


async def spoken(client: Client, enough: float) -> None:
    """Receive until so many seconds of speech are here."""
    while len(client.audio()) < enough * 48000:
        await client.next()


async def test_the_first_event_tells_how_to_come_back(dial):
    async with dial() as client:
        created = client.events[0]
        assert created["resumption"] == {"enabled": True, "window_s": 120, "session_id": created["session"]["id"]}


async def test_clients_that_opt_in_are_told_of_their_quota(dial):
    async with dial("extensions=1") as client:
        quota = await client.wait("ext.quota")
        assert quota["sessions_active"] >= 1 and quota["sessions_limit"] >= quota["sessions_active"] and quota["audio_seconds_left"] > 0


async def test_an_answer_goes_on_where_the_line_broke(dial):
    async with dial() as client:
        await client.type("count to ten", **VOICE)
        await spoken(client, 1)
        await client.vanish()
        await asyncio.sleep(1.0)  # a second of the answer comes meanwhile
        created = await client.resume()
        assert created["session"]["id"] == client.events[0]["session"]["id"]
        assert created["resumption"]["resumed"] is True and created["resumption"]["replayed"] > 0 and created["resumption"]["gap"] is False
        done = await client.answer()
        assert done["status"] == "completed"
        client.order.finished()
        assert client.text() == done["output"][0]["content"][0]["transcript"]


async def test_another_gateway_goes_on_after_kill_9(stack, caller):
    """Two gateways; the one with the session is killed in the middle of an answer."""
    victim, process = stack.extra_gateway()
    async with Client(stack.realtime, caller[1]) as whole:
        await whole.type("count to ten", **VOICE)
        await whole.answer()
    async with Client(victim, caller[1]) as client:
        await client.send("session.update", session={"instructions": "Count when asked.", **VOICE})
        await client.wait("session.updated")
        settings = client.events[-1]["session"]
        await client.type("count to ten", **VOICE)
        await spoken(client, 2.5)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            while True:
                await client.next()
        created = await client.resume(stack.realtime)
        assert created["resumption"]["gap"] is False
        assert {k: v for k, v in created["session"].items() if k != "expires_at"} == {k: v for k, v in settings.items() if k != "expires_at"}
        done = await client.answer()
        assert done["status"] == "completed"
        client.order.finished()
        assert client.text() == whole.text()
        assert abs(len(client.audio()) - len(whole.audio())) < 0.1 * 48000 and alike(client.audio(), whole.audio()) > 0.85
        await client.type("hello", output_modalities=["text"])
        assert (await client.answer())["status"] == "completed"


async def stream(client: Client, pcm: bytes) -> None:
    """In real time."""
    began = time.monotonic()
    for at in range(0, len(pcm), CHUNK):
        await client.append(pcm[at : at + CHUNK])
        await asyncio.sleep(max(0, began + (at + CHUNK) / 48000 - time.monotonic()))


@pytest.mark.parametrize("by_hand", [False, True], ids=["by detection", "by hand"])
async def test_a_sentence_goes_on_in_another_gateway(stack, caller, by_hand):
    """Its gateway is killed in the middle of what the user says: the words before the kill were kept, those after it come from `input_audio_ms` on."""
    victim, process = stack.extra_gateway()
    pcm = bytes(48000) + read_wav("samples/question.wav")
    half, tail = len(pcm) * 6 // 10 // 2 * 2, b"" if by_hand else bytes(48000)
    settings = {"output_modalities": ["text"], "audio": {"input": {"transcription": {"model": "default"}} | ({"turn_detection": None} if by_hand else {})}}
    heard = {}
    for url in (stack.realtime, victim):
        async with Client(url, caller[1]) as client:
            await client.send("session.update", session=settings)
            await client.wait("session.updated")
            await stream(client, pcm[:half])
            if url == victim:
                await asyncio.sleep(0.1)
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(ConnectionClosed):
                    while True:
                        await client.next()
                half = (await client.resume(stack.realtime))["resumption"]["input_audio_ms"] * 48
                assert len(pcm) * 6 // 10 - 0.6 * 48000 < half <= len(pcm) * 6 // 10
            await stream(client, pcm[half:] + tail)
            if by_hand:
                await client.send("input_audio_buffer.commit")
            heard[url] = (await client.wait("conversation.item.input_audio_transcription.completed"))["transcript"]
            assert "input_audio_buffer.cleared" not in [e["type"] for e in client.events]
            assert [e["type"] for e in client.events].count("input_audio_buffer.speech_started") == (0 if by_hand else 1)
    assert heard[victim] == heard[stack.realtime] != ""


async def test_the_newer_connection_wins(dial, stack, caller):
    other, _ = stack.extra_gateway()
    async with dial() as client:
        for url in (stack.realtime, other):
            old = client.socket
            await client.resume(url)
            await asyncio.wait_for(old.wait_closed(), 5)
            assert old.close_code == 4409
        await client.type("hello", output_modalities=["text"])
        assert (await client.answer())["status"] == "completed"


async def test_who_may_not_come_back(stack, caller, dial):
    async with dial() as client:
        session_id = client.events[0]["session"]["id"]
        with pytest.raises(Refused) as refused:
            await Client.connect(stack.realtime, caller[1], "session_id=sess_unknown")
        assert (refused.value.status, refused.value.code) == (404, "session_not_found")
    await asyncio.sleep(0.5)  # it was closed by its client: over
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, caller[1], f"session_id={session_id}")
    assert (refused.value.status, refused.value.code) == (410, "session_resume_expired")


@pytest.mark.timeout(120)
async def test_openai_python_comes_back_by_itself(stack, caller):
    """examples/resume_with_openai.py: its gateway is killed with -9 and another one takes its address."""
    memory, text, kills = Memory(), "", []
    url, process = await asyncio.to_thread(stack.extra_gateway)
    port = int(url.split(":")[2].split("/")[0])
    client = AsyncOpenAI(api_key=caller[1], base_url=f"http://127.0.0.1:{port}/v1")
    async with client.realtime.connect(model="gpt-realtime", on_reconnecting=memory.come_back, max_retries=30, max_delay=1.0) as connection:
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "count to ten"}]})
        await connection.response.create()
        seen: list[str] = []
        async for event in connection:
            seen.append(event.event_id)
            memory.note(event)
            if event.type == "response.output_audio_transcript.delta":
                text += event.delta
            elif event.type == "response.output_audio.delta" and not kills:
                kills.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)
                await asyncio.to_thread(process.wait)
                stack.run(processes.Child("gateway-again", processes.gateway(port).command))
            elif event.type == "response.done":
                assert event.response.status == "completed"
                assert text == event.response.output[0].content[0].transcript and len(seen) == len(set(seen))
                return
    pytest.fail("the connection ended before the answer")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("after_s", [0.0, 0.8, 1.9], ids=["as it begins", "in the middle of what is said", "about its end"])
async def test_openai_python_speaks_through_a_kill(stack, caller, after_s):
    """examples/speak_with_openai.py, its gateway killed with -9 while the caller speaks: the same answer, every word of it once."""
    pcm = read_wav("samples/question.wav")
    url, process = await asyncio.to_thread(stack.extra_gateway)
    port = int(url.split(":")[2].split("/")[0])
    client = AsyncOpenAI(api_key=caller[1], base_url=f"http://127.0.0.1:{port}/v1")

    async def call(*, killed: bool) -> Caller:
        one = Caller(pcm + bytes(96000))

        async def kill() -> None:
            await one.microphone.line.wait()
            await asyncio.sleep(after_s)
            process.kill()
            await asyncio.to_thread(process.wait)
            stack.run(processes.Child("gateway-again", processes.gateway(port).command))

        async with client.realtime.connect(model="gpt-realtime", on_reconnecting=one.come_back, max_retries=30, max_delay=1.0) as connection:
            killing = asyncio.create_task(kill()) if killed else None
            one.said = await asyncio.wait_for(one.call(connection), 60)
            assert not killed or killing.done()
        return one

    whole, resumed = await call(killed=False), await call(killed=True)
    assert resumed.said == whole.said != "" and resumed.microphone.sent <= len(pcm) + 96000
    assert abs(len(resumed.heard) - len(whole.heard)) < 0.1 * 48000
