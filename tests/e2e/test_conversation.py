"""Spoken and typed turns over a real socket, through the real workers and the embedded models."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apps.conversations.models import Item, TurnTrace, VoiceSession
from apps.tenants.context import in_tenant
from apps.usage.models import UsageEntry
from tests.infrastructure import ROOT

SAMPLES = ROOT / "samples"


async def test_a_spoken_question_gets_a_spoken_answer(dial):
    async with dial() as client:
        await client.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
        await client.speak(SAMPLES / "question.wav")
        response = await client.answer()
        transcript = next(e for e in client.events if e["type"].endswith("transcription.completed"))["transcript"]
        assert transcript == "what is seven plus five"
        assert response["status"] == "completed" and client.text() == "Seven plus five is twelve."
        assert len(client.audio()) > 48 * 800
        usage = response["usage"]
        assert usage["input_token_details"]["audio_tokens"] > 10 and usage["output_token_details"]["audio_tokens"] > 15


async def test_names_are_remembered_over_turns_and_voice_and_persona_change(dial):
    async with dial() as client:
        await client.speak(SAMPLES / "name.wav")
        await client.answer()
        assert client.text() == "Nice to meet you, Alice."
        await client.send("session.update", session={"instructions": "You are a pirate.", "audio": {"output": {"voice": "cedar"}}})
        await client.type("What is my name?")
        response = await client.answer()
        assert response["output"][0]["content"][0]["transcript"] == "Arr, matey! Your name is Alice."
        assert response["audio"]["output"]["voice"] == "cedar"


async def test_push_to_talk(dial):
    async with dial() as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        await client.speak(SAMPLES / "question.wav", tail_s=0.2, speed=10)
        await client.send("input_audio_buffer.commit")
        await client.send("response.create", response={"output_modalities": ["text"]})
        await client.answer()
        assert client.text() == "Seven plus five is twelve."
        assert not [e for e in client.events if "speech_st" in e["type"]]


async def test_a_tool_call_and_its_result(dial):
    tool = {"type": "function", "name": "get_weather", "description": "Weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip
    async with dial() as client:
        await client.send("session.update", session={"tools": [tool], "output_modalities": ["text"]})
        await client.type("What is the weather in Paris today?")
        call = (await client.answer())["output"][0]
        assert call["type"] == "function_call" and json.loads(call["arguments"]) == {"city": "paris"}
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"condition": "sunny", "temperature": 21}'}
        await client.send("conversation.item.create", item=output)
        await client.send("response.create")
        await client.answer()
        assert client.text() == "It is sunny and twenty-one degrees in Paris."


async def test_a_forced_call_of_any_function(dial):
    tool = {"type": "function", "name": "file_ticket_7", "parameters": {"type": "object", "properties": {
        "subject": {"type": "string"}, "urgent": {"type": "boolean"}, "level": {"type": "integer"}, "team": {"type": "string", "enum": ["a", "b"]}}}}  # fmt: skip
    async with dial() as client:
        await client.type("where is my order", tools=[tool], tool_choice={"type": "function", "name": "file_ticket_7"}, output_modalities=["text"])
        call = (await client.answer())["output"][0]
        arguments = json.loads(call["arguments"])
        assert call["name"] == "file_ticket_7" and set(arguments) == {"subject", "urgent", "level", "team"}
        assert isinstance(arguments["urgent"], bool) and isinstance(arguments["level"], int) and arguments["team"] in ("a", "b")


async def test_barge_in_stops_the_story(dial):
    async with dial() as client:
        await client.type("tell me a story")
        await client.wait("response.output_audio.delta")
        await asyncio.sleep(1.0)
        began = len(client.events)
        await client.speak(SAMPLES / "question.wav")
        done = await client.answer()
        assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        story = done["output"][0]
        assert story["status"] == "incomplete" and 0 < len(story["content"][0]["transcript"]) < 200
        await client.answer()
        said = "".join(e["delta"] for e in client.events[began:] if e["type"].endswith("audio_transcript.delta"))
        assert said.endswith("Seven plus five is twelve.")


async def test_a_cancel_ends_the_response_and_its_sound(dial):
    """How quick it is, `make bench` tells; here: it ends cancelled, and no more sound came than the pacing allows."""
    async with dial() as client:
        for _ in range(10):
            began, heard = time.monotonic(), len(client.audio())
            await client.type("tell me a story")
            await client.wait("response.output_audio.delta")
            await asyncio.sleep(0.2)
            await client.send("response.cancel")
            elapsed = time.monotonic() - began
            response = await client.answer()
            assert response["status"] == "cancelled" and response["status_details"]["reason"] == "client_cancelled"
            assert 0 < len(client.audio()) - heard < (elapsed + 2.3) * 48000


async def test_what_happened_is_in_the_database_with_its_waterfall(stack):
    from tests.e2e.client import Client

    tenant, secret = await asyncio.to_thread(stack.new_tenant, "records")
    async with Client(stack.realtime, secret) as client:
        session_id = client.events[0]["session"]["id"]
        await client.send("session.update", session={"tracing": {"workflow_name": "Desk", "metadata": {"caller": "7"}, "else": 1}})
        await client.speak(SAMPLES / "question.wav")
        await client.answer()

    def look():
        session = VoiceSession.objects.get(pk=session_id)
        assert session.tracing == {"workflow_name": "Desk", "metadata": {"caller": "7"}} or session.state == "live"
        items = list(Item.objects.filter(session=session).order_by("id").values_list("role", "item"))
        traces = list(TurnTrace.objects.filter(session=session).values_list("status", "segments", "first_ms", "overlapped"))
        return session.state, items, traces, dict(UsageEntry.objects.filter(session_id=session_id).values_list("meter", "quantity"))

    for _ in range(50):
        await asyncio.sleep(0.1)
        state, items, traces, usage = await in_tenant(tenant, look)
        if state == "closed":
            break
    assert state == "closed"
    assert [role for role, _ in items] == ["user", "assistant"]
    assert items[0][1]["content"][0]["transcript"] == "what is seven plus five"
    (status, segments, first_ms, overlapped), = traces
    assert status == "completed" and abs(sum(ms for _, ms in segments) - first_ms) < 0.01
    assert [name for name, _ in segments][:3] == ["endpointing", "stt_queue", "stt"]
    assert [name for name, _ in overlapped][:3] == ["pause", "stt_queue", "stt"] and sum(ms for _, ms in overlapped) <= segments[0][1] + 0.01
    assert set(usage) == {"audio_in_ms", "audio_out_ms", "tokens_in", "tokens_out", "session_ms"}
    assert usage["audio_out_ms"] == len(client.audio()) // 48


async def test_an_item_the_database_cannot_hold_does_not_lose_the_others(stack):
    from tests.e2e.client import Client

    tenant, secret = await asyncio.to_thread(stack.new_tenant, "nul")
    async with Client(stack.realtime, secret) as client:
        session_id = client.events[0]["session"]["id"]
        await client.type("a\0b", output_modalities=["text"])
        await client.answer()

    def look():
        return [p["text"] for i in Item.objects.filter(session_id=session_id).order_by("id") for p in i.item["content"]]

    for _ in range(50):
        await asyncio.sleep(0.1)
        if len(texts := await in_tenant(tenant, look)) == 2:
            break
    assert texts[0] == "ab" and texts[1]


@pytest.mark.parametrize("arguments", [["samples/question.wav"], ["--text", "what is seven plus five"]])
def test_talk(stack, caller, arguments, tmp_path):
    command = [sys.executable, "-m", "voice.gateway.talk", *arguments, "--url", stack.realtime, "--key", caller[1], "--json", "--save", str(tmp_path / "a.wav")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    value = json.loads(result.stdout)
    assert result.returncode == 0, result
    assert value["answer"] == "Seven plus five is twelve." and value["status"] == "completed" and value["first_audio_ms"] > 0
    assert Path(tmp_path / "a.wav").stat().st_size > 40_000
