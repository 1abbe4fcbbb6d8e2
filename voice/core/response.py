"""One response: opens its jobs, turns their chunks into events in the protocol's order, ends once. Its sound is delivery.py."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from voice.core.context import Context
from voice.core.conversation import Entry, Spoken, shown
from voice.core.delivery import Delivery
from voice.core.effects import ClearTimer, CountJob, RecordTurn, turn_of
from voice.core.errors import LIMITED
from voice.core.input_audio import BYTES_PER_MS
from voice.core.jobs import Chunk, ChunkKind, Stage
from voice.core.leases import Lease
from voice.core.message import Message
from voice.core.notices import Notice, NoticeKind
from voice.core.params import ResponseParams, open_llm
from voice.core.server_tools import ServerTools
from voice.core.setters import FORMATS
from voice.core.states import RESPONSE, ResponseState, advance
from voice.core.usage import Spent
from voice.core.waterfall import Waterfall

if TYPE_CHECKING:
    from voice.core.draft import Draft


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
        self.finish_reason = ""
        self.llm_done = False  # no more text will come
        self.counted = False  # the engine told what it spent
        self.billed: Spent | None = None  # it ended before
        self.deltas = 0
        self.apology: Notice | None = None  # said when all else has been
        self.failure: tuple[str, str] | None = None  # (code, message) the response ends with after its apology
        self.server, self.delivery = ServerTools(), Delivery()
        self.hold_parts()

    def hold_parts(self) -> None:
        """They know it without keeping it."""
        self.server.response = self.delivery.response = weakref.proxy(self)

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
            self.delivery.open()

    def adopt(self, draft: Draft) -> None:
        """Go on with an answer that was begun ahead: what the workers gave meanwhile is taken as if it came now."""
        self.llm = draft.llm
        self.llm.owner = self.id
        self.delivery.adopt(draft)
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
        elif chunk.kind is ChunkKind.TEXT and lease.job.stage is Stage.LLM:
            self._text(chunk.text)
        elif chunk.kind is ChunkKind.TOOL and lease.job.stage is Stage.LLM:
            if chunk.index >= self.calls:
                self.server.call(chunk) if chunk.name in self.params.server_tools else self._tool_call(chunk)
        elif chunk.kind is ChunkKind.AUDIO and lease.job.stage is Stage.TTS:
            self.delivery.take(chunk)
        elif chunk.kind is ChunkKind.DONE:
            self._job_done(lease, chunk)
        elif chunk.kind is ChunkKind.FAILED:
            self.lease_failed(lease, chunk.name or "engine_error", chunk.text, retry=bool(chunk.meta.get("retryable")))

    def lease_failed(self, lease: Lease, code: str, message: str, *, retry: bool) -> None:
        """The worker is gone or gave up: once more, or another engine, where that can help, else without it."""
        again = self._reopen_llm if lease is self.llm else self.delivery.reopen
        gone = code == "lease_lost"  # of a worker, which says nothing of its engine
        if code not in LIMITED and (gone and retry and again(self.context.reopen) or again(self.context.fall_back) or retry and again(self.context.reopen)):
            return
        names = {Stage.LLM: "language model", Stage.TTS: "speech synthesis"}
        if code == "lease_lost":
            code = f"{lease.job.stage}_unavailable"
        message = message or f"The {names[lease.job.stage]} is not available; try again in a moment."
        if lease is self.delivery.tts:
            return self.delivery.fall_silent()
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
        self.delivery.revive()
        self.finish_if_done()

    def end_as(self, written: dict[str, Any]) -> None:
        """It had ended, and that was forgotten: it ends as it was billed. `written`: status, reason and usage of its turn."""
        self.billed = Spent.of(written["usage"])
        reason, state = written["reason"], ResponseState(written["status"])
        if state is ResponseState.FAILED:
            return self.fail(reason, "It could not be finished.")
        if state is ResponseState.CANCELLED:
            return self.cancel(reason)
        self._finish(state, {"type": "incomplete", "reason": reason} if state is ResponseState.INCOMPLETE else None, reason)

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
        self.finish_if_done()
        if at_once:
            self.delivery.pump(at_once=True)

    def _apologise(self, lease: Lease, notice: Notice, code: str, message: str) -> None:
        """The language model is gone: what it said is spoken to its end, then the apology, then the response has failed."""
        self.context.end_lease(lease, "superseded")
        self.failure, self.apology = (code, message), notice
        self.written()

    def _say_apology(self) -> None:
        """The prepared sound as the last sentence of the message; the speech engine is not asked for it."""
        notice, self.apology = self.apology, None
        message = self.message or self._open_message()
        text = f" {notice.text}" if message.text else notice.text
        if message.entry.spoken is None:
            self._part_event("response.output_text.delta", delta=text)
        else:
            self.delivery.add_prepared(text, notice)
            self._part_event("response.output_audio_transcript.delta", delta=text)
        message.text += text
        message.cut += len(text)
        self.delivery.pump()

    def _reopen_llm(self, reopen: Callable[..., bool]) -> bool:
        return reopen(self.llm, (), prefix=self.server.said())

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
        self.delivery.add(message.chunker.feed(text))

    def _job_done(self, lease: Lease, chunk: Chunk) -> None:
        self.context.end_lease(lease)
        if lease is self.delivery.tts:
            return self.delivery.job_done()
        self.spent.text_in += int(chunk.meta.get("input_tokens", 0))
        self.spent.text_out += int(chunk.meta.get("output_tokens", 0))
        self.finish_reason = chunk.meta.get("finish_reason", "stop")
        self.counted = True
        self.written()

    def written(self) -> None:
        """No more text will come, unless functions were called here."""
        self.llm_done = True
        if self.server.asked and not self.failure:
            return self.finish_if_done()
        if message := self.message:
            message.text_done = True
            if self.params.modality == "audio":
                self.delivery.add(message.chunker.flush())
        self.finish_if_done()

    def finish_if_done(self) -> None:
        if not self.llm_done or not self.active or self.server.wait():
            return
        if self.delivery.owed:
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
            heard = message.text if status == "completed" else message.entry.spoken.heard(self.delivery.heard_ms)
            item["content"] = [{"type": "output_audio", "transcript": heard}]
            if self.delivery.sent_bytes:
                self._part_event("response.output_audio.done")
            self._part_event("response.output_audio_transcript.done", transcript=message.text)
            self._part_event("response.content_part.done", part={"type": "audio", "transcript": message.text})
        self._item_done(message.entry, message.output_index)

    def part_fields(self, type: str) -> dict[str, Any]:
        message = self.message
        return {"type": type, "event_id": self.context.ids("event"), "response_id": self.id, "item_id": message.entry.item["id"],
                "output_index": message.output_index, "content_index": 0}  # fmt: skip

    def _part_event(self, type: str, **fields: Any) -> None:
        message = self.message
        self.context.send(type, response_id=self.id, item_id=message.entry.item["id"], output_index=message.output_index,
                          content_index=0, **fields)  # fmt: skip

    # Ending

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
        for lease in (self.llm, self.delivery.tts):
            context.end_lease(lease, reason or "superseded")
        context.do(ClearTimer(f"pace:{self.id}"))
        self._close_message("completed" if state is ResponseState.COMPLETED else "incomplete")
        self._count(context)
        segments = self.clock.segments()
        # before its end is told: the shell makes sure of the turn first
        context.do(RecordTurn(turn_of(self.id), self.id, str(state), reason, self.user_item_id, segments, self.spent.meters(),
                              context.take_wasted(), self.clock.overlapped(), began=self.clock.base))  # fmt: skip
        context.send("response.done", response=self.wire())
        now = context.now
        context.send("rate_limits.updated", rate_limits=[context.requests.wire("requests", now), context.tokens.wire("tokens", now)])
        if context.settings.extensions:
            self._send_timing(dict(segments))

    def _count(self, context: Context) -> None:
        if self.billed:
            self.spent = self.billed
            return
        spent = self.spent
        if not self.counted and self.llm is not None:  # ended early: about a token a delta, four characters a token
            spent.text_out += self.deltas
            spent.text_in += len(json.dumps(self.llm.job.params.get("messages", []))) // 4
        spent.audio_out_ms = max(0, self.delivery.sent_bytes - self.delivery.notice_bytes) // BYTES_PER_MS
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


def _plus(ms: dict[str, float], *names: str) -> float | None:
    found = [ms[n] for n in names if n in ms]
    return round(sum(found), 3) if found else None
