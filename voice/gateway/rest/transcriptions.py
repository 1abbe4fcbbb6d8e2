"""POST /v1/audio/transcriptions and /translations: a recording to text, its utterances one after the other (protocol section 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from apps.common.errors import BadRequest
from voice.audio.files import UnreadableAudio, read
from voice.audio.segments import Segment, TooLong, segments
from voice.core.jobs import ChunkKind, Feed, Stage
from voice.gateway.rest.door import Caller, operation, unsupported
from voice.gateway.rest.speech import sse
from voice.gateway.rest.work import Work, WorkFailed

MAX_AUDIO_MS = 2 * 3600 * 1000
DEADLINE_MS = 60_000  # of one utterance
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_END = object()


@dataclass(frozen=True, slots=True)
class Heard:
    """One utterance. Times in ms of the recording."""

    start_ms: int
    end_ms: int
    text: str
    no_speech: float
    language: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What the form asked for."""

    file: Any
    model: str
    language: str
    prompt: str
    format: str
    stream: bool
    task: str


@operation("audio:write")
async def transcribe(request: HttpRequest, caller: Caller) -> HttpResponse:
    return await _answer(request, caller, "transcribe")


@operation("audio:write")
async def translate(request: HttpRequest, caller: Caller) -> HttpResponse:
    return await _answer(request, caller, "translate")


async def _answer(request: HttpRequest, caller: Caller, task: str) -> HttpResponse:
    wish = await asyncio.to_thread(_wish, request, task)
    agent = await caller.agent(wish.model)
    heard = _heard(caller, agent, wish)
    if wish.stream:
        first = await anext(heard)
        return StreamingHttpResponse(_events(first, heard), content_type="text/event-stream", headers={"Cache-Control": "no-store"})
    found: list[Heard] = []
    total_ms = 0
    async with aclosing(heard):
        async for piece in heard:
            if isinstance(piece, Heard):
                found.append(piece)
            else:
                total_ms = piece
    return _RENDER[wish.format](found, total_ms, wish)


def _wish(request: HttpRequest, task: str) -> Wish:
    """Raises BadRequest. Parses the form: in a thread."""
    form, files = request.POST, request.FILES
    if "file" not in files:
        raise BadRequest("'file' is required: the recording, as multipart/form-data", param="file")
    format = form.get("response_format") or "json"
    if format == "diarized_json":
        raise unsupported("response_format", "diarized_json is not available; use verbose_json")
    if format not in FORMATS:
        raise BadRequest(f"'response_format': {format[:40]!r} is not one of {', '.join(FORMATS)}", param="response_format")
    granularities = form.getlist("timestamp_granularities[]") or form.getlist("timestamp_granularities")
    if "word" in granularities:
        raise unsupported("timestamp_granularities[]", "the times of words are not available; use segment")
    stream = (form.get("stream") or "").lower() in ("true", "1")
    if stream and format not in ("json", "text"):
        raise unsupported("stream", f"not with response_format={format}")
    language = (form.get("language") or "")[:16]
    if language and not language.replace("-", "").isalpha():
        raise BadRequest(f"'language': {language!r} is not a language such as en", param="language")
    return Wish(files["file"], form.get("model") or "", language, (form.get("prompt") or "")[:2000], format, stream, task)


async def _heard(caller: Caller, agent: Any, wish: Wish) -> AsyncIterator[Heard | int]:
    """Utterances, then the recording's length in ms. What was heard is billed. Raises BadRequest, WorkFailed, RateLimited."""
    cut, billed_ms = segments(read(wish.file), MAX_AUDIO_MS), 0
    params = {"language": wish.language or agent.language, "prompt": wish.prompt, "rate_hz": 24000, "task": wish.task}
    try:
        while (piece := await asyncio.to_thread(_next, cut)) is not _END:
            if not isinstance(piece, Segment):
                yield piece
                continue
            length_ms = piece.end_ms - piece.start_ms
            await caller.spend("audio_minutes_per_day", max(1, round(length_ms / 1000)))
            work = Work(Stage.STT, (agent.stt_engine, agent.stt_model), params, (Feed(0, pcm=piece.pcm, last=True),), owner=caller.id, deadline_ms=DEADLINE_MS)
            async with work:
                async for chunk in work:
                    if chunk.kind is ChunkKind.TRANSCRIPT and chunk.final:
                        billed_ms += length_ms
                        if text := chunk.text.strip():
                            yield Heard(piece.start_ms, piece.end_ms, text, chunk.meta.get("no_speech", 0.0), chunk.meta.get("language", "en"))
    except UnreadableAudio as error:
        raise BadRequest(f"'file': {error}", param="file") from error
    except TooLong:
        raise BadRequest(f"'file': longer than {MAX_AUDIO_MS // 60000} minutes", param="file") from None
    finally:
        if billed_ms:
            caller.bill(agent, audio_in_ms=billed_ms)


def _next(cut: Iterator[Segment | int]) -> Any:
    return next(cut, _END)


# The answers


async def _events(first: Heard | int, heard: AsyncIterator[Heard | int]) -> AsyncIterator[bytes]:
    texts: list[str] = []
    total_ms = 0

    def delta(piece: Heard) -> bytes:
        text = piece.text if not texts else f" {piece.text}"
        texts.append(text)
        return sse({"type": "transcript.text.delta", "delta": text})

    try:
        async with aclosing(heard):
            if isinstance(first, Heard):
                yield delta(first)
            else:
                total_ms = first
            async for piece in heard:
                if isinstance(piece, Heard):
                    yield delta(piece)
                else:
                    total_ms = piece
    except (WorkFailed, BadRequest) as error:
        yield sse({"type": "error", "error": {"type": "server_error", "code": error.code, "message": error.message, "param": None}})
        return
    yield sse({"type": "transcript.text.done", "text": "".join(texts), "usage": _usage(total_ms)})


def _usage(total_ms: int) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(total_ms / 1000, 3)}


def _text(found: list[Heard]) -> str:
    return " ".join(piece.text for piece in found)


def _json(found: list[Heard], total_ms: int, wish: Wish) -> HttpResponse:
    return JsonResponse({"text": _text(found), "usage": _usage(total_ms)})


def _plain(found: list[Heard], total_ms: int, wish: Wish) -> HttpResponse:
    return HttpResponse(_text(found) + "\n", content_type="text/plain; charset=utf-8")


def _verbose(found: list[Heard], total_ms: int, wish: Wish) -> HttpResponse:
    """What no engine here tells (tokens, log probability) is given as its neutral value: clients' models require the keys."""
    listed = [{"id": i, "seek": 0, "start": p.start_ms / 1000, "end": p.end_ms / 1000, "text": p.text, "tokens": [], "temperature": 0.0,
               "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": p.no_speech} for i, p in enumerate(found)]  # fmt: skip
    language = "en" if wish.task == "translate" else wish.language or (found[0].language if found else "en")
    return JsonResponse({"task": wish.task, "language": language, "duration": total_ms / 1000, "text": _text(found), "segments": listed,
                         "usage": _usage(total_ms)})  # fmt: skip


def _clock(ms: int, comma: str) -> str:
    return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"


def _srt(found: list[Heard], total_ms: int, wish: Wish) -> HttpResponse:
    blocks = [f"{i}\n{_clock(p.start_ms, ',')} --> {_clock(p.end_ms, ',')}\n{p.text}\n" for i, p in enumerate(found, 1)]
    return HttpResponse("\n".join(blocks), content_type="application/x-subrip; charset=utf-8")


def _vtt(found: list[Heard], total_ms: int, wish: Wish) -> HttpResponse:
    blocks = [f"{_clock(p.start_ms, '.')} --> {_clock(p.end_ms, '.')}\n{p.text}\n" for p in found]
    return HttpResponse("WEBVTT\n\n" + "\n".join(blocks), content_type="text/vtt; charset=utf-8")


_RENDER: dict[str, Callable[[list[Heard], int, Wish], HttpResponse]] = {
    "json": _json, "text": _plain, "verbose_json": _verbose, "srt": _srt, "vtt": _vtt,
}  # fmt: skip
