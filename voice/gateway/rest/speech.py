"""POST /v1/audio/speech: text to speech, sent as it is spoken (protocol section 8)."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from apps.common.errors import BadRequest
from voice.audio.files import CONTENT_TYPES, Encoder
from voice.core.chunker import Chunker
from voice.core.jobs import ChunkKind, Feed, Stage
from voice.core.usage import ASSISTANT_AUDIO_MS_PER_TOKEN
from voice.gateway.rest.door import Caller, json_body, operation, pick
from voice.gateway.rest.work import Work, WorkFailed

MAX_CHARS = 4096
AHEAD = 2  # sentences given to the engine beyond the one whose sound is sent: a client that reads slowly holds it back
DEADLINE_MS = 15 * 60 * 1000
BYTES_PER_MS = 48


@operation("audio:write")
async def create(request: HttpRequest, caller: Caller) -> HttpResponse:
    body = json_body(request)
    text = pick(body, "input", str, "")
    if not text.strip() or len(text) > MAX_CHARS:
        raise BadRequest(f"'input': 1 to {MAX_CHARS} characters, got {len(text)}", param="input")
    format = pick(body, "response_format", str, "mp3")
    if format not in CONTENT_TYPES:
        raise BadRequest(f"'response_format': {format[:40]!r} is not one of {', '.join(CONTENT_TYPES)}", param="response_format")
    events = pick(body, "stream_format", str, "audio")
    if events not in ("audio", "sse"):
        raise BadRequest("'stream_format': audio or sse", param="stream_format")
    speed = pick(body, "speed", (int, float), 1.0)
    if not 0.25 <= speed <= 4:
        raise BadRequest(f"'speed': {speed} is not between 0.25 and 4", param="speed")
    agent = await caller.agent(body.get("model"))
    voice = body.get("voice")
    voice = pick(voice, "id", str) if isinstance(voice, dict) else pick(body, "voice", str, agent.voice)
    params = {"voice": voice, "speed": speed, "language": agent.language, "rate_hz": 24000}
    sound = _sound(caller, agent, text, params)
    try:
        first = await anext(sound)  # before the answer begins: what goes wrong has a status
    except StopAsyncIteration:
        raise WorkFailed("tts_unavailable", "Nothing could be said of this text.") from None
    answer = _encoded(first, sound, Encoder(format))
    if events == "sse":
        return StreamingHttpResponse(_events(answer), content_type="text/event-stream", headers={"Cache-Control": "no-store"})
    return StreamingHttpResponse((part async for part, _ in answer if part), content_type=CONTENT_TYPES[format])


async def _sound(caller: Caller, agent: Any, text: str, params: dict[str, Any]) -> AsyncIterator[bytes]:
    """PCM16 24 kHz, sentence after sentence. What was spoken is billed, whoever hangs up. Raises WorkFailed."""
    chunker = Chunker()
    sentences = [s for s in [*chunker.feed(text), *chunker.flush()] if s.strip()]
    begun, sent, given = 0, 0, 0
    work = Work(Stage.TTS, (agent.tts_engine, agent.tts_model), params, owner=caller.id, deadline_ms=DEADLINE_MS)

    async def give(until: int) -> None:
        nonlocal given
        while given < min(until, len(sentences)):
            await work.feed(Feed(given, sentences[given]))
            given += 1
            if given == len(sentences):
                await work.feed(Feed(given, last=True))

    try:
        async with work:
            await give(1 + AHEAD)
            async for chunk in work:
                if chunk.kind is ChunkKind.AUDIO and chunk.pcm:
                    begun, sent = chunk.index + 1, sent + len(chunk.pcm)
                    yield chunk.pcm
                if chunk.final:
                    await give(chunk.index + 2 + AHEAD)
    finally:
        if sent:
            caller.bill(agent, characters=sum(map(len, sentences[:begun])), audio_out_ms=sent // BYTES_PER_MS)


async def _encoded(first: bytes, sound: AsyncIterator[bytes], encoder: Encoder) -> AsyncIterator[tuple[bytes, int]]:
    """(encoded bytes, ms of sound in them)"""
    plain = encoder.format in ("wav", "pcm")

    async def push(pcm: bytes) -> bytes:
        return encoder.push(pcm) if plain else await asyncio.to_thread(encoder.push, pcm)

    async with aclosing(sound):
        yield encoder.start() + await push(first), len(first) // BYTES_PER_MS
        async for pcm in sound:
            yield await push(pcm), len(pcm) // BYTES_PER_MS
        if data := await asyncio.to_thread(encoder.end):
            yield data, 0


async def _events(answer: AsyncIterator[tuple[bytes, int]]) -> AsyncIterator[bytes]:
    total_ms = 0
    try:
        async with aclosing(answer):
            async for data, ms in answer:
                total_ms += ms
                if data:
                    yield sse({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
    except WorkFailed as error:
        yield sse({"type": "error", "error": {"type": "server_error", "code": error.code, "message": error.message, "param": None}})
        return
    tokens = total_ms // ASSISTANT_AUDIO_MS_PER_TOKEN
    yield sse({"type": "speech.audio.done", "usage": {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}})


def sse(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"
