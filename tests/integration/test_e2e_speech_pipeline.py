"""Speech in, speech out, through gateway and workers as a client sees it: how fast, in which order, and who may speak when.

Against another deployment: DATABASE_URL, REDIS_URL, GATEWAY_URL and GATEWAY_WS_URL (tests/conftest.py). Its embedded models are expected to be in use.
"""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from apps.agents.models import Agent
from apps.agents.services import agent_publish, draft_save
from apps.common.actors import SYSTEM
from apps.common.errors import BadRequest
from apps.tenants.context import in_tenant
from tests.e2e.client import CHUNK, Client
from tests.infrastructure import ROOT
from voice.engines.tts import espeak
from voice.gateway.talk import read_wav

QUESTION = ROOT / "samples" / "question.wav"
SHOWN = {"transcription": {"model": "whisper-1"}}
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture(scope="module")
def caller(stack):
    return stack.new_tenant("speech")


def words(text: str, voice: str = "ash") -> bytes:
    engine = espeak.Engine()
    engine.load()
    return b"".join(piece.pcm for piece in engine.synthesize(text, voice=voice))


async def stream(client: Client, pcm: bytes) -> None:
    """In real time."""
    began = time.monotonic()
    for at in range(0, len(pcm), CHUNK):
        await client.append(pcm[at : at + CHUNK])
        await asyncio.sleep(max(0, began + (at + CHUNK) / 48000 - time.monotonic()))


def at(client: Client, kind: str, after: float = 0.0) -> float:
    return next(t for t, e in zip(client.times, client.events, strict=True) if e["type"] == kind and t >= after)


def kinds(client: Client) -> list[str]:
    return [e["type"] for e in client.events]


async def during(client: Client, coroutine, until: str, count: int = 1) -> None:
    """Read events while something is sent, until the `count`th of a type has come."""
    async def read() -> None:
        while kinds(client).count(until) < count:
            await client.next()

    await asyncio.gather(coroutine, asyncio.wait_for(read(), 40))


def p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]


async def test_speech_is_understood_and_answered_within_its_time(stack, caller):
    stt, tts, certain = [], [], []
    async with Client(stack.realtime, caller[1]) as client:
        await client.send("session.update", session={"audio": {"input": SHOWN}})
        for turn in range(10):
            began = time.monotonic()
            await during(client, stream(client, read_wav(QUESTION) + bytes(48000)), "response.done", turn + 1)
            stopped = at(client, "input_audio_buffer.speech_stopped", began)
            stt.append(at(client, COMPLETED, began) - stopped)
            tts.append(at(client, "response.output_audio.delta", began) - at(client, "response.output_audio_transcript.delta", began))
            certain.append(at(client, "response.output_audio.delta", began) - stopped)
            await asyncio.sleep(1.5)  # until it has been heard: the next question is no interruption
    assert p95(stt) < 0.5 and p95(tts) < 0.2, (stt, tts)
    assert sorted(certain)[5] < 0.2, certain  # the answer was begun before the end of the turn was certain


async def test_words_are_shown_while_they_are_spoken_and_nothing_else_before_the_end_of_the_turn(stack, caller):
    async with Client(stack.realtime, caller[1]) as client:
        await client.send("session.update", session={"audio": {"input": SHOWN}})
        pcm = words("Can you tell me what seven plus five is?") + bytes(48000)
        await during(client, stream(client, pcm), "response.done")
        seen = kinds(client)
        stopped = seen.index("input_audio_buffer.speech_stopped")
        assert not [k for k in seen[:stopped] if k.startswith("response.") or k.startswith("conversation.item.") and "transcription.delta" not in k]
        deltas = [e for e in client.events if e["type"] == DELTA]
        done = next(e for e in client.events if e["type"] == COMPLETED)
        assert {e["item_id"] for e in deltas} <= {done["item_id"]} and all(e["content_index"] == 0 for e in deltas)
        assert done["transcript"] == "can you tell me what seven plus five is" and done["transcript"].startswith("".join(e["delta"] for e in deltas)[:4])


async def test_a_user_who_goes_on_after_a_short_pause_is_answered_once(stack, caller):
    pcm = words("What is seven,") + bytes(48 * 300) + words("plus five?") + bytes(48000)
    async with Client(stack.realtime, caller[1]) as client:
        await during(client, stream(client, pcm), "response.done")
        assert kinds(client).count("response.created") == kinds(client).count("input_audio_buffer.committed") == 1
        assert client.text() == "Seven plus five is twelve."


async def test_semantic_vad_answers_a_question_soon_and_waits_for_the_end_of_a_sentence(stack, caller):
    session = {"audio": {"input": {**SHOWN, "turn_detection": {"type": "semantic_vad", "eagerness": "auto"}}}}
    pcm = words("What is the capital of,") + bytes(48 * 1200) + words("France?") + bytes(48 * 4200)
    async with Client(stack.realtime, caller[1]) as client:
        await client.send("session.update", session=session)
        await during(client, stream(client, pcm), "response.done")
        assert kinds(client).count("input_audio_buffer.committed") == 1  # 1.2 s of silence inside did not end it


@pytest.mark.parametrize(("said", "goes_on"), [("okay", True), ("mm-hmm", True), ("stop", False)])
async def test_mm_hmm_does_not_stop_the_answer_and_stop_does(stack, caller, said, goes_on):
    async with Client(stack.realtime, caller[1], "extensions=1") as client:
        await client.type("tell me a story")
        await client.wait("response.output_audio.delta")
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await during(client, stream(client, words(said) + bytes(48 * 900)), "input_audio_buffer.committed")
        if "response.done" not in kinds(client):
            await client.answer()
        response = next(e["response"] for e in client.events if e["type"] == "response.done")
        assert response["status"] == ("completed" if goes_on else "cancelled"), kinds(client)
        if goes_on:
            assert "ext.input.backchannel" in kinds(client) and kinds(client).count("response.created") == 1
        else:
            assert response["status_details"]["reason"] == "turn_detected"
            assert at(client, "response.done", began) - began < 2
            text = response["output"][0]["content"][0]["transcript"]
            told = "".join(e["delta"] for e in client.events if e["type"] == "response.output_audio_transcript.delta" and e["response_id"] == response["id"])
            assert told.startswith(text) and len(text) < len(told) and told[len(text)] in " .,"  # what was heard, to a word


async def test_how_an_agent_takes_turns_is_its_own_setting(stack):
    def set_up(tenant, **turn_detection):
        agent = Agent.objects.first()
        draft_save(agent=agent, actor=SYSTEM, tool_hosts=[], turn_detection=turn_detection)
        agent_publish(agent=agent, actor=SYSTEM)

    tenant, key = await asyncio.to_thread(stack.new_tenant, "turns")
    with pytest.raises(BadRequest, match="backchannels=maybe: expected true or false"):
        await in_tenant(tenant, set_up, tenant, backchannels="maybe")
    await in_tenant(tenant, set_up, tenant, preemptive=False, backchannels=False, idle_timeout_ms=5000)
    async with Client(stack.realtime, key) as client:
        detection = client.events[0]["session"]["audio"]["input"]["turn_detection"]
        assert detection["type"] == "server_vad" and detection["idle_timeout_ms"] == 5000 and not {"preemptive", "backchannels"} & set(detection)
        await client.type("tell me a story")
        await client.wait("response.output_audio.delta")
        began = time.monotonic()
        await during(client, stream(client, words("mm-hmm") + bytes(48 * 900)), "response.done")
        assert client.events[kinds(client).index("response.done")]["response"]["status"] == "cancelled"
        assert at(client, "response.done", began) - at(client, "input_audio_buffer.speech_started", began) < 0.1


async def test_a_silent_user_is_spoken_to(stack, caller):
    async with Client(stack.realtime, caller[1]) as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}}})
        await client.type("hello")
        await client.answer()
        timeout = await client.wait("input_audio_buffer.timeout_triggered", 12)
        assert (await client.wait("input_audio_buffer.committed"))["item_id"] == timeout["item_id"]
        response = await client.answer()
        assert response["status"] == "completed" and response["output"][0]["content"][0]["transcript"]


async def test_a_transcription_session_only_listens(stack, caller):
    async with await Client.connect(stack.realtime, caller[1], "intent=transcription") as client:
        session = client.events[0]["session"]
        assert session["type"] == "transcription" and session["object"] == "realtime.transcription_session"
        await during(client, stream(client, read_wav(QUESTION) + bytes(48000)), COMPLETED)
        assert next(e for e in client.events if e["type"] == COMPLETED)["transcript"] == "what is seven plus five"
        await client.send("response.create")
        assert (await client.error())["code"] == "invalid_value"
        assert not [k for k in kinds(client) if k.startswith("response.")]


async def test_noise_is_not_answered(stack, caller):
    rng = np.random.default_rng(2)
    hiss = (rng.normal(0, 0.02, 48000) * 32767).astype("<i2").tobytes()
    async with Client(stack.realtime, caller[1]) as client:
        await stream(client, hiss)
        await client.send("input_audio_buffer.clear")
        await client.wait("input_audio_buffer.cleared")
        assert "response.created" not in kinds(client)
