"""The stock SDKs, with only the URL and the key changed: a text turn, an audio turn, a cancel and a tool call each."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from agents.realtime import RealtimeAgent, RealtimeRunner
from agents.tool import function_tool
from openai import AsyncOpenAI

from tests.infrastructure import ROOT
from tests.unit.wire import assert_valid
from voice.gateway.talk import read_wav

QUESTION = ROOT / "samples" / "question.wav"
WEATHER = ROOT / "samples" / "weather.wav"
SILENCE = bytes(48000)


async def speak(send, path, step=1920):
    pcm = read_wav(path) + SILENCE
    for at in range(0, len(pcm), step):
        await send(pcm[at : at + step])
        await asyncio.sleep(0.02)


# openai-python


@pytest.fixture
async def connection(stack, caller):
    client = AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=caller[1])
    async with client.realtime.connect(model="gpt-realtime") as opened:
        yield opened
    await client.close()


async def until(connection, type: str) -> list:
    events = []
    async with asyncio.timeout(30):
        async for event in connection:
            assert_valid(event.to_dict())
            events.append(event)
            assert event.type != "error", event
            if event.type == type:
                return events
    raise AssertionError(f"no {type}")


async def test_openai_text_turn(connection):
    await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is 7 plus 5?"}]})
    await connection.response.create()
    events = await until(connection, "response.done")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Seven plus five is twelve."


async def test_openai_audio_turn(connection):
    async def send(pcm):
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())

    speaking = asyncio.create_task(speak(send, QUESTION))
    events = await until(connection, "response.done")
    await speaking
    assert "".join(e.delta for e in events if e.type == "response.output_audio_transcript.delta") == "Seven plus five is twelve."
    assert sum(len(base64.b64decode(e.delta)) for e in events if e.type == "response.output_audio.delta") > 40_000


async def test_openai_cancel(connection):
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell me a story."}]})
    await connection.response.create()
    await until(connection, "response.output_audio.delta")
    await connection.response.cancel()
    done = (await until(connection, "response.done"))[-1].response
    assert done.status == "cancelled" and done.status_details.reason == "client_cancelled"


async def test_openai_tool_call(connection):
    tool = {"type": "function", "name": "set_light", "description": "Set a light.", "parameters": {
        "type": "object", "properties": {"room": {"type": "string"}, "state": {"type": "string"}}}}  # fmt: skip
    await connection.session.update(session={"type": "realtime", "output_modalities": ["text"], "tools": [tool]})
    await connection.conversation.item.create(
        item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "turn off the kitchen light"}]})  # fmt: skip
    await connection.response.create()
    call = (await until(connection, "response.done"))[-1].response.output[0]
    assert json.loads(call.arguments) == {"room": "kitchen", "state": "off"}
    await connection.conversation.item.create(item={"type": "function_call_output", "call_id": call.call_id, "output": '{"ok": true}'})
    await connection.response.create()
    events = await until(connection, "response.done")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "The kitchen light is off."


# openai-agents


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return "sunny, 21 degrees"


@pytest.fixture
def run(stack, caller):
    """A RealtimeRunner session against the gateway."""

    async def start(**settings):
        agent = RealtimeAgent(name="Assistant", instructions="You are a friendly voice assistant. Answer briefly.", tools=settings.pop("tools", []))
        runner = RealtimeRunner(starting_agent=agent, config={"model_settings": settings})
        return await runner.run(model_config={"api_key": caller[1], "url": stack.realtime})

    return start


async def follow(session, stop) -> list:
    events = []
    async with asyncio.timeout(40):
        async for event in session:
            events.append(event)
            assert event.type != "error", event
            if stop(event):
                return events
    raise AssertionError("the session ended early")


def said(events) -> str:
    """What the agent said last, from the runner's history."""
    texts = []
    for event in events:
        items = event.history if event.type == "history_updated" else [event.item] if event.type == "history_added" else []
        for item in items:
            if getattr(item, "role", "") == "assistant":
                texts += [t for t in (getattr(p, "transcript", None) or getattr(p, "text", None) for p in item.content) if t]
    return texts[-1] if texts else ""


async def test_agents_text_turn(run):
    async with await run() as session:
        await session.send_message("What is seven plus five?")
        events = await follow(session, lambda e: e.type == "agent_end")
        events += await follow_more(session)
        assert said(events) == "Seven plus five is twelve."


async def follow_more(session) -> list:
    """What comes right after the end (history)."""
    events = []
    try:
        async with asyncio.timeout(0.5):
            async for event in session:
                events.append(event)
    except TimeoutError:
        pass
    return events


async def test_agents_audio_turn(run):
    async with await run() as session:
        speaking = asyncio.create_task(speak(session.send_audio, QUESTION))
        events = await follow(session, lambda e: e.type == "audio_end")
        await speaking
        assert sum(len(e.audio.data) for e in events if e.type == "audio") > 40_000
        events += await follow_more(session)
        assert said(events) == "Seven plus five is twelve."


async def test_agents_cancel(run):
    async with await run() as session:
        await session.send_message("Tell me a story.")
        await follow(session, lambda e: e.type == "audio")
        await session.interrupt()
        events = await follow(session, lambda e: e.type == "agent_end" or e.type == "audio_interrupted")
        assert events


async def test_agents_tool_call(run):
    async with await run(tools=[get_weather]) as session:
        await session.send_message("What is the weather in Paris today?")
        events = await follow(session, lambda e: e.type == "audio_end")
        assert [e for e in events if e.type == "tool_end"]
        events += await follow_more(session)
        assert said(events) == "It is sunny and twenty-one degrees in Paris."
