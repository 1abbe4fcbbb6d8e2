"""Over a real socket: telephone audio, stored prompts, strictness, the beta flavour, compression."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import connect

from apps.agents.services import agent_create
from apps.common.actors import SYSTEM
from apps.tenants.context import in_tenant
from tests.e2e.client import Client, Refused
from tests.infrastructure import ROOT
from voice.audio.telephony import FromTelephone, ToTelephone
from voice.gateway.talk import read_wav

STORY = ROOT / "samples" / "story.wav"
QUESTION = ROOT / "samples" / "question.wav"
HELLO = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is seven plus five?"}]}


@pytest.mark.parametrize("law", ["audio/pcmu", "audio/pcma"])
async def test_a_telephone_call(dial, law):
    """G.711 in, G.711 out."""
    coded = ToTelephone(law).push(read_wav(STORY) + bytes(48000))
    form = {"format": {"type": law}}
    async with dial() as client:
        await client.send("session.update", session={"audio": {"input": {**form, "transcription": {"model": "whisper-1"}}, "output": form}})
        await client.wait("session.updated")
        for at in range(0, len(coded), 320):
            await client.send("input_audio_buffer.append", audio=base64.b64encode(coded[at : at + 320]).decode())
            await asyncio.sleep(0.01)
        heard = await client.wait("conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "tell me a story"
        assert heard["usage"]["seconds"] == pytest.approx(len(coded) / 8000, abs=1.2)
        await client.wait("response.output_audio.delta", where=lambda e: len(client.audio()) > 8000)
        await client.send("response.cancel")
        done = await client.answer()
        assert done["audio"]["output"]["format"] == {"type": law}
        loud = np.frombuffer(FromTelephone(law).push(client.audio()), "<i2").astype(float)
        assert np.sqrt((loud**2).mean()) > 300  # it is speech, not noise around zero
        await client.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
        part = {"type": "input_audio", "audio": base64.b64encode(coded).decode()}
        await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})
        heard = await client.wait("conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "tell me a story"


async def test_how_sure_the_recogniser_was_of_each_word(dial):
    async with dial() as client:
        update = {"include": ["item.input_audio_transcription.logprobs"], "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
        await client.send("session.update", session=update)
        assert (await client.wait("session.updated"))["session"]["include"] == update["include"]
        for at in range(0, len(pcm := read_wav(STORY) + bytes(48000)), 4800):
            await client.append(pcm[at : at + 4800])
        heard = await client.wait("conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "".join(one["token"] for one in heard["logprobs"]) == "tell me a story"
        assert all(-5 < one["logprob"] <= 0 and bytes(one["bytes"]).decode() == one["token"] for one in heard["logprobs"])
        await client.answer()
        await client.send("session.update", session={"include": []})
        await client.wait("session.updated")
        await client.append(pcm)
        assert "logprobs" not in await client.wait("conversation.item.input_audio_transcription.completed")


async def test_a_stored_agent_by_prompt_and_by_model(stack, caller, dial):
    def make():
        return agent_create(name="Bound", actor=SYSTEM, instructions="Call yourself {{name}}.", voice="ash").id

    agent = await in_tenant(caller[0], make)
    async with dial() as client:
        await client.send("session.update", session={"prompt": {"id": agent, "variables": {"name": "Ada"}}, "model": "gpt-realtime-2.1"})
        session = (await client.wait("session.updated"))["session"]
        assert (session["instructions"], session["audio"]["output"]["voice"], session["prompt"]["id"]) == ("Call yourself Ada.", "ash", agent)
        for prompt in ({"id": "agt_nobody"}, {"id": agent, "version": "9"}, {"id": "x\0y"}):
            await client.send("session.update", session={"prompt": prompt})
            assert (await client.error())["code"] == "prompt_not_found"
        await client.send("session.update", session={"prompt": {"id": agent, "version": "1"}, "output_modalities": ["text"]})
        await client.wait("session.updated")
        await client.type("What is seven plus five?")
        assert (await client.answer())["status"] == "completed"
    async with dial(f"model={agent}&strict=1") as client:
        assert client.events[0]["session"]["instructions"].startswith("Call yourself")
    tenant, secret = await asyncio.to_thread(stack.new_tenant, "stranger")
    async with Client(stack.realtime, secret) as client:
        await client.send("session.update", session={"prompt": {"id": agent}})
        assert (await client.error())["code"] == "prompt_not_found"


async def test_strictness_is_asked_for(stack, caller, dial):
    async with dial("model=no-such-model") as client:
        await client.send("session.update", session={"wings": 2})
        await client.wait("session.updated")
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, caller[1], "model=no-such-model&strict=1")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    async with dial("model=gpt-realtime&strict=1") as client:
        await client.send("session.update", session={"wings": 2})
        assert (await client.error())["code"] == "unknown_parameter"


@pytest.fixture
async def beta(stack, caller):
    headers = {"Authorization": f"Bearer {caller[1]}", "OpenAI-Beta": "realtime=v1"}
    async with connect(stack.realtime, additional_headers=headers, open_timeout=20) as socket:
        yield socket


async def until(socket, kind: str) -> list[dict]:
    adapter, found = TypeAdapter(BetaServerEvent), []
    async with asyncio.timeout(30):
        async for text in socket:
            event = json.loads(text)
            if event["type"] != "conversation.created":  # a model of its own in the beta, without a place in the union
                adapter.validate_python(event)
            found.append(event)
            if event["type"] == kind:
                return found
            assert event["type"] != "error", event
    raise AssertionError(kind)


async def test_the_beta_flavour_speaks_and_shows_flat_sessions(beta):
    session = (await until(beta, "session.created"))[0]["session"]
    assert session["modalities"] == ["text", "audio"] and session["input_audio_format"] == "pcm16" and "audio" not in session
    flat = {"modalities": ["text", "audio"], "voice": "ash", "output_audio_format": "g711_ulaw", "temperature": 0.7, "max_response_output_tokens": 200,
            "input_audio_transcription": {"model": "whisper-1"}, "turn_detection": {"type": "server_vad", "threshold": 0.4}}  # fmt: skip
    await beta.send(json.dumps({"type": "session.update", "session": flat}))
    session = (await until(beta, "session.updated"))[-1]["session"]
    assert (session["voice"], session["output_audio_format"], session["max_response_output_tokens"]) == ("ash", "g711_ulaw", 200)
    await beta.send(json.dumps({"type": "conversation.item.create", "item": HELLO}))
    await beta.send(json.dumps({"type": "response.create"}))
    events = await until(beta, "response.done")
    kinds = [e["type"] for e in events]
    assert kinds.count("conversation.item.created") == 2 and not {k for k in kinds if "output_audio" in k or k.endswith(("item.added", "conversation.item.done"))} - {
        "response.output_item.added"}  # fmt: skip
    assert "".join(e["delta"] for e in events if e["type"] == "response.audio_transcript.delta") == "Seven plus five is twelve."
    assert sum(len(base64.b64decode(e["delta"])) for e in events if e["type"] == "response.audio.delta") > 8000
    done = events[-1]["response"]
    assert done["output"][0]["content"][0]["type"] == "audio" and done["modalities"] == ["text", "audio"] and done["output_audio_format"] == "g711_ulaw"


async def test_the_beta_flavour_writes_calls_and_transcribes(beta):
    tool = {"type": "function", "name": "set_light", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}}
    await beta.send(json.dumps({"type": "session.update", "session": {"modalities": ["text"], "tools": [tool], "tool_choice": "required"}}))
    await beta.send(json.dumps({"type": "conversation.item.create", "item": HELLO}))
    await beta.send(json.dumps({"type": "response.create", "response": {"modalities": ["text"]}}))
    assert (await until(beta, "response.done"))[-1]["response"]["output"][0]["name"] == "set_light"
    await beta.send(json.dumps({"type": "response.create", "response": {"tool_choice": "none"}}))
    assert [e for e in await until(beta, "response.done") if e["type"] == "response.text.delta"]


async def test_the_beta_flavour_has_transcription_sessions(stack, caller):
    headers = {"Authorization": f"Bearer {caller[1]}"}
    async with connect(f"{stack.realtime}?intent=transcription", additional_headers=headers, open_timeout=20,
                       subprotocols=["realtime", "openai-beta.realtime-v1"]) as socket:  # fmt: skip
        assert socket.subprotocol == "realtime"
        await until(socket, "session.created")
        session = {"input_audio_format": "pcm16", "input_audio_transcription": {"model": "whisper-1"}, "turn_detection": None}
        await socket.send(json.dumps({"type": "transcription_session.update", "session": session}))
        assert (await until(socket, "transcription_session.updated"))[-1]["session"]["turn_detection"] is None
        pcm = base64.b64encode(read_wav(QUESTION)).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": pcm}))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        heard = (await until(socket, "conversation.item.input_audio_transcription.completed"))[-1]
        assert "seven plus five" in heard["transcript"].lower()


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_with_and_without_compression(stack, caller, compression):
    async with connect(stack.realtime, additional_headers={"Authorization": f"Bearer {caller[1]}"}, compression=compression, open_timeout=20) as socket:
        assert json.loads(await socket.recv())["type"] == "session.created"
        offered = "permessage-deflate" in socket.response.headers.get("Sec-WebSocket-Extensions", "")
        assert offered == (compression == "deflate")
        await socket.send(json.dumps({"type": "conversation.item.create", "item": HELLO}))
        await socket.send(json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}}))
        while (event := json.loads(await asyncio.wait_for(socket.recv(), 20)))["type"] != "response.done":
            pass
        assert event["response"]["status"] == "completed"


async def test_a_frame_that_unpacks_to_too_much_closes_1009(stack, caller):
    async with connect(stack.realtime, additional_headers={"Authorization": f"Bearer {caller[1]}"}, open_timeout=20) as socket:
        await socket.send("x" * (40 * 2**20))  # some 40 KiB on the wire
        with pytest.raises(Exception) as closed:
            while True:
                await socket.recv()
        assert closed.value.rcvd.code == 1009
