"""The listening side: from audio in the buffer to a committed item, its transcript and the wish for an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from voice.core import turn_end
from voice.core.context import Context
from voice.core.conversation import Entry, shown
from voice.core.effects import CountJob, EndTurnAfter, SetTurnDetection
from voice.core.errors import LIMITED, ProtocolError
from voice.core.hearing import EAGER_FEED_MS, FEED_MS, Hearing, StableText
from voice.core.input_audio import BYTES_PER_MS, InputAudio
from voice.core.jobs import Chunk, ChunkKind, Feed, Stage
from voice.core.leases import Lease
from voice.core.speech import SpeechEdge
from voice.core.waterfall import Waterfall

MIN_COMMIT_MS = 100
NEVER_MS = 1 << 62
SILENCE = "(The user says nothing.)"  # what the language model is told after idle_timeout_ms


@dataclass
class Utterance:
    """A committed piece of user audio on its way through speech recognition."""

    entry: Entry
    clock: Waterfall
    audio: bytes = b""  # PCM16 mono 24 kHz, for a second attempt
    lease: Lease | None = None
    answer: bool = False  # the transcript is to be answered by itself (create_response)
    enough: int = NEVER_MS  # a transcript up to this feed is the whole one
    shown: StableText = field(default_factory=StableText)
    confidence: float = 1.0
    speech_ms: int = 0  # from the first to the last speech


@dataclass
class Listeners:
    """What the session does when something was heard."""

    speech_started: Callable[[], bool]  # True: it must be told soon what is being said
    speaking_on: Callable[[], None]
    heard_so_far: Callable[[Hearing], None]
    resumed: Callable[[], None]
    transcript: Callable[[Utterance, str], None]
    failed: Callable[[Utterance, str, str], None]


class Turns:
    def __init__(self, context: Context, listeners: Listeners):
        self.context, self.listeners = context, listeners
        self.buffer = InputAudio(context.config.max_buffer_ms)
        self.speech_item: str | None = None  # id the coming item will have, while somebody speaks
        self.speech_from_ms = 0
        self.burst_from_ms = 0  # where the speech since the last pause began
        self.hearing: Hearing | None = None  # recognition of the speech under way
        self.shown = StableText()
        self.due_ms = NEVER_MS  # audio at which `speak_on` is to be called
        self.pending: dict[str, Utterance] = {}  # item id -> not yet transcribed
        self.held_from = 0  # of a session restored: where its input buffer began, in bytes since the session's start
        self._comes_again = False
        self._set_keeping()

    @property
    def speaking(self) -> bool:
        return self.speech_item is not None

    @property
    def wanted_from(self) -> int | None:
        """Audio from this byte on is not committed yet and must not be lost; None: what is in the buffer is nobody's speech."""
        if self.speaking:
            return max(self.buffer.start, self.speech_from_ms * BYTES_PER_MS)
        return self.buffer.start if self.buffer.keeps_all and self.buffer.held_ms else None

    def goes_on_at(self, start: int, again: bool) -> None:
        """Between `restore` and `revive`: the next audio is that from byte `start` on. `again`: it is what was in the buffer, which was kept elsewhere."""
        self.buffer.begin_at(start)
        self._comes_again = again

    def append(self, pcm: bytes) -> bool:
        """True when speech goes on for so long that something is to be done about it. Raises ProtocolError when the buffer is full."""
        self.buffer.append(pcm)
        return self.buffer.total_ms >= self.due_ms

    def detection_changed(self) -> None:
        """The session's turn_detection is another now."""
        if self.context.settings.turn_detection is None:
            self._stop_listening()
        self._set_keeping()

    def _end_speech(self) -> Hearing | None:
        """Nobody speaks any more; what was listening, if anything."""
        hearing, self.hearing, self.speech_item, self.due_ms = self.hearing, None, None, NEVER_MS
        self._set_keeping()
        return hearing

    def _set_keeping(self) -> None:
        self.buffer.keeps_all = self.speaking or self.context.settings.turn_detection is None

    def edge(self, edge: SpeechEdge) -> None:
        if self.context.settings.turn_detection is None:
            return
        if edge.kind == "started" and not self.speaking:
            self._started(edge)
        elif self.speaking:
            {"paused": self._paused, "resumed": self._resumed, "stopped": self._stopped, "started": lambda edge: None}[edge.kind](edge)

    def _started(self, edge: SpeechEdge) -> None:
        padding = self.context.settings.turn_detection.get("prefix_padding_ms", 300)
        self.speech_item = self.context.ids("item")
        self.speech_from_ms, self.burst_from_ms = max(0, edge.at_ms - padding), edge.at_ms
        self._set_keeping()
        self.context.send("input_audio_buffer.speech_started", item_id=self.speech_item, audio_start_ms=self.speech_from_ms)
        self._hear()

    def _hear(self) -> None:
        """Recognise what is being said, from `speech_from_ms` on."""
        eager = self.listeners.speech_started()
        every_ms = EAGER_FEED_MS if eager else FEED_MS
        self.shown = StableText()
        self.hearing = Hearing(self.context, self.buffer, self.speech_item, self.speech_from_ms, every_ms if eager or self._shows_text else 0, every_ms)
        self.due_ms = self.buffer.total_ms + every_ms

    @property
    def _shows_text(self) -> bool:
        return self.context.settings.transcription is not None or self.context.settings.type == "transcription"

    def speak_on(self) -> None:
        """Speech goes on: hand over what came in, and let the session see how long it has been going on."""
        if self.hearing is None:
            self.due_ms = NEVER_MS
            return
        self.hearing.feed()
        self.due_ms = self.buffer.total_ms + self.hearing.every_ms
        self.listeners.speaking_on()

    def _paused(self, edge: SpeechEdge) -> None:
        self.due_ms = NEVER_MS
        self.hearing.pause(edge.decided_ms)
        self._wait_for_end(turn_end.unheard_ms)

    def _resumed(self, edge: SpeechEdge) -> None:
        self.burst_from_ms = edge.at_ms
        self.hearing.resume(edge.at_ms)
        self.due_ms = self.buffer.total_ms + self.hearing.every_ms
        self.listeners.resumed()

    def _wait_for_end(self, rule: Callable[..., int], *known: Any) -> None:
        """Under semantic_vad: how long this pause must last to be the end of the turn."""
        detection = self.context.settings.turn_detection
        if detection is not None and detection["type"] == "semantic_vad":
            self.context.do(EndTurnAfter(rule(detection["eagerness"], *known)))

    def _stopped(self, edge: SpeechEdge) -> None:
        item_id, hearing = self.speech_item, self._end_speech()
        self.context.send("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=edge.decided_ms)
        audio = self.buffer.take(self.speech_from_ms, edge.decided_ms)
        # the end of speech as the clock saw it: everything after it has arrived since
        ended = self.context.now - max(0, self.buffer.total_ms - edge.at_ms) / 1000
        clock = Waterfall(ended)
        clock.mark("endpointing", self.context.now)
        answer = self.context.settings.turn_detection["create_response"] and self.context.settings.type == "realtime"
        self._commit(item_id, audio, clock, answer, hearing, max(0, edge.at_ms - self.burst_from_ms))

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

    def commit_silence(self, ms: int) -> str:
        """The user said nothing for so long: an empty item in the user's place; its id."""
        context, item_id = self.context, self.context.ids("item")
        end_ms = self.buffer.total_ms
        self.buffer.clear()
        context.send("input_audio_buffer.timeout_triggered", item_id=item_id, audio_start_ms=max(0, end_ms - ms), audio_end_ms=end_ms)
        entry = self._add_item(item_id)
        entry.hint = SILENCE
        self._part(entry)["transcript"] = ""
        if self._shows_text:
            self._complete(item_id, "", 0)
        context.save(entry)
        return item_id

    def clear(self) -> None:
        self.buffer.clear()
        self.reset_speech()
        self.context.send("input_audio_buffer.cleared")

    def reset_speech(self) -> None:
        self._stop_listening()
        if self.context.settings.turn_detection is not None:
            self.context.do(SetTurnDetection(self.context.settings.turn_detection, reset=True))

    def _stop_listening(self) -> None:
        if hearing := self._end_speech():
            self.context.waste(audio_in_ms=hearing.decoded_ms)
            hearing.drop()

    def _commit(self, item_id: str, audio: bytes, clock: Waterfall, answer: bool, hearing: Hearing | None = None, speech_ms: int = 0) -> None:
        self.transcribe(self._add_item(item_id), audio, clock, answer, hearing, speech_ms)

    def _add_item(self, item_id: str) -> Entry:
        item = {"id": item_id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
                "content": [{"type": "input_audio", "transcript": None}]}  # fmt: skip
        entry = Entry(item)
        previous = self.context.conversation.add(entry)
        self.context.send("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self.context.send("conversation.item.added", item=shown(item), previous_item_id=previous)
        self.context.send("conversation.item.done", item=shown(item), previous_item_id=previous)
        return entry

    def transcribe(self, entry: Entry, audio: bytes, clock: Waterfall, answer: bool, hearing: Hearing | None = None, speech_ms: int = 0,
                   rate_hz: int = 24000) -> None:  # fmt: skip
        """Recognise an item's audio, or take what `hearing` knows of it already."""
        context, item_id = self.context, entry.item["id"]
        entry.audio_ms, entry.pending = len(audio) * 500 // rate_hz, True
        if rate_hz == 24000:
            context.kept_audio.add(item_id, audio)
        utterance = Utterance(entry, clock, audio, answer=answer, speech_ms=speech_ms)
        self.pending[item_id] = utterance
        if hearing is not None and hearing.lease is not None:
            self._go_on_hearing(utterance, hearing)
            return
        params = {**context.settings.stt_hints(), "rate_hz": rate_hz, "interim_ms": 0}
        utterance.lease = context.open_job(Stage.STT, item_id, context.config.stt_deadline_ms, params, (Feed(0, pcm=audio, last=True),))

    def _go_on_hearing(self, utterance: Utterance, hearing: Hearing) -> None:
        context, utterance.shown = self.context, self.shown
        context.do(CountJob(hearing.lease.job, utterance.entry.audio_ms))
        context.waste(audio_in_ms=hearing.decoded_ms - utterance.entry.audio_ms)
        if hearing.lease.started_at:
            utterance.clock.mark("stt_queue", hearing.lease.started_at)
        if hearing.complete:
            utterance.clock.mark("stt", hearing.heard_at)
            hearing.finish()
            self._finished(utterance, hearing.text, hearing.confidence, hearing.logprobs)
        else:
            utterance.enough = NEVER_MS if hearing.pause_feed is None else hearing.pause_feed
            utterance.lease = hearing.hand_over(b"" if hearing.pause_feed is not None else utterance.audio[hearing.fed_bytes :])
            utterance.lease.deadline = context.now + context.config.stt_deadline_ms / 1000

    # Chunks

    def take(self, lease: Lease, chunk: Chunk) -> None:
        hearing = self.hearing
        if hearing is not None and hearing.lease is lease:
            self._take_early(hearing, chunk)
        elif utterance := self.pending.get(lease.owner):
            self._take_late(utterance, lease, chunk)

    def _take_early(self, hearing: Hearing, chunk: Chunk) -> None:
        """Heard while the utterance is not over."""
        if chunk.kind is ChunkKind.TRANSCRIPT and hearing.take(chunk):
            self._show(hearing.item_id, self.shown.grow(hearing.text))
            if hearing.complete:
                self._wait_for_end(turn_end.wait_ms, hearing.text, hearing.ended)
            self.listeners.heard_so_far(hearing)
        elif chunk.kind in (ChunkKind.FAILED, ChunkKind.DONE):
            hearing.lost(retry=chunk.kind is ChunkKind.FAILED and bool(chunk.meta.get("retryable")))

    def _take_late(self, utterance: Utterance, lease: Lease, chunk: Chunk) -> None:
        """Heard after the commit."""
        if chunk.kind is ChunkKind.STARTED:
            utterance.clock.mark("stt_queue", self.context.now)
        elif chunk.kind is ChunkKind.TRANSCRIPT and (chunk.final or chunk.index >= utterance.enough):
            utterance.clock.mark("stt", self.context.now)
            self.context.end_lease(lease)
            self._finished(utterance, chunk.text.strip(), float(chunk.meta.get("confidence", 1.0)), chunk.meta.get("logprobs", []))
        elif chunk.kind is ChunkKind.FAILED:
            self.lease_failed(lease, chunk.name or "stt_unavailable", chunk.text, retry=bool(chunk.meta.get("retryable")))
        elif chunk.kind is ChunkKind.DONE:
            self.lease_failed(lease, "stt_unavailable", "Speech recognition ended without a transcript.", retry=False)

    def _show(self, item_id: str, text: str) -> None:
        if text and self._shows_text:
            self.context.send("conversation.item.input_audio_transcription.delta", item_id=item_id, content_index=0, delta=text)

    def _complete(self, item_id: str, text: str, audio_ms: int, logprobs: Sequence[Sequence[Any]] = ()) -> None:
        told = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in logprobs]
        self.context.send("conversation.item.input_audio_transcription.completed", item_id=item_id, content_index=0,
                          transcript=text, usage={"type": "duration", "seconds": round(audio_ms / 1000, 3)},
                          **({"logprobs": told} if self.context.settings.logprobs else {}))  # fmt: skip

    def _finished(self, utterance: Utterance, text: str, confidence: float, logprobs: Sequence[Sequence[Any]]) -> None:
        entry = utterance.entry
        item_id = entry.item["id"]
        utterance.confidence = confidence
        del self.pending[item_id]
        entry.pending = False
        self._part(entry)["transcript"] = text
        self.context.unbilled_audio_ms += entry.audio_ms
        if self._shows_text:
            if utterance.shown.shown:
                self._show(item_id, utterance.shown.finish(text))
            self._complete(item_id, text, entry.audio_ms, logprobs)
        if self.context.conversation.get(item_id) is entry:
            self.context.save(entry)
        self.listeners.transcript(utterance, text)

    def lease_failed(self, lease: Lease, code: str, message: str, *, retry: bool) -> None:
        if self.hearing is not None and self.hearing.lease is lease:
            return self.hearing.lost(retry)
        utterance = self.pending.get(lease.owner)
        if utterance is None:
            return
        feeds = (Feed(0, pcm=utterance.audio, last=True),) if utterance.audio else tuple(lease.feeds)
        gone = code == "lease_lost"
        if gone and retry and self.context.reopen(lease, feeds) or code not in LIMITED and self.context.fall_back(lease, feeds):
            return
        if retry and not gone and self.context.reopen(lease, feeds):
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
        """In another process: utterances are recognised anew from what their jobs had been fed, speech under way from its audio, which comes again."""
        if self.speech_item and self._comes_again:
            self._set_keeping()
            self._hear()
        else:
            self._forget_speech()
        for utterance in list(self.pending.values()):
            old = utterance.lease
            feeds = heard.get(old.job.id, ())
            utterance.lease = self.context.open_again(old, self.context.config.stt_deadline_ms, feeds)
            if not feeds or not feeds[-1].last:
                self.lease_failed(utterance.lease, "stt_unavailable", "The audio of this utterance was lost.", retry=False)

    def _forget_speech(self) -> None:
        """What was said and not committed is gone, and the client is told."""
        if self.speech_item:
            self.context.send("input_audio_buffer.speech_stopped", item_id=self.speech_item, audio_end_ms=self.buffer.total_ms)
            self.context.send("input_audio_buffer.cleared")
        self.reset_speech()

    def close(self) -> None:
        self._stop_listening()
        for utterance in list(self.pending.values()):
            self.context.end_lease(utterance.lease, "disconnected")
            utterance.entry.pending = False
            if self.context.conversation.get(utterance.entry.item["id"]) is utterance.entry:
                self.context.save(utterance.entry)
        self.pending.clear()
