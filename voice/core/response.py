"""One response: opens its jobs, turns their chunks into events in the protocol's order, paces the audio, ends once."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voice.core.chunker import Chunker
from voice.core.context import Context
from voice.core.conversation import Entry, Sentence, Spoken, llm_messages, shown
from voice.core.effects import ClearTimer, CountJob, RecordTurn, SendAudio, SetTimer
from voice.core.errors import LIMITED
from voice.core.input_audio import BYTES_PER_MS
from voice.core.jobs import Chunk, ChunkKind, Feed, Stage
from voice.core.leases import Lease
from voice.core.notices import Notice, NoticeKind
from voice.core.server_tools import ServerTools
from voice.core.setters import FORMATS
from voice.core.states import RESPONSE, ResponseState, advance
from voice.core.usage import Spent
from voice.core.waterfall import Waterfall

if TYPE_CHECKING:
    from voice.core.draft import Draft

PACE_AHEAD_S = 2.0  # audio is sent at most this far ahead of its playing
FEED_AHEAD = 2  # sentences given to the speech engine beyond the one being sent
PIECE = 100 * BYTES_PER_MS  # of prepared sound in one event
TTS_JOB_MS = 15 * 60 * 1000  # a long answer holds its worker as long as it is spoken


@dataclass
class ResponseParams:
    """The session's settings with what response.create overrides."""

    instructions: str
    modality: str  # "audio" or "text"
    voice: str
    speed: float
    tools: list[dict[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    max_output_tokens: int | str
    metadata: dict[str, str] | None = None
    out_of_band: bool = False
    input: list[Entry] | None = None  # None: the conversation
    format: str = "audio/pcm"  # of its audio, as the client gets it; inside all is PCM16 24 kHz
    truncation: str | dict[str, Any] = "auto"
    reasoning: str = ""  # effort
    server_tools: dict[str, str] = field(default_factory=dict)  # functions the shell calls: name -> URL


@dataclass
class Message:
    """The spoken or written item of a response."""

    entry: Entry
    output_index: int
    chunker: Chunker = field(default_factory=Chunker)
    text: str = ""
    cut: int = 0  # characters already in sentences
    text_done: bool = False
    closed: bool = False
    # audio only
    fed: int = 0  # sentences given to the speech engine
    last_fed: bool = False
    sending: int = 0  # sentence whose audio goes out
    queue: deque[tuple[int, bytes]] = field(default_factory=deque)
    received: dict[int, int] = field(default_factory=dict)  # sentence -> bytes
    sent: dict[int, int] = field(default_factory=dict)  # sentence -> bytes
    skip: dict[int, int] = field(default_factory=dict)  # bytes of a sentence to drop after a second attempt


class Response:
    def __init__(self, context: Context, params: ResponseParams, clock: Waterfall, user_item_id: str | None = None):
        self.context, self.params, self.clock, self.user_item_id = context, params, clock, user_item_id
        self.id = context.ids("resp")
        self.state = ResponseState.IN_PROGRESS
        self.details: dict[str, Any] | None = None
        self.output: list[Entry] = []
        self.message: Message | None = None
        self.calls = 0
        self.spent = Spent()
        self.waiting: set[str] = set()  # user items whose transcript must come first
        self.llm: Lease | None = None
        self.tts: Lease | None = None
        self.fed_ahead = 0  # sentences that were given to the speech engine before the response began
        self.finish_reason = ""
        self.llm_done = False  # no more text will come
        self.counted = False  # the engine told what it spent
        self.play_end = 0.0
        self.sent_bytes = 0
        self.deltas = 0
        self.apology: Notice | None = None  # said when all else has been
        self.failure: tuple[str, str] | None = None  # (code, message) the response ends with after its apology
        self.notice_bytes = 0  # of sent_bytes: not billed
        self.mute = False  # speech synthesis is not available: text only
        self.server = ServerTools()
        self.server.response = self

    @property
    def active(self) -> bool:
        return self.state is ResponseState.IN_PROGRESS

    # Beginning

    def begin(self, waiting: set[str] | None, draft: Draft | None = None) -> None:
        """`waiting`: user items whose transcripts must come first; None: the engines are not asked. `draft`: this answer, begun ahead."""
        self.context.send("response.created", response=self.wire())
        if waiting is None:
            return
        self.waiting = waiting
        self.context.requests.spend(1, self.context.now)
        if draft is not None:
            self.adopt(draft)
        elif not waiting:
            self.open_jobs()

    def transcript_ready(self, item_id: str) -> None:
        if item_id in self.waiting:
            self.waiting.discard(item_id)
            if not self.waiting and self.active:
                self.open_jobs()

    def open_jobs(self) -> None:
        params = self.params
        entries = params.input if params.input is not None else self.context.conversation.entries()
        self.llm = open_llm(self.context, params, entries, self.id)
        if params.modality == "audio":
            self.tts = open_tts(self.context, params, self.id)

    def adopt(self, draft: Draft) -> None:
        """Go on with an answer that was begun ahead: what the workers gave meanwhile is taken as if it came now."""
        self.llm, self.tts, self.fed_ahead = draft.llm, draft.tts, draft.sentences
        self.llm.owner = self.id
        if self.tts:
            self.tts.owner = self.id
        self.clock.ahead(draft.ends)
        self.context.do(CountJob(self.llm.job))
        for lease, chunk in draft.kept:
            if self.active:
                self.take(lease, chunk)

    # Chunks

    def take(self, lease: Lease, chunk: Chunk) -> None:
        if chunk.kind is ChunkKind.STARTED:
            if lease is self.llm:
                self.clock.mark("llm_queue", self.context.now)
        elif chunk.kind is ChunkKind.TEXT:
            self._text(chunk.text)
        elif chunk.kind is ChunkKind.TOOL:
            if chunk.index >= self.calls:
                self.server.call(chunk) if chunk.name in self.params.server_tools else self._tool_call(chunk)
        elif chunk.kind is ChunkKind.AUDIO:
            self._audio(chunk)
        elif chunk.kind is ChunkKind.DONE:
            self._job_done(lease, chunk)
        elif chunk.kind is ChunkKind.FAILED:
            self.lease_failed(lease, chunk.name or "engine_error", chunk.text, retry=bool(chunk.meta.get("retryable")))

    def lease_failed(self, lease: Lease, code: str, message: str, *, retry: bool) -> None:
        """The worker is gone or gave up: once more, or another engine, where that can help, else without it."""
        again = self._reopen_llm if lease is self.llm else self._reopen_tts
        gone = code == "lease_lost"  # of a worker, which says nothing of its engine
        if code not in LIMITED and (gone and retry and again(self.context.reopen) or again(self.context.fall_back) or retry and again(self.context.reopen)):
            return
        names = {Stage.LLM: "language model", Stage.TTS: "speech synthesis"}
        if code == "lease_lost":
            code = f"{lease.job.stage}_unavailable"
        message = message or f"The {names[lease.job.stage]} is not available; try again in a moment."
        if lease is self.tts:
            return self._fall_silent()
        if code not in LIMITED and (notice := self._notice(NoticeKind.LLM_UNAVAILABLE)):
            return self._apologise(lease, notice, "llm_unavailable" if code == "deadline_exceeded" else code, message)
        self.fail(code, message)

    # In another process than the one that began it

    def revive(self) -> None:
        """Go on where the frames ended: the language model after the text it gave, synthesis from the first sentence not wholly sent."""
        if not self.active:
            return
        if self.llm is not None and not self.llm_done:
            self.llm = self.context.open_again(self.llm, self.context.config.llm_deadline_ms, prefix=self.server.said())
        self.server.revive()
        if self.message and self.message.entry.spoken and not self.message.closed:
            self._unsay()
        if self.tts is not None and not self.mute and not (self.message and self._all_said() and self.message.text_done):
            self.tts = self.context.open_again(self.tts, TTS_JOB_MS)
        self.pump()
        self._finish_if_done()

    def _unsay(self) -> None:
        """Sound that was received and not sent is gone with its process."""
        message = self.message
        sentences = message.entry.spoken.sentences
        for index, sentence in enumerate(sentences):
            sent = message.sent.get(index, 0)
            if self.mute or self.tts is None or not sentence.text.strip() or sentence.final and message.received.get(index, 0) == sent:
                continue
            message.received[index] = message.skip[index] = sent
            sentence.final, sentence.audio_ms = False, sent / BYTES_PER_MS
            sentence.marks = [(char, at) for char, at in sentence.marks if at <= sentence.audio_ms]
        message.fed = message.sending = next((i for i, s in enumerate(sentences) if not s.final), len(sentences))
        message.last_fed = False

    def _all_said(self) -> bool:
        return all(s.final for s in self.message.entry.spoken.sentences)

    # Without an engine (protocol section 9, degraded mode)

    def _notice(self, kind: NoticeKind) -> Notice | None:
        return self.context.notices(kind, self.params.voice) if self.params.modality == "audio" else None

    def not_heard(self, code: str, message: str) -> None:
        """There is no transcript to answer: say so aloud as a completed response, or fail where that cannot be done."""
        notice = None if code in LIMITED else self._notice(NoticeKind.STT_UNAVAILABLE)
        if notice is None:
            return self.fail(code, message)
        self.waiting.clear()
        self.recite(notice)

    def recite(self, notice: Notice, *, at_once: bool = False) -> None:
        """A notice as the whole answer. `at_once`: its sound is not paced, because the connection closes behind it."""
        self.llm_done, self.finish_reason, self.apology = True, "stop", notice
        self._finish_if_done()
        if at_once:
            self.pump(at_once=True)

    def _apologise(self, lease: Lease, notice: Notice, code: str, message: str) -> None:
        """The language model is gone: what it said is spoken to its end, then the apology, then the response has failed."""
        self.context.end_lease(lease, "superseded")
        self.failure, self.apology = (code, message), notice
        self._written()

    def _say_apology(self) -> None:
        """The prepared sound as the last sentence of the message; the speech engine is not asked for it."""
        notice, self.apology = self.apology, None
        message = self.message or self._open_message()
        spoken, text = message.entry.spoken, f" {notice.text}" if message.text else notice.text
        if spoken is None:
            self._part_event("response.output_text.delta", delta=text)
        else:
            index = len(spoken.sentences)
            spoken.sentences.append(Sentence(message.cut, text, spoken.audio_ms, len(notice.pcm) / BYTES_PER_MS, final=True))
            message.queue.extend((index, notice.pcm[at : at + PIECE]) for at in range(0, len(notice.pcm), PIECE))
            self._part_event("response.output_audio_transcript.delta", delta=text)
            self.notice_bytes = len(notice.pcm)
        message.text += text
        message.cut += len(text)
        self.pump()

    def _fall_silent(self) -> None:
        """Speech synthesis is gone: the words go on without sound, and the response completes."""
        self.context.end_lease(self.tts, "superseded")
        self.mute = True
        if self.message:
            self._hush()
        self._finish_if_done()

    def _hush(self) -> None:
        for sentence in self.message.entry.spoken.sentences:
            sentence.final = True

    def _reopen_llm(self, reopen: Callable[..., bool]) -> bool:
        return reopen(self.llm, (), prefix=self.server.said())

    def _reopen_tts(self, reopen: Callable[..., bool]) -> bool:
        """Sentences whose audio is complete are not said again; of the broken one only what is missing is kept."""
        message = self.message
        if message is None:
            return reopen(self.tts, ())
        sentences = message.entry.spoken.sentences
        first = next((i for i, s in enumerate(sentences[: message.fed]) if not s.final), message.fed)
        if first < message.fed:
            message.skip[first] = message.received.get(first, 0)
        feeds = tuple(Feed(i, sentences[i].text) for i in range(first, message.fed) if not sentences[i].final)
        if message.last_fed:
            feeds += (Feed(message.fed, last=True),)
        return reopen(self.tts, feeds)

    def _text(self, text: str) -> None:
        if not text:
            return
        message = self.message or self._open_message()
        self.clock.mark("llm", self.context.now)
        text = self.server.joined(text)
        message.text += text
        self.deltas += 1
        if self.params.modality == "text":
            self.clock.mark("send", self.context.now)
            self._part_event("response.output_text.delta", delta=text)
            return
        self._part_event("response.output_audio_transcript.delta", delta=text)
        self._add_sentences(message.chunker.feed(text))

    def _add_sentences(self, texts: list[str]) -> None:
        message = self.message
        for text in texts:
            message.entry.spoken.sentences.append(Sentence(message.cut, text, final=self.mute or not text.strip()))
            message.cut += len(text)
        self._feed_ahead()

    def _feed_ahead(self) -> None:
        """Keep the speech engine FEED_AHEAD sentences ahead of what is being sent; tell it when no more will come."""
        message = self.message
        if self.tts is None or message.last_fed or self.mute:
            return
        sentences = message.entry.spoken.sentences
        while message.fed < len(sentences) and message.fed <= message.sending + FEED_AHEAD:
            index, sentence = message.fed, sentences[message.fed]
            message.fed += 1
            if not sentence.final:
                self._expect_audio()
                self.clock.mark("sentence", self.context.now)
                if index >= self.fed_ahead:
                    self.context.feed(self.tts, Feed(index, sentence.text))
        if message.text_done and message.fed == len(sentences):
            message.last_fed = True
            self.context.feed(self.tts, Feed(message.fed, last=True))

    def _expect_audio(self) -> None:
        self.tts.deadline = self.context.now + self.context.config.tts_deadline_ms / 1000

    def _audio(self, chunk: Chunk) -> None:
        message = self.message
        if message is None or chunk.index >= message.fed:  # audio of a sentence that was not asked for
            return self._fall_silent()
        sentence = message.entry.spoken.sentences[chunk.index]
        if sentence.final:
            return
        self._expect_audio()
        if self.tts.started_at:
            self.clock.mark("tts_queue", self.tts.started_at)
        pcm, marks = self._not_yet_received(message, chunk)
        if not sentence.audio_ms:
            sentence.start_ms = message.entry.spoken.audio_ms
        sentence.marks += [(char, at) for char, at in marks]
        sentence.audio_ms += len(pcm) / BYTES_PER_MS
        message.received[chunk.index] = message.received.get(chunk.index, 0) + len(pcm)
        if pcm:
            self.clock.mark("tts", self.context.now)
            message.queue.append((chunk.index, pcm))
        if chunk.final:
            sentence.final = True
            if all(s.final for s in message.entry.spoken.sentences[: message.fed]):
                self.tts.deadline = self.context.now + TTS_JOB_MS / 1000  # nothing is owed
        self.pump()

    def _not_yet_received(self, message: Message, chunk: Chunk) -> tuple[bytes, tuple]:
        """After a second attempt the first bytes of the broken sentence come again: drop those."""
        left = message.skip.get(chunk.index, 0)
        if not left:
            return chunk.pcm, chunk.marks
        dropped = min(left, len(chunk.pcm))
        message.skip[chunk.index] = left - dropped
        heard_ms = message.received.get(chunk.index, 0) / BYTES_PER_MS
        return chunk.pcm[dropped:], tuple(m for m in chunk.marks if m[1] >= heard_ms)

    def pump(self, at_once: bool = False) -> None:
        """Send audio that is due: never more than PACE_AHEAD_S before it would play, but for `at_once`."""
        message, context = self.message, self.context
        if not self.active or message is None or context.paused:
            return
        while message.queue:
            if self.play_end - context.now > PACE_AHEAD_S and not at_once:
                context.do(SetTimer(f"pace:{self.id}", self.play_end - PACE_AHEAD_S + 0.02))
                break
            index, pcm = message.queue.popleft()
            message.sending = index
            message.sent[index] = message.sent.get(index, 0) + len(pcm)
            self.play_end = max(self.play_end, context.now) + len(pcm) / BYTES_PER_MS / 1000
            self.sent_bytes += len(pcm)
            self.clock.mark("send", context.now)
            context.do(SendAudio(self._part_fields("response.output_audio.delta"), pcm, self.params.format))
            context.kept_audio.add(message.entry.item["id"], pcm)
        self._feed_ahead()
        self._finish_if_done()

    def _job_done(self, lease: Lease, chunk: Chunk) -> None:
        self.context.end_lease(lease)
        if lease is self.tts:
            if self.message and any(not s.final for s in self.message.entry.spoken.sentences):
                self._fall_silent()  # it ended before the last sentence
            return
        self.spent.text_in += int(chunk.meta.get("input_tokens", 0))
        self.spent.text_out += int(chunk.meta.get("output_tokens", 0))
        self.finish_reason = chunk.meta.get("finish_reason", "stop")
        self.counted = True
        self._written()

    def _written(self) -> None:
        """No more text will come, unless functions were called here."""
        self.llm_done = True
        if self.server.asked and not self.failure:
            return self._finish_if_done()
        if message := self.message:
            message.text_done = True
            if self.params.modality == "audio":
                self._add_sentences(message.chunker.flush())
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if not self.llm_done or not self.active or self.server.wait():
            return
        message = self.message
        if message and self.params.modality == "audio":
            if message.queue or any(not s.final for s in message.entry.spoken.sentences):
                return
        if self.apology:
            return self._say_apology()
        if self.failure:
            self.fail(*self.failure)
        elif self.finish_reason == "length":
            self._finish(ResponseState.INCOMPLETE, {"type": "incomplete", "reason": "max_output_tokens"}, "max_output_tokens")
        else:
            self._finish(ResponseState.COMPLETED, None, "")

    # Items

    def _open_message(self) -> Message:
        part = "output_audio" if self.params.modality == "audio" else "output_text"
        item = {"id": self.context.ids("item"), "object": "realtime.item", "type": "message", "status": "in_progress",
                "role": "assistant", "content": []}  # fmt: skip
        entry = Entry(item, spoken=Spoken() if part == "output_audio" else None)
        index = self._add_output(entry)
        self.message = Message(entry, index)
        self._part_event("response.content_part.added", part={"type": "audio", "transcript": ""} if entry.spoken else {"type": "text", "text": ""})
        return self.message

    def _add_output(self, entry: Entry) -> int:
        index = len(self.output)
        self.output.append(entry)
        item = dict(entry.item)
        self.context.send("response.output_item.added", response_id=self.id, output_index=index, item=item)
        if not self.params.out_of_band:
            previous = self.context.conversation.add(entry)
            self.context.send("conversation.item.added", previous_item_id=previous, item=dict(item))
        return index

    def _tool_call(self, chunk: Chunk) -> None:
        self.clock.mark("llm", self.context.now)
        self.clock.mark("send", self.context.now)
        self.calls += 1
        self.server.others += 1
        call = {"id": self.context.ids("item"), "object": "realtime.item", "type": "function_call", "status": "in_progress",
                "call_id": self.context.ids("call"), "name": chunk.name, "arguments": ""}  # fmt: skip
        entry = Entry(call)
        index = self._add_output(entry)
        ids = {"response_id": self.id, "item_id": call["id"], "output_index": index, "call_id": call["call_id"]}
        self.context.send("response.function_call_arguments.delta", **ids, delta=chunk.arguments)
        self.context.send("response.function_call_arguments.done", **ids, name=chunk.name, arguments=chunk.arguments)
        call["arguments"], call["status"] = chunk.arguments, "completed"
        self._item_done(entry, index)

    def _item_done(self, entry: Entry, index: int) -> None:
        conversation = self.context.conversation
        if not self.params.out_of_band and conversation.get(entry.item["id"]) is entry:
            previous = conversation.previous_of(entry.item["id"])
            self.context.send("conversation.item.done", previous_item_id=previous, item=shown(entry.item))
            self.context.save(entry)
        self.context.send("response.output_item.done", response_id=self.id, output_index=index, item=shown(entry.item))

    def _close_message(self, status: str) -> None:
        message = self.message
        if message is None or message.closed:
            return
        message.closed = True
        item = message.entry.item
        item["status"] = status
        if message.entry.spoken is None:
            item["content"] = [{"type": "output_text", "text": message.text}]
            self._part_event("response.output_text.done", text=message.text)
            self._part_event("response.content_part.done", part={"type": "text", "text": message.text})
        else:
            heard = message.text if status == "completed" else message.entry.spoken.heard(self.heard_ms)
            item["content"] = [{"type": "output_audio", "transcript": heard}]
            if self.sent_bytes:
                self._part_event("response.output_audio.done")
            self._part_event("response.output_audio_transcript.done", transcript=message.text)
            self._part_event("response.content_part.done", part={"type": "audio", "transcript": message.text})
        self._item_done(message.entry, message.output_index)

    def _part_fields(self, type: str) -> dict[str, Any]:
        message = self.message
        return {"type": type, "event_id": self.context.ids("event"), "response_id": self.id, "item_id": message.entry.item["id"],
                "output_index": message.output_index, "content_index": 0}  # fmt: skip

    def _part_event(self, type: str, **fields: Any) -> None:
        message = self.message
        self.context.send(type, response_id=self.id, item_id=message.entry.item["id"], output_index=message.output_index,
                          content_index=0, **fields)  # fmt: skip

    # Ending

    @property
    def heard_ms(self) -> float:
        """Audio the listener has heard by now, if it plays what it gets at once."""
        return self.sent_bytes / BYTES_PER_MS - max(0.0, self.play_end - self.context.now) * 1000

    def cancel(self, reason: str) -> None:
        """`reason`: client_cancelled, turn_detected or one of ours (disconnected), which clients do not see."""
        seen = reason if reason in ("client_cancelled", "turn_detected") else "client_cancelled"
        self._finish(ResponseState.CANCELLED, {"type": "cancelled", "reason": seen}, reason)

    def fail(self, code: str, message: str) -> None:
        kind = "rate_limit_error" if code in LIMITED else "server_error"
        error = {"type": kind, "code": code, "message": message}
        self._finish(ResponseState.FAILED, {"type": "failed", "error": error}, code)

    def _finish(self, state: ResponseState, details: dict[str, Any] | None, reason: str) -> None:
        if not self.active:
            return
        context = self.context
        self.state = advance(RESPONSE, self.state, state)
        self.details = details
        for lease in (self.llm, self.tts):
            context.end_lease(lease, reason or "superseded")
        context.do(ClearTimer(f"pace:{self.id}"))
        self._close_message("completed" if state is ResponseState.COMPLETED else "incomplete")
        self._count(context)
        segments = self.clock.segments()
        # before its end is told: the shell makes sure of the turn first
        context.do(RecordTurn(context.ids("turn"), self.id, str(state), reason, self.user_item_id, segments, self.spent.meters(),
                              context.take_wasted(), self.clock.overlapped(), began=self.clock.base))  # fmt: skip
        context.send("response.done", response=self.wire())
        now = context.now
        context.send("rate_limits.updated", rate_limits=[context.requests.wire("requests", now), context.tokens.wire("tokens", now)])
        if context.settings.extensions:
            self._send_timing(dict(segments))

    def _count(self, context: Context) -> None:
        spent = self.spent
        if not self.counted and self.llm is not None:  # ended early: about a token a delta, four characters a token
            spent.text_out += self.deltas
            spent.text_in += len(json.dumps(self.llm.job.params.get("messages", []))) // 4
        spent.audio_out_ms = max(0, self.sent_bytes - self.notice_bytes) // BYTES_PER_MS
        spent.audio_in_ms, context.unbilled_audio_ms = context.unbilled_audio_ms, 0
        context.tokens.spend(spent.total, context.now)

    def _send_timing(self, ms: dict[str, float]) -> None:
        first = sum(ms.values())
        self.context.send("ext.response.timing", response_id=self.id, vad_ms=ms.get("endpointing"), stt_ms=_plus(ms, "stt_queue", "stt"),
                          llm_ttft_ms=_plus(ms, "llm_queue", "llm"), tts_ttfb_ms=_plus(ms, "tts_queue", "tts"),
                          first_audio_ms=round(first, 3), segments=[{"name": n, "ms": v} for n, v in ms.items()],
                          overlapped=[{"name": n, "ms": v} for n, v in self.clock.overlapped()])  # fmt: skip

    def wire(self) -> dict[str, Any]:
        params, done = self.params, not self.active
        value: dict[str, Any] = {
            "object": "realtime.response", "id": self.id, "status": str(self.state), "status_details": self.details,
            "output": [shown(e.item) for e in self.output] if done else [], "output_modalities": [params.modality],
            "conversation_id": None if params.out_of_band else self.context.conversation_id,
            "max_output_tokens": params.max_output_tokens, "metadata": params.metadata,
            "usage": self.spent.wire() if done else None,
        }  # fmt: skip
        if params.modality == "audio":
            value["audio"] = {"output": {"format": dict(FORMATS[params.format]), "voice": params.voice}}
        return value


def llm_params(params: ResponseParams, entries: list[Entry]) -> dict[str, Any]:
    """What the language model's job is opened with."""
    tokens = params.max_output_tokens
    return {
        "messages": llm_messages(params.instructions, entries), "tools": params.tools, "tool_choice": params.tool_choice,
        "parallel_tool_calls": params.parallel_tool_calls, "max_tokens": 4096 if tokens == "inf" else tokens, "temperature": 0.0, "prefix": "",
        "truncation": params.truncation, "reasoning": params.reasoning,
    }  # fmt: skip


def tts_params(context: Context, params: ResponseParams) -> dict[str, Any]:
    return {"voice": params.voice, "speed": params.speed, "language": context.config.language, "rate_hz": 24000}


def open_llm(context: Context, params: ResponseParams, entries: list[Entry], owner: str, ahead: bool = False) -> Lease:
    return context.open_job(Stage.LLM, owner, context.config.llm_deadline_ms, llm_params(params, entries), ahead=ahead)


def open_tts(context: Context, params: ResponseParams, owner: str, ahead: bool = False) -> Lease:
    return context.open_job(Stage.TTS, owner, TTS_JOB_MS, tts_params(context, params), ahead=ahead)


def _plus(ms: dict[str, float], *names: str) -> float | None:
    found = [ms[n] for n in names if n in ms]
    return round(sum(found), 3) if found else None
