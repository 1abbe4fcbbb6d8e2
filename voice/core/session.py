"""One realtime session, pure: events, audio, chunks and timers in, effects out (docs/architecture.md, "Core").

No await, clock, randomness or I/O inside: time comes as `now` (monotonic seconds), ids from `ids(prefix)`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from voice.core import events, snapshot
from voice.core.answers import Answers
from voice.core.context import Context
from voice.core.conversation import shown
from voice.core.draft import Draft
from voice.core.effects import CancelJob, ClearTimer, Close, Effect, EngineFault, OpenJob, SaveTracing, SetTimer, SetTurnDetection, turn_of
from voice.core.errors import ProtocolError
from voice.core.floor import Floor
from voice.core.items import Items
from voice.core.jobs import Chunk, Feed, Job, Stage
from voice.core.leases import Lease, Verdict
from voice.core.notices import Notice, Notices, no_notices
from voice.core.response import Response
from voice.core.server_tools import output_item, place
from voice.core.setters import TRACED
from voice.core.settings import SessionConfig
from voice.core.speech import SpeechEdge
from voice.core.states import SESSION, LeaseState, SessionState, advance
from voice.core.turns import Listeners, Turns
from voice.core.waterfall import Waterfall

NOTHING: list[Effect] = []
EXPIRING_S = 60  # before the end of a session, clients that opted in are told


class Session:
    def __init__(self, config: SessionConfig, ids: Callable[[str], str], notices: Notices = no_notices):
        self.context = Context(config, ids, notices)
        self.state = SessionState.LIVE
        self.active: Response | None = None  # of the conversation; at most one
        self.aside: dict[str, Response] = {}  # out of band
        self.last: Response | None = None  # the last spoken one: its audio may still be playing
        self.left_open: list[Job] = []  # of the process this session was in before
        me = weakref.proxy(self)  # its parts do not keep it: what has ended is freed at once, without the collector
        self.floor = floor = Floor(me)
        self.turns = Turns(self.context, Listeners(floor.speech_started, floor.speaking_on, floor.heard_so_far, floor.resumed, floor.heard, floor.not_heard))
        self.answers, self.items = Answers(me), Items(me)
        self._updated = False

    # What the shell calls

    def start(self, now: float) -> list[Effect]:
        context = self._at(now)
        context.send("session.created", session=context.settings.echo(), resumption=self.resumption())
        if context.settings.type == "realtime":
            context.send("conversation.created", conversation={"id": context.conversation_id, "object": "realtime.conversation"})
        context.do(SetTurnDetection(context.settings.turn_detection))
        if context.settings.values["tracing"]:
            self._file()
        self._watch_expiry(now + context.config.max_session_s)
        return context.take()

    def resumption(self) -> dict[str, Any]:
        """Of session.created: how this session can be taken up again (protocol section 9)."""
        config = self.context.config
        return {"enabled": bool(config.resume_window_s), "window_s": config.resume_window_s, "session_id": config.session_id}

    def welcome(self) -> dict[str, Any]:
        """session.created for a connection that came back; the shell adds its event_id and what is sent again.

        `input_audio_ms`: how much of the client's audio is here; what it sent after that it may send again.
        """
        resumption = {**self.resumption(), "input_audio_ms": self.turns.buffer.total_ms}
        return {"type": "session.created", "event_id": "", "session": self.context.settings.echo(), "resumption": resumption}

    def pause(self, paused: bool, now: float) -> list[Effect]:
        """Nobody listens and no more can be kept: sound waits. And goes on."""
        context = self._at(now)
        context.paused = paused
        for response in [r for r in (self.active, *self.aside.values()) if r]:
            response.delivery.pump()
        self.after()
        return context.take()

    def renew(self, now: float) -> list[Effect]:
        """A new connection after the longest time of one: the conversation goes on as long again."""
        context = self._at(now)
        if context.config.expires_at <= now:
            context.config = context.settings.config = replace(context.config, expires_at=int(now) + context.config.max_session_s)
            self._watch_expiry(context.config.expires_at)
        return context.take()

    def warn(self, seconds_left: int, reason: str, now: float) -> list[Effect]:
        """The connection will end: ext.session.expiring, for clients that opted in."""
        context = self._at(now)
        self._warn(seconds_left, reason)
        return context.take()

    def degraded(self, component: str, now: float, *, mode: str, fallback: str | None, since: float, retry_after_ms: int) -> list[Effect]:
        """ext.degraded, for clients that opted in. `mode`: fallback or unavailable; `since`: unix seconds."""
        context = self._at(now)
        if context.settings.extensions:
            context.send("ext.degraded", component=component, mode=mode, fallback=fallback, since=int(since), retry_after_ms=retry_after_ms)
        return context.take()

    def quota(self, now: float, *, audio_seconds_left: int | None, sessions_active: int, sessions_limit: int | None) -> list[Effect]:
        """ext.quota, for clients that opted in. None: no limit."""
        context = self._at(now)
        if context.settings.extensions:
            context.send("ext.quota", audio_seconds_left=audio_seconds_left, sessions_active=sessions_active, sessions_limit=sessions_limit)
        return context.take()

    def recovered(self, component: str, now: float) -> list[Effect]:
        context = self._at(now)
        if context.settings.extensions:
            context.send("ext.recovered", component=component)
        return context.take()

    def tell_items(self, now: float) -> list[Effect]:
        """The conversation as an event an item, for a client that kept nothing."""
        context = self._at(now)
        previous = None
        for entry in context.conversation.entries():
            context.send("conversation.item.added", item=shown(entry.item), previous_item_id=previous)
            previous = entry.item["id"]
        return context.take()

    def receive(self, event: Any, now: float) -> list[Effect]:
        """Any client event but input_audio_buffer.append, whose audio comes through `audio()`."""
        if self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        try:
            checked = events.check(event)
            if handler := _HANDLERS.get(checked["type"]):
                handler(self, checked)
        except ProtocolError as error:
            context.send("error", error=error.body(events.event_id_of(event)))
        self.after()
        return context.take()

    def refuse(self, error: ProtocolError, event_id: str | None, now: float) -> list[Effect]:
        """Tell the client of an event the shell could not decode."""
        context = self._at(now)
        context.send("error", error=error.body(event_id))
        return context.take()

    def audio(self, pcm: bytes, edges: Sequence[SpeechEdge], now: float, event_id: str | None = None) -> list[Effect]:
        """PCM16 mono 24 kHz and what the detector found in it. The hot path: without edges nothing is built."""
        if self.state is SessionState.CLOSED:
            return NOTHING
        try:
            due = self.turns.append(pcm)
        except ProtocolError as error:
            return self.refuse(error, event_id, now)
        if not edges and not due:
            return NOTHING
        context = self._at(now)
        if due:
            self.turns.speak_on()
        for edge in edges:
            self.turns.edge(edge)
        self.after()
        return context.take()

    def engine(self, chunk: Chunk, now: float) -> list[Effect]:
        """A chunk of one of our jobs; late, doubled and foreign ones do nothing."""
        lease = self.context.leases.get(chunk.job)
        if lease is None or self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        verdict = lease.judge(chunk, now)
        if verdict is Verdict.TAKE:
            self._owner(lease).take(lease, chunk)
        elif verdict is Verdict.GAP:
            self._owner(lease).lease_failed(lease, "lease_lost", f"A part of the {lease.job.stage} result is missing.", retry=True)
        self.after()
        return context.take()

    def job_lost(self, job_id: str, attempt: int, code: str, message: str, now: float) -> list[Effect]:
        """The shell could not submit or feed a job."""
        lease = self.context.leases.get(job_id)
        if lease is None or lease.job.attempt != attempt or self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        self._owner(lease).lease_failed(lease, code, message, retry=False)
        self.after()
        return context.take()

    def tool_result(self, response_id: str, call_id: str, output: str, now: float) -> list[Effect]:
        """The shell called a function of the agent's (CallTool). Late ones are kept in the conversation all the same."""
        if self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        if response := self.find_response(response_id):
            response.server.result(call_id, output)
        elif context.conversation.has_call(call_id) and not context.conversation.has_output(call_id):
            place(context, output_item(context, call_id, output))
        self.after()
        return context.take()

    def tell_limit(self, name: str, limit: int, remaining: int, reset_s: float, now: float) -> None:
        """The shell counted: what is left of `requests` or `tokens`."""
        {"requests": self.context.requests, "tokens": self.context.tokens}[name].tell(limit, remaining, reset_s, now)

    def cannot_hear(self, now: float) -> None:
        """The shell has no way to hear its workers for the moment: their silence does not count."""
        for lease in self.context.leases.values():
            lease.heard_at = now

    def timer(self, name: str, now: float) -> list[Effect]:
        if self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        if name == "leases":
            self._check_leases()
        elif name.startswith("pace:"):
            if response := self.find_response(name[5:]):
                response.delivery.pump()
        elif name == "idle":
            self.floor.idle()
        elif name == "expire":
            self._expire()
        elif name == "expiring":
            self._warn(EXPIRING_S, "max_duration")
        self.after()
        return context.take()

    def close(self, reason: str, now: float) -> list[Effect]:
        """The connection is gone or must go: every job is cancelled, every response ends, nothing is left unbilled."""
        if self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        self.floor.unanswered = None
        self.floor.drop_draft()
        for response in self.responses():
            response.cancel(reason)
        self.turns.close()
        if context.unbilled_audio_ms or context.wasted:
            self.floor.bill_input("")
        context.do(ClearTimer("leases"))
        context.do(ClearTimer("idle"))
        context.do(ClearTimer("expire"))
        self.state = advance(SESSION, self.state, SessionState.CLOSED)
        return context.take()

    def conclude(self, code: str, message: str, notice: Notice | None, now: float) -> list[Effect]:
        """Nothing more for this session (a spend cap): what runs is cancelled, the notice said aloud, then the error and close 1008.

        The notice is a normal completed response whose sound goes out at once; it is not billed.
        """
        if self.state is SessionState.CLOSED:
            return NOTHING
        context = self._at(now)
        self.floor.unanswered = None
        self.floor.drop_draft()
        for response in self.responses():
            response.cancel(code)
        self.after()
        if notice and context.settings.type == "realtime":
            self.begin(Response(context, self.answers.own_params(), Waterfall(now)), None)
            self.active.recite(notice, at_once=True)
            self.after()
        context.send("error", error=ProtocolError(code, message).body(None))
        context.do(Close(1008, code))
        return context.take()

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON (voice/core/snapshot.py): {config, head, items, params}; `restore` also takes the `progress` made after it."""
        context = self.context
        items = {e.item["id"]: snapshot.entry_dict(e) for e in context.conversation.entries()}
        params = {i: lease.job.params for i, lease in context.leases.items() if lease.job.stage is Stage.LLM}
        return {"config": snapshot.config_dict(context.config), "head": snapshot.head_dict(self), "items": items, "params": params}

    @classmethod
    def restore(cls, saved: Mapping[str, Any], ids: Callable[[str], str], notices: Notices = no_notices) -> Session:
        """The session of a snapshot. Nothing runs until `revive`. Raises KeyError, TypeError, ValueError on a broken one."""
        return snapshot.restore(saved["config"], saved["head"], saved["items"], saved["params"], ids, notices, saved.get("progress"))

    def revive(self, heard: Mapping[str, tuple[Feed, ...]], now: float, written: Mapping[str, dict[str, Any]] | None = None) -> list[Effect]:
        """After `restore`: open again what was under way. `heard`: what each speech recognition job had been fed. `written`: turns by their id
        (status, reason, usage) that are in the ledger already, though this state does not know of their end."""
        context = self._at(now)
        for job in self.left_open:
            context.do(CancelJob(job, "superseded"))
        self.left_open = []
        self._watch_expiry(context.config.expires_at)
        context.do(SetTurnDetection(context.settings.turn_detection))
        self.turns.revive(heard)
        for response in self.responses():
            if ended := (written or {}).get(turn_of(response.id)):
                response.end_as(ended)
            else:
                response.revive()
        self.floor.revive()
        self.after()
        return context.take()

    # Inside

    def _warn(self, seconds_left: int, reason: str) -> None:
        context = self.context
        if context.settings.extensions:
            ends = context.config.expires_at if reason == "max_duration" else int(context.now) + seconds_left
            context.send("ext.session.expiring", expires_at=ends, seconds_left=seconds_left, reason=reason)

    def _watch_expiry(self, ends: float) -> None:
        context = self.context
        context.do(SetTimer("expire", ends))
        if ends - context.now > EXPIRING_S:
            context.do(SetTimer("expiring", ends - EXPIRING_S))

    def _at(self, now: float) -> Context:
        self.context.now = now
        return self.context

    def _owner(self, lease: Lease) -> Turns | Response | Draft:
        if lease.job.stage is Stage.STT:
            return self.turns
        if self.floor.draft and self.floor.draft.id == lease.owner:
            return self.floor.draft
        return self.find_response(lease.owner)

    def find_response(self, response_id: str) -> Response | None:
        if self.active and self.active.id == response_id:
            return self.active
        return self.aside.get(response_id)

    def after(self) -> None:
        """Put away responses that ended and start the answer that waited; one that was begun ahead may be over at once."""
        self._put_away()
        self.floor.settle()
        self._put_away()

    def _put_away(self) -> None:
        if self.active and not self.active.active:
            if self.active.delivery.sent_bytes:
                self.last = self.active
            self.floor.answered(self.active)
            self.active = None
        self.aside = {i: r for i, r in self.aside.items() if r.active} if self.aside else self.aside

    def _check_leases(self) -> None:
        context = self.context
        stalled = context.now - context.leases_due
        for lease in list(context.leases.values()):
            if lease.job.id not in context.leases:
                continue
            lease.forgive(stalled)
            if lease.job.stage is Stage.LLM and lease.stuck(context.now) and context.can_fall_back(lease):
                context.do(EngineFault(lease.job))
                self._owner(lease).lease_failed(lease, "llm_unavailable", "The language model does not answer.", retry=True)
            elif context.now > lease.deadline:
                context.do(EngineFault(lease.job))
                self._owner(lease).lease_failed(lease, "deadline_exceeded", f"No {lease.job.stage} result in time.", retry=False)
            elif lease.lost(context.now):
                if lease.state is not LeaseState.HELD:
                    context.do(EngineFault(lease.job))
                why = "fell silent" if lease.state is LeaseState.HELD else "did not begin"
                self._owner(lease).lease_failed(lease, "lease_lost", f"The {lease.job.stage} worker {why}; try again in a moment.",
                                                retry=lease.state is LeaseState.HELD)  # fmt: skip
            elif lease.unclaimed(context.now):
                context.do(OpenJob(lease.job))  # what it was fed lies there already
        context.watch_leases()

    def _expire(self) -> None:
        minutes = max(1, self.context.config.max_session_s // 60)
        message = f"Your session hit the maximum duration of {minutes} minutes."
        error = ProtocolError("session_expired", message)
        self.context.send("error", error=error.body(None))
        self.context.do(Close(1001, "session_expired"))

    # Settings

    def _update(self, event: dict[str, Any]) -> None:
        context, patch = self.context, event["session"]
        kind = patch.get("type")
        if kind is not None and kind != context.settings.type:
            if kind not in ("realtime", "transcription") or self._updated or len(context.conversation):
                raise ProtocolError("invalid_value", f"The session type is '{context.settings.type}' and cannot become '{str(kind)[:40]}'.",
                                    param="session.type")  # fmt: skip
        before, filed = context.settings.turn_detection, context.settings.values["tracing"]
        context.settings.update(patch)
        if kind in ("realtime", "transcription"):
            context.settings.type = kind
        self._updated = True
        if context.settings.turn_detection != before:
            self.turns.detection_changed()
            context.do(SetTurnDetection(context.settings.turn_detection, reset=False))
        if context.settings.values["tracing"] != filed:
            self._file()
        context.send("session.updated", session=context.settings.echo())

    def _file(self) -> None:
        tracing = self.context.settings.values["tracing"]
        told = tracing if isinstance(tracing, dict) else {}
        self.context.do(SaveTracing({name: told[name] for name in TRACED if told.get(name)}))

    # Responses

    def begin(self, response: Response, waiting: set[str] | None, draft: Draft | None = None) -> None:
        """`waiting`: user items whose transcripts must come first; None: nothing is asked of the engines."""
        if response.params.out_of_band:
            self.aside[response.id] = response
        else:
            self.active = response
            self.context.do(ClearTimer("idle"))
        response.begin(waiting, draft)

    def responses(self) -> list[Response]:
        """All under way."""
        return [r for r in (self.active, *self.aside.values()) if r]


_HANDLERS: dict[str, Callable[[Session, dict[str, Any]], None]] = {
    "session.update": Session._update,
    "input_audio_buffer.commit": lambda session, event: session.turns.commit(),
    "input_audio_buffer.clear": lambda session, event: session.turns.clear(),
    "conversation.item.create": lambda session, event: session.items.create(event),
    "conversation.item.retrieve": lambda session, event: session.items.retrieve(event),
    "conversation.item.truncate": lambda session, event: session.items.truncate(event),
    "conversation.item.delete": lambda session, event: session.items.delete(event),
    "response.create": lambda session, event: session.answers.create(event),
    "response.cancel": lambda session, event: session.answers.cancel(event),
    "output_audio_buffer.clear": lambda session, event: session.answers.clear_output(event),
}
