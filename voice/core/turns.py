"""The listening side: from audio in the buffer to a committed item, its transcript and the wish for an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from voice.core.context import Context
from voice.core.conversation import Entry, shown
from voice.core.effects import SetTurnDetection
from voice.core.errors import ProtocolError
from voice.core.input_audio import BYTES_PER_MS, InputAudio
from voice.core.jobs import Chunk, ChunkKind, Feed, Stage
from voice.core.leases import Lease
from voice.core.speech import SpeechEdge
from voice.core.waterfall import Waterfall

MIN_COMMIT_MS = 100


@dataclass
class Utterance:
    """A committed piece of user audio on its way through speech recognition."""

    entry: Entry
    clock: Waterfall
    lease: Lease | None = None
    answer: bool = False  # the transcript is to be answered by itself (create_response)
    heard: list[str] = field(default_factory=list)  # interim text sent as deltas


@dataclass
class Listeners:
    """What the session does when something was heard."""

    speech_started: Callable[[], None]
    transcript: Callable[[Utterance, str], None]
    failed: Callable[[Utterance, str, str], None]


class Turns:
    def __init__(self, context: Context, listeners: Listeners):
        self.context, self.listeners = context, listeners
        self.buffer = InputAudio(context.config.max_buffer_ms)
        self.speech_item: str | None = None  # id the coming item will have, while somebody speaks
        self.speech_from_ms = 0
        self.pending: dict[str, Utterance] = {}  # item id -> not yet transcribed
        self._set_keeping()

    @property
    def speaking(self) -> bool:
        return self.speech_item is not None

    def append(self, pcm: bytes) -> None:
        """Raises ProtocolError when the buffer is full."""
        self.buffer.append(pcm)

    def detection_changed(self) -> None:
        """The session's turn_detection is another now."""
        if self.context.settings.turn_detection is None:
            self.speech_item = None
        self._set_keeping()

    def _set_keeping(self) -> None:
        self.buffer.keeps_all = self.speaking or self.context.settings.turn_detection is None

    def edge(self, edge: SpeechEdge) -> None:
        if self.context.settings.turn_detection is None:
            return
        if edge.kind == "started" and not self.speaking:
            self._started(edge)
        elif edge.kind == "stopped" and self.speaking:
            self._stopped(edge)

    def _started(self, edge: SpeechEdge) -> None:
        padding = self.context.settings.turn_detection.get("prefix_padding_ms", 300)
        self.speech_item = self.context.ids("item")
        self.speech_from_ms = max(0, edge.at_ms - padding)
        self._set_keeping()
        self.context.send("input_audio_buffer.speech_started", item_id=self.speech_item, audio_start_ms=self.speech_from_ms)
        self.listeners.speech_started()

    def _stopped(self, edge: SpeechEdge) -> None:
        item_id, self.speech_item = self.speech_item, None
        self._set_keeping()
        self.context.send("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=edge.decided_ms)
        audio = self.buffer.take(self.speech_from_ms, edge.decided_ms)
        # the end of speech as the clock saw it: everything after it has arrived since
        ended = self.context.now - max(0, self.buffer.total_ms - edge.at_ms) / 1000
        clock = Waterfall(ended)
        clock.mark("endpointing", self.context.now)
        answer = self.context.settings.turn_detection["create_response"] and self.context.settings.type == "realtime"
        self._commit(item_id, audio, clock, answer)

    def commit(self) -> None:
        """By hand. Raises ProtocolError input_audio_buffer_commit_empty under 100 ms."""
        if self.buffer.held_ms < MIN_COMMIT_MS:
            raise ProtocolError(
                "input_audio_buffer_commit_empty",
                f"Error committing input audio buffer: buffer too small. Expected at least {MIN_COMMIT_MS}ms of audio, but buffer "
                f"only has {self.buffer.held_ms:.2f}ms of audio.",
            )  # fmt: skip
        item_id = self.speech_item or self.context.ids("item")
        audio = self.buffer.take()
        self.reset_speech()
        self._commit(item_id, audio, Waterfall(self.context.now), answer=False)

    def clear(self) -> None:
        self.buffer.clear()
        self.reset_speech()
        self.context.send("input_audio_buffer.cleared")

    def reset_speech(self) -> None:
        self.speech_item = None
        self._set_keeping()
        if self.context.settings.turn_detection is not None:
            self.context.do(SetTurnDetection(self.context.settings.turn_detection, reset=True))

    def _commit(self, item_id: str, audio: bytes, clock: Waterfall, answer: bool) -> None:
        item = {"id": item_id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
                "content": [{"type": "input_audio", "transcript": None}]}  # fmt: skip
        entry = Entry(item)
        previous = self.context.conversation.add(entry)
        self.context.send("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self.context.send("conversation.item.added", item=shown(item), previous_item_id=previous)
        self.context.send("conversation.item.done", item=shown(item), previous_item_id=previous)
        self.transcribe(entry, audio, clock, answer)

    def transcribe(self, entry: Entry, audio: bytes, clock: Waterfall, answer: bool, rate_hz: int = 24000) -> None:
        entry.audio_ms, entry.pending = len(audio) * 500 // rate_hz, True
        if rate_hz == 24000:
            self.context.kept_audio.add(entry.item["id"], audio)
        utterance = Utterance(entry, clock, answer=answer)
        self.pending[entry.item["id"]] = utterance
        params = {**self.context.settings.stt_hints(), "rate_hz": rate_hz}
        utterance.lease = self.context.open_job(Stage.STT, entry.item["id"], self.context.config.stt_deadline_ms, params,
                                                (Feed(0, pcm=audio, last=True),))  # fmt: skip

    # Chunks

    def take(self, lease: Lease, chunk: Chunk) -> None:
        utterance = self.pending.get(lease.owner)
        if utterance is None:
            return
        if chunk.kind is ChunkKind.STARTED:
            utterance.clock.mark("stt_queue", self.context.now)
        elif chunk.kind is ChunkKind.TRANSCRIPT and chunk.final:
            self._finished(utterance, chunk)
        elif chunk.kind is ChunkKind.FAILED:
            self.lease_failed(lease, chunk.name or "stt_unavailable", chunk.text, retry=bool(chunk.meta.get("retryable")))
        elif chunk.kind is ChunkKind.DONE:
            self.lease_failed(lease, "stt_unavailable", "Speech recognition ended without a transcript.", retry=False)

    def _finished(self, utterance: Utterance, chunk: Chunk) -> None:
        self.context.end_lease(utterance.lease)
        entry, text = utterance.entry, chunk.text.strip()
        item_id = entry.item["id"]
        utterance.clock.mark("stt", self.context.now)
        del self.pending[item_id]
        entry.pending = False
        self._part(entry)["transcript"] = text
        self.context.unbilled_audio_ms += entry.audio_ms
        if self.context.settings.transcription is not None or self.context.settings.type == "transcription":
            self.context.send("conversation.item.input_audio_transcription.completed", item_id=item_id, content_index=0,
                              transcript=text, usage={"type": "duration", "seconds": round(entry.audio_ms / 1000, 3)})  # fmt: skip
        if self.context.conversation.get(item_id) is entry:
            self.context.save(entry)
        self.listeners.transcript(utterance, text)

    def lease_failed(self, lease: Lease, code: str, message: str, *, retry: bool) -> None:
        utterance = self.pending.get(lease.owner)
        if utterance is None or retry and self.context.reopen(lease, tuple(lease.feeds)):
            return
        self.context.end_lease(lease, "superseded")
        code = "stt_unavailable" if code == "lease_lost" else code
        message = message or "Speech recognition is not available; try again in a moment."
        item_id = utterance.entry.item["id"]
        del self.pending[item_id]
        utterance.entry.pending = False
        self.context.send("conversation.item.input_audio_transcription.failed", item_id=item_id, content_index=0,
                          error={"type": "server_error", "code": code, "message": message})  # fmt: skip
        if self.context.conversation.get(item_id) is utterance.entry:
            self.context.save(utterance.entry)
        self.listeners.failed(utterance, code, message)

    @staticmethod
    def _part(entry: Entry) -> dict[str, Any]:
        return next(p for p in entry.item["content"] if p["type"] == "input_audio")

    def revive(self, heard: Mapping[str, tuple[Feed, ...]]) -> None:
        """In another process: utterances are recognised anew from what their jobs had been fed; speech that was under way is lost."""
        if self.speech_item:
            self.context.send("input_audio_buffer.speech_stopped", item_id=self.speech_item, audio_end_ms=self.buffer.total_ms)
            self.context.send("input_audio_buffer.cleared")
        self.reset_speech()
        for utterance in list(self.pending.values()):
            old = utterance.lease
            feeds = heard.get(old.job.id, ())
            utterance.lease = self.context.open_again(old, self.context.config.stt_deadline_ms, feeds)
            if not feeds or not feeds[-1].last:
                self.lease_failed(utterance.lease, "stt_unavailable", "The audio of this utterance was lost.", retry=False)

    def close(self) -> None:
        for utterance in list(self.pending.values()):
            self.context.end_lease(utterance.lease, "disconnected")
            utterance.entry.pending = False
            if self.context.conversation.get(utterance.entry.item["id"]) is utterance.entry:
                self.context.save(utterance.entry)
        self.pending.clear()
