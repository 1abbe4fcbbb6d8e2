"""Sentences spoken while the engines could speak, for when they cannot (protocol section 9, degraded mode).

A voice's notices are rendered by its speech engine when a session with that voice begins, kept in Redis for all gateways and in
this process. Where none was rendered, a sound file shipped beside this module is said (English, made by tools/notices.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import wave
from functools import cache
from pathlib import Path

import numpy as np
import soxr

from voice.bus.redis import CONNECTION_ERRORS, BusUnavailable
from voice.core.jobs import Chunk, ChunkKind, Feed, Job, Stage
from voice.core.notices import Notice, NoticeKind
from voice.core.settings import SessionConfig
from voice.gateway.dispatch import Dispatch

log = logging.getLogger("voice.notices")
KEEP_S = 30 * 86400
RENDER_S = 10
HZ = 24000
TEXTS: dict[str, dict[NoticeKind, str]] = {
    "en": {
        NoticeKind.STT_UNAVAILABLE: "Sorry, I cannot hear you well at the moment. Please try again in a little while.",
        NoticeKind.LLM_UNAVAILABLE: "Sorry, I cannot think of an answer at the moment. Please try again in a little while.",
        NoticeKind.INSUFFICIENT_QUOTA: "The budget for this service is used up, so I have to stop here. Goodbye.",
        NoticeKind.SESSION_ENDED: "This call was ended. Goodbye.",
    },
    "de": {
        NoticeKind.STT_UNAVAILABLE: "Entschuldigung, ich kann Sie gerade nicht verstehen. Bitte versuchen Sie es gleich noch einmal.",
        NoticeKind.LLM_UNAVAILABLE: "Entschuldigung, mir fällt gerade keine Antwort ein. Bitte versuchen Sie es gleich noch einmal.",
        NoticeKind.INSUFFICIENT_QUOTA: "Das Guthaben für diesen Dienst ist aufgebraucht, deshalb muss ich hier aufhören. Auf Wiederhören.",
        NoticeKind.SESSION_ENDED: "Dieses Gespräch wurde beendet. Auf Wiederhören.",
    },
}  # fmt: skip


@cache
def shipped(kind: NoticeKind) -> Notice:
    with wave.open(str(Path(__file__).parent / f"{kind}.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        pcm = soxr.resample(samples, file.getframerate(), HZ).astype("<i2").tobytes()
    return Notice(TEXTS["en"][kind], pcm)


class Rendering:
    """Collects the sound of one notice; the bus hands it the job's chunks."""

    def __init__(self) -> None:
        self.pcm = bytearray()
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_chunk(self, chunk: Chunk) -> None:
        if chunk.kind is ChunkKind.AUDIO:
            self.pcm += chunk.pcm
        elif chunk.kind in (ChunkKind.DONE, ChunkKind.FAILED) and not self.done.done():
            self.done.set_result(bytes(self.pcm) if chunk.kind is ChunkKind.DONE else b"")


class Shelf:
    """The notices of this process."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, ...], Notice] = {}
        self._tasks: dict[tuple[str, ...], asyncio.Task] = {}

    def of(self, config: SessionConfig, dispatch: Dispatch):
        """The `Notices` of a session; its voice's are made ready beside it."""
        self._prepare(config, config.voice, dispatch)

        def find(kind: NoticeKind, voice: str) -> Notice:
            if made := self._made.get((*_speaker(config, voice), kind)):
                return made
            self._prepare(config, voice, dispatch)
            return shipped(kind)

        return find

    def _prepare(self, config: SessionConfig, voice: str, dispatch: Dispatch) -> None:
        speaker = _speaker(config, voice)
        if (*speaker, NoticeKind.SESSION_ENDED) not in self._made and speaker not in self._tasks:
            task = self._tasks[speaker] = asyncio.create_task(self._make(speaker, dispatch), name="notices")
            task.add_done_callback(lambda _: self._tasks.pop(speaker, None))

    async def _make(self, speaker: tuple[str, ...], dispatch: Dispatch) -> None:
        for kind, text in TEXTS.get(speaker[3][:2], TEXTS["en"]).items():
            key = "voice:notice:" + hashlib.sha256("\0".join((*speaker, text)).encode()).hexdigest()
            try:
                pcm = await dispatch.bus.kept(key) or await self._render(speaker, text, dispatch)
                if not pcm:
                    return
                await dispatch.bus.keep(key, pcm, KEEP_S)
            except (*CONNECTION_ERRORS, BusUnavailable, TimeoutError) as error:
                log.warning("notices of voice %s are not ready (%s)", speaker[2], type(error).__name__)
                return
            self._made[*speaker, kind] = Notice(text, pcm)

    async def _render(self, speaker: tuple[str, ...], text: str, dispatch: Dispatch) -> bytes:
        engine, model, voice, language = speaker
        job = Job(f"job_{secrets.token_hex(10)}", 1, Stage.TTS, "sess_notices", engine, model, RENDER_S * 1000,
                  {"voice": voice, "speed": 1.0, "language": language, "rate_hz": HZ})  # fmt: skip
        rendering = Rendering()
        dispatch.listen(job, rendering)
        try:
            await dispatch.bus.open(job, (Feed(0, text), Feed(1, last=True)))
            return await asyncio.wait_for(rendering.done, RENDER_S)
        finally:
            dispatch.forget(job.id)


def _speaker(config: SessionConfig, voice: str) -> tuple[str, str, str, str]:
    return config.tts_engine, config.tts_model, voice, config.language


shelf = Shelf()
