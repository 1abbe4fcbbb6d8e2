"""What a customer does, from signing up to talking: over HTTP and the WebSocket, as their programs do it.

Runs against any deployment named by PORTAL_URL, GATEWAY_URL, GATEWAY_WS_URL, DATABASE_URL and REDIS_URL.
"""

from __future__ import annotations

import asyncio
import time

import httpx
import numpy as np
import pytest

from tests.e2e.client import Client


@pytest.fixture(scope="module")
def customer(stack):
    """A workspace that was made by signing up over the portal's API: {api_key, tenant_slug, …}."""
    portal = stack.start_portal()
    body = {"email": f"flow-{time.time_ns()}@example.com", "password": "a-long-password-7", "workspace": "Flows", "accept_terms": True}
    made = httpx.post(f"{portal}/api/v1/auth/signup", json=body, timeout=30)
    assert made.status_code == 201, made.text
    return {"portal": portal, **made.json()}


@pytest.fixture
def dial(stack, customer):
    return lambda: Client(stack.realtime, customer["api_key"])


async def test_sign_up_and_onboarding(customer, dial):
    """The key works at once, the workspace has an agent that answers, and the conversation is there to look at."""
    headers = {"Authorization": f"Bearer {customer['api_key']}"}
    async with httpx.AsyncClient(base_url=customer["portal"], headers=headers, timeout=20) as api:
        assert (await api.get("/api/v1/me")).json()["tenant"] == customer["tenant_slug"]
    async with dial() as client:
        await client.type("hello")
        assert (await client.answer())["status"] == "completed" and len(client.audio()) > 4800
        assert client.events[0]["session"]["instructions"]


async def test_a_voice_conversation(dial):
    """A spoken question is heard, written down and answered aloud; the second one knows of the first."""
    async with dial() as client:
        await client.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
        await client.speak("samples/name.wav")
        heard = (await client.wait("conversation.item.input_audio_transcription.completed"))["transcript"]
        assert "name" in heard.lower()
        assert (await client.answer())["status"] == "completed" and len(client.audio()) > 24000
        before = len(client.text())
        await client.speak("samples/who.wav")
        assert (await client.answer())["status"] == "completed"
        name = heard.lower().replace(".", "").split()[-1]
        assert name in client.text()[before:].lower()
        client.order.finished()


async def test_changing_the_voice_mid_session(dial):
    async with dial() as client:
        spoken = []
        for voice in ("alloy", "echo"):
            await client.send("session.update", session={"audio": {"output": {"voice": voice}}})
            assert (await client.wait("session.updated"))["session"]["audio"]["output"]["voice"] == voice
            before = len(client.audio())
            await client.type("what is two plus two")
            assert (await client.answer())["audio"]["output"]["voice"] == voice
            spoken.append(np.frombuffer(client.audio()[before:], "<i2").astype(float))
        low, high = (float(np.argmax(np.abs(np.fft.rfft(s[:24000]))[60:400])) for s in spoken)
        assert len(spoken[0]) != len(spoken[1]) or low != high  # another voice is another sound


async def test_changing_the_instructions_mid_session(dial):
    async with dial() as client:
        answers = []
        for instructions, question in (("You are a friendly voice assistant. Answer briefly.", "what is two plus two"), ("You are a pirate.", "who are you")):
            await client.send("session.update", session={"instructions": instructions})
            await client.wait("session.updated")
            before = len(client.text())
            await client.type(question, output_modalities=["text"])
            assert (await client.answer())["status"] == "completed"
            answers.append(client.text()[before:])
        assert "Arr" not in answers[0] and answers[1].startswith("Arr, matey!")


async def test_cancelling_mid_generation(dial):
    async with dial() as client:
        await client.type("count to fifty")
        await client.wait("response.output_audio.delta")
        asked = time.monotonic()
        await client.send("response.cancel")
        done = await client.answer()
        assert time.monotonic() - asked < 1
        assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
        heard = len(client.audio())
        await client.type("what is two plus two")
        assert (await client.answer())["status"] == "completed" and "four" in client.text().lower()
        assert heard < 5 * 48000


async def test_reconnection(dial):
    """The line is lost in the middle of an answer: the client comes back and hears the rest, no word twice."""
    async with dial() as client:
        await client.type("count to ten")
        while len(client.audio()) < 48000:
            await client.next()
        await client.vanish()
        await asyncio.sleep(0.3)
        created = await client.resume()
        assert created["resumption"]["resumed"] is True and created["session"]["id"] == client.events[0]["session"]["id"]
        done = await client.answer()
        assert done["status"] == "completed" and done["output"][0]["content"][0]["transcript"] == client.text()
        client.order.finished()
