"""The REST side of the gateway through openai-python and plain HTTP: speech, transcriptions, chat, models, client secrets of the beta."""

from __future__ import annotations

import asyncio
import io
import json
import time

import av
import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError

from apps.apikeys.services import api_key_issue
from apps.common.actors import SYSTEM
from apps.tenants.context import in_public, in_tenant
from apps.usage.rollups import totals
from tests.infrastructure import ROOT
from voice.gateway.talk import read_wav

TEXT = "Seven plus five is twelve."
STORY = "Once upon a time there was a light. " * 100


@pytest.fixture
async def client(stack, caller):
    async with AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=caller[1], max_retries=0) as made:
        yield made


@pytest.fixture
async def http(stack, caller):
    async with httpx.AsyncClient(base_url=f"{stack.base_url}/v1", headers={"Authorization": f"Bearer {caller[1]}"}, timeout=60) as made:
        yield made


def seconds(data: bytes) -> float:
    with av.open(io.BytesIO(data)) as file:
        return sum(f.samples / f.sample_rate for f in file.decode(audio=0))


# Speech


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_speech_in_every_format(client, format):
    answer = await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format=format)
    data = answer.content
    length = len(data) / 48000 if format == "pcm" else seconds(data)
    assert 1.2 < length < 4, length


async def test_speech_starts_before_it_is_complete(client):
    began = time.monotonic()
    async with client.audio.speech.with_streaming_response.create(model="tts-1", voice="marin", input=STORY, response_format="wav") as answer:
        parts = answer.iter_bytes(4096)
        head = await anext(parts)
        first = time.monotonic() - began
        rest = [part async for part in parts]
        whole = time.monotonic() - began
    assert head[:4] == b"RIFF" and len(rest) > 100
    assert first < whole / 2, (first, whole)


async def test_speech_as_events(http):
    answer = await http.post("audio/speech", json={"model": "tts-1", "voice": "ash", "input": TEXT, "stream_format": "sse", "response_format": "pcm"})
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line]
    assert answer.headers["content-type"] == "text/event-stream"
    assert {e["type"] for e in events[:-1]} == {"speech.audio.delta"} and events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["output_tokens"] > 20


async def test_speech_comes_back_as_the_same_words(client):
    spoken = await client.audio.speech.create(model="tts-1", voice="alloy", input="What is seven plus five?", response_format="mp3")
    heard = await client.audio.transcriptions.create(model="whisper-1", file=("question.mp3", spoken.content))
    assert heard.text.lower().strip(" ?.") == "what is seven plus five"


@pytest.mark.parametrize(("body", "status", "code", "param"), [
    ({"input": TEXT, "voice": "alloy"}, 400, "invalid_request", "model"), ({"model": "tts-1", "voice": "alloy", "input": ""}, 400, "invalid_request", "input"),
    ({"model": "tts-1", "voice": "alloy", "input": "x" * 4097}, 400, "invalid_request", "input"),
    ({"model": "tts-1", "voice": "nobody", "input": TEXT}, 400, "unknown_voice", "voice"),
    ({"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "midi"}, 400, "invalid_request", "response_format"),
    ({"model": "tts-1", "voice": "alloy", "input": TEXT, "speed": 9}, 400, "invalid_request", "speed"),
    ({"model": "tts-1", "voice": "alloy", "input": TEXT, "speed": "fast"}, 400, "invalid_request", "speed"),
    ({"model": "tts-1", "voice": 5, "input": TEXT}, 400, "invalid_request", "voice"), ({"model": "agt_nobody", "input": TEXT}, 404, "not_found", "assistant"),
    ([1], 400, "invalid_request", None),
])  # fmt: skip
async def test_speech_refuses_by_name(http, body, status, code, param):
    answer = await http.post("audio/speech", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error


# Recordings


@pytest.fixture
def recording():
    return (ROOT / "samples" / "question.wav").read_bytes()


def container(format: str, codec: str) -> bytes:
    """The question in another container."""
    import numpy as np

    sink = io.BytesIO()
    with av.open(sink, "w", format=format) as file:
        stream = file.add_stream(codec, rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.frombuffer(read_wav(ROOT / "samples" / "question.wav"), "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = 24000
        shaper = av.AudioResampler(format=stream.format.name, layout="stereo", rate=48000, frame_size=stream.frame_size or 0)
        for made in [*shaper.resample(frame), *shaper.resample(None)]:
            file.mux(stream.encode(made))
        file.mux(stream.encode(None))
    return sink.getvalue()


@pytest.mark.parametrize(("format", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus"), ("webm", "libopus"), ("mp4", "aac"), ("flac", "flac"), ("wav", "pcm_s16le")])
async def test_any_container_is_read(client, format, codec):
    heard = await client.audio.transcriptions.create(model="whisper-1", file=(f"x.{format}", container(format, codec)))
    assert heard.text.lower().strip(" ?.") == "what is seven plus five"
    assert heard.usage.type == "duration" and 1 < heard.usage.seconds < 5


async def test_transcripts_in_every_shape(client, recording):
    async def ask(format):
        return await client.audio.transcriptions.create(model="whisper-1", file=("q.wav", recording), response_format=format)

    words = "what is seven plus five"
    assert words in (await ask("text")).lower()
    srt = await ask("srt")
    assert srt.startswith("1\n00:00:0") and " --> 00:00:0" in srt and "," in srt.split("\n")[1]
    assert (await ask("vtt")).startswith("WEBVTT\n\n00:00:0")
    verbose = await ask("verbose_json")
    assert words in verbose.text.lower() and verbose.segments[0].end > verbose.segments[0].start and verbose.duration > 1


async def test_a_recording_of_several_utterances(client):
    pcm = b"".join(read_wav(ROOT / "samples" / f"{name}.wav") + bytes(48000) for name in ("question", "weather", "who"))
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(24000)
        out.writeframes(pcm)
    verbose = await client.audio.transcriptions.create(model="whisper-1", file=("three.wav", file.getvalue()), response_format="verbose_json")
    starts = [s.start for s in verbose.segments]
    assert len(starts) == 3 and starts == sorted(starts), verbose.segments
    stream = await client.audio.transcriptions.create(model="whisper-1", file=("three.wav", file.getvalue()), stream=True)
    events = [e async for e in stream]
    assert [e.type for e in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
    assert "".join(e.delta for e in events[:-1]) == events[-1].text == verbose.text


async def test_translations(client, recording):
    assert "seven plus five" in (await client.audio.translations.create(model="whisper-1", file=("q.wav", recording))).text.lower()


@pytest.mark.parametrize(("data", "form", "code", "param"), [
    (b"not audio", {"model": "whisper-1"}, "invalid_request", "file"), (b"", {"model": "whisper-1"}, "invalid_request", "file"),
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", {"model": "whisper-1"}, "invalid_request", "file"),
    (None, {"model": "whisper-1"}, "invalid_request", "file"), ("wav", {}, "invalid_request", "model"),
    ("wav", {"model": "whisper-1", "response_format": "docx"}, "invalid_request", "response_format"),
    ("wav", {"model": "whisper-1", "response_format": "diarized_json"}, "unsupported_parameter", "response_format"),
    ("wav", {"model": "whisper-1", "timestamp_granularities[]": "word"}, "unsupported_parameter", "timestamp_granularities[]"),
    ("wav", {"model": "whisper-1", "language": "../x"}, "invalid_request", "language"),
])  # fmt: skip
async def test_recordings_refused_by_name(http, recording, data, form, code, param):
    files = {} if data is None else {"file": ("q.wav", recording if data == "wav" else data)}
    answer = await http.post("audio/transcriptions", files=files or {"other": b"x"}, data=form)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param), error


async def test_a_body_too_large_is_refused_while_it_comes(http):
    answer = await http.post("audio/transcriptions", content=bytes(27 * 1024 * 1024))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_silence_is_an_empty_text(client):
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(bytes(64000))
    assert (await client.audio.transcriptions.create(model="whisper-1", file=("s.wav", file.getvalue()))).text == ""


# Chat

QUESTION = [{"role": "system", "content": "You are a friendly voice assistant. Answer briefly."}, {"role": "user", "content": "What is seven plus five?"}]
TOOL = {"type": "function", "function": {"name": "set_light", "parameters": {"type": "object", "properties": {
    "room": {"type": "string"}, "state": {"type": "string", "enum": ["on", "off"]}}}}}  # fmt: skip


async def test_chat(client):
    answer = await client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert answer.usage.prompt_tokens > 10 and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_chat_streams(client):
    stream = await client.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True, stream_options={"include_usage": True})
    chunks = [c async for c in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.completion_tokens > 3


async def test_chat_stops_where_told(client):
    answer = await client.chat.completions.create(model="gpt-4o", messages=QUESTION, stop=[" is"])
    assert answer.choices[0].message.content == "Seven plus five"


async def test_chat_calls_tools_and_reads_their_results(client):
    ask = [{"role": "user", "content": [{"type": "text", "text": "turn off the kitchen light"}]}]
    answer = await client.chat.completions.create(model="gpt-4o", messages=ask, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "set_light"}})
    call = answer.choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"room": "kitchen", "state": "off"} and answer.choices[0].finish_reason == "tool_calls"
    stream = await client.chat.completions.create(model="gpt-4o", messages=ask, tools=[TOOL], tool_choice="required", stream=True)
    deltas = [c.choices[0].delta.tool_calls async for c in stream if c.choices and c.choices[0].delta.tool_calls]
    assert deltas[0][0].index == 0 and deltas[0][0].function.name == "set_light"
    ask += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": '{"ok": true}'}]
    assert (await client.chat.completions.create(model="gpt-4o", messages=ask, tools=[TOOL])).choices[0].message.content == "The kitchen light is off."


@pytest.mark.parametrize(("change", "code", "param"), [
    ({"messages": []}, "invalid_request", "messages"), ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "unsupported_content_type", "messages[0].content[0]"),
    ({"n": 2}, "unsupported_parameter", "n"), ({"temperature": 3}, "invalid_request", "temperature"),
    ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"), ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
    ({"messages": [{"role": "user", "content": "word " * 4000}]}, "context_length_exceeded", None), ({"stop": [5]}, "invalid_request", "stop"),
])  # fmt: skip
async def test_chat_refuses_by_name(client, change, code, param):
    with pytest.raises(BadRequestError) as refused:
        await client.chat.completions.create(**{"model": "gpt-4o", "messages": QUESTION, **change})
    assert (refused.value.code, refused.value.param) == (code, param), refused.value


# Around


async def test_models_list_agents_and_aliases(client, http):
    rows = {row.id: row for row in (await client.models.list()).data}
    assert {"default", "gpt-realtime", "whisper-1", "tts-1"} <= set(rows)
    agent = next(name for name in rows if name.startswith("agt_"))
    assert (await client.models.retrieve(agent)).pipeline["llm"]["engine"] == "ctranslate2"
    assert (await http.get("models/nope")).json()["error"]["code"] == "not_found"


async def test_beta_sessions_are_flat(http):
    made = (await http.post("realtime/sessions", json={"model": "gpt-4o-realtime-preview", "modalities": ["text"], "voice": "ash", "input_audio_format": "g711_ulaw"})).json()
    assert made["client_secret"]["value"].startswith("ek_") and (made["voice"], made["modalities"], made["input_audio_format"]) == ("ash", ["text"], "g711_ulaw")
    heard = (await http.post("realtime/transcription_sessions", json={"input_audio_transcription": {"model": "whisper-1"}})).json()
    assert heard["object"] == "realtime.transcription_session" and heard["input_audio_transcription"]["model"] == "whisper-1"


@pytest.mark.parametrize("path", ["realtime/calls", "realtime/calls/rtc_1/accept", "realtime", "realtime/translations/client_secrets"])
async def test_what_comes_later_says_so(http, path):
    answer = await http.post(path, content=b"v=0")
    assert answer.status_code == 501 and answer.json()["error"]["code"] in ("webrtc_not_enabled", "translation_not_enabled")


async def test_keys_scopes_and_methods(stack, caller, http):
    weak = (await in_public(lambda: api_key_issue(tenant=caller[0], name="weak", scopes=("realtime:connect",), actor=SYSTEM)))[1]
    for secret, status, code in ((None, 401, "missing_api_key"), ("vv_x", 401, "invalid_api_key"), (weak, 403, "insufficient_scope")):
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        async with httpx.AsyncClient(base_url=f"{stack.base_url}/v1", headers=headers) as other:
            answer = await other.post("audio/speech", json={"model": "tts-1", "voice": "alloy", "input": "hi"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await http.get("audio/speech")).status_code == 405


async def test_calls_are_metered_also_when_the_caller_hangs_up(stack):
    tenant, secret = await asyncio.to_thread(stack.new_tenant, "rest")
    async with httpx.AsyncClient(base_url=f"{stack.base_url}/v1", headers={"Authorization": f"Bearer {secret}"}, timeout=60) as http:
        await http.post("audio/speech", json={"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"})
        await http.post("audio/transcriptions", files={"file": ("q.wav", (ROOT / "samples" / "question.wav").read_bytes())}, data={"model": "whisper-1"})
        await http.post("chat/completions", json={"model": "default", "messages": QUESTION})
        used = await meters(tenant, requests=3)
        assert used["characters"] == len(TEXT) and used["audio_in_ms"] > 1000 and used["audio_out_ms"] > 1000 and used["tokens_out"] > 3
        async with http.stream("POST", "audio/speech", json={"model": "tts-1", "voice": "alloy", "input": STORY[:4000], "response_format": "pcm"}) as answer:
            await anext(answer.aiter_bytes(1000))
    used = await meters(tenant, requests=4)
    assert len(TEXT) < used["characters"] < len(TEXT) + 4000  # what was spoken, not what was asked for


async def meters(tenant, requests: int) -> dict:
    for _ in range(100):
        found = await in_tenant(tenant, totals)
        if found.get("requests", 0) >= requests:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(found)
