"""One live session of this process: the pure core, its ear (ear.py), its jobs (jobs.py), and the carrying out of what the core asks for.

Nothing here waits for an engine, the database or Redis. It does not know how frames come in (consumer.py) nor how they go out (outbox.py).
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from dataclasses import asdict
from typing import Any, Protocol

import orjson
import pybase64
from django.conf import settings

from apps.common.errors import RateLimited
from voice.bus.redis import input_key
from voice.core import beta
from voice.core import effects as fx
from voice.core.errors import ProtocolError
from voice.core.jobs import Chunk, ChunkKind, Job
from voice.core.notices import NoticeKind
from voice.core.session import Session
from voice.gateway import clock, control, metrics, tools, tracing
from voice.gateway.dispatch import Dispatch
from voice.gateway.ear import Ear
from voice.gateway.health import Health
from voice.gateway.jobs import Jobs
from voice.gateway.limits import Place, patrol
from voice.gateway.line import Line
from voice.gateway.meter import Meter
from voice.gateway.outbox import Outbox
from voice.gateway.recorder import ERRORS, GRACE_S, Record, Recorder
from voice.gateway.sound import Sound
from voice.gateway.store import Owed, Store
from voice.gateway.tape import recording

log = logging.getLogger("voice.gateway")
ALOUD = {"insufficient_quota": NoticeKind.INSUFFICIENT_QUOTA, "billing_hard_limit_reached": NoticeKind.INSUFFICIENT_QUOTA,
         "session_ended": NoticeKind.SESSION_ENDED}  # ends that are spoken
FINAL = (1008,)  # closes after which a session is over
WINDOW = "window"  # how long a session waits for its client to come back
TRUST_S = 9.0  # heard that long ago that the session is ours, a process may have slept: nothing is written to the database until it is heard again
QUIET = (ChunkKind.AUDIO, ChunkKind.TEXT, ChunkKind.BEAT)  # chunks whose effects say all there is to keep
config = settings.VOICE


class Connection(Protocol):
    def close(self, code: int, reason: str) -> None:
        """It is to be closed with this code."""


lives: dict[str, Live] = {}  # of this process


class Live:
    """`about`: what Redis keeps of the session for whoever takes it up (see `about_of`)."""

    def __init__(self, session: Session, about: dict[str, Any], place: Place, dispatch: Dispatch, recorder: Recorder):
        self.session, self.about, self.place, self.dispatch, self.recorder = session, about, place, dispatch, recorder
        self.id = place.session_id
        me = weakref.proxy(self)  # its parts do not keep it: what has ended is freed at once, without the collector
        self.health, self.ear, self.sound = Health(me), Ear(session, lambda: me.health.ear_failed()), Sound()
        self.meter = Meter(me)
        self.beta: bool = about["beta"]  # the client speaks the beta flavour
        self.trace = tracing.of_session(self.id, place.owner[0])
        self.line = Line(self.id, recorder.records)
        self.store = Store(place.principal.tenant, self.id, self._is_ours, settled=self._settled, troubled=self._troubled, refused=self._refused)
        self.record = Record(self.id, me, recorder, self.store)
        self.record.about = about
        self.connection: Connection | None = None
        self.over = False
        self.end_reason = "client"
        self.gone_at = 0.0  # when the client was lost; 0: it is there
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._jobs = Jobs(me)
        self._tasks: set[asyncio.Task] = set()
        self._last: set[asyncio.Task] = set()  # tasks that outlive the session by a moment
        metrics.in_memory.add(self)

    def run(self) -> None:
        """From now on this process holds it."""
        metrics.SESSIONS.labels(self.place.owner[0]).inc()
        lives[self.id] = self
        self.place.end, self.place.on_cap = self.end, self.meter.hold_ahead
        self.recorder.add(self.record)
        recording().add(self)
        self.spawn(self._jobs.run(), "bus")
        self.spawn(control.listen(self), "control")
        self.meter.hold_ahead()

    def start(self) -> None:
        self.run()
        self.record.owe("open", {k: self.about[k] for k in ("agent_id", "agent_version", "key_id", "model", "client")})
        self.perform(self.session.start(clock.now()))
        self.health.tell()
        if self.session.context.settings.extensions:
            self.spawn(self._tell_quota(), "quota")

    async def give_up(self) -> None:
        """It never began: its client went during the handshake."""
        self.over = True
        await self.store.close()
        await patrol.leave(self.place)

    async def _tell_quota(self) -> None:
        try:
            self.perform(self.session.quota(clock.now(), **await self.place.quota()))
        except RateLimited:  # nothing is left: the next turn says so
            return

    def receive(self, event: Any) -> None:
        """Any client event but audio."""
        self.perform(self.session.receive(beta.from_client(event) if self.beta else event, clock.now()))

    def audio(self, pcm: bytes, event_id: str | None) -> None:
        """The hot path: PCM16 mono 24 kHz into the detector and the session."""
        self.meter.heard += len(pcm)
        edges = self.ear.push(pcm)
        if effects := self.session.audio(pcm, edges, clock.now(), event_id):
            self.perform(effects)

    def lasted_ms(self) -> int:
        return round((clock.now() - self.about["began"]) * 1000)

    @property
    def busy(self) -> bool:
        """A turn is under way: somebody speaks, is being understood or answered."""
        session = self.session
        return bool(session.active or session.aside or session.floor.unanswered or session.turns.speaking or session.turns.pending)

    # Effects

    def perform(self, effects: list[fx.Effect]) -> None:
        if self.over:
            return
        for effect in effects:
            _CARRY_OUT[type(effect)](self, effect)

    def do_send(self, effect: fx.Send) -> None:
        event = effect.event
        if event["type"] == "error":  # nothing has changed
            return self._send(event)
        item_id = event.get("item_id") or (event["item"]["id"] if "item" in event else None)
        self.record.changed(*((item_id,) if item_id else ()))
        self._send(event)

    def do_audio(self, effect: fx.SendAudio) -> None:
        self.meter.said += len(effect.pcm)
        pcm = self.sound.outgoing(effect.pcm, effect.format, effect.event["item_id"])
        effect.event["delta"] = pybase64.b64encode_as_string(pcm)
        self.record.moved()
        self._send(effect.event)
        if self.line.full and not self.session.context.paused:
            self.perform(self.session.pause(True, clock.now()))

    def _send(self, event: dict[str, Any]) -> None:
        if (event := self.flavoured(event)) is not None:
            self.record.put(orjson.dumps(event).decode())

    def flavoured(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The event as this client knows it; None: it knows no such event."""
        return beta.to_client(event) if self.beta else event

    def do_set_timer(self, effect: fx.SetTimer) -> None:
        if old := self._timers.pop(effect.name, None):
            old.cancel()
        delay = max(0.0, effect.at - clock.now())
        self._timers[effect.name] = asyncio.get_running_loop().call_later(delay, self.on_timer, effect.name)

    def do_clear_timer(self, effect: fx.ClearTimer) -> None:
        if old := self._timers.pop(effect.name, None):
            old.cancel()

    def do_detection(self, effect: fx.SetTurnDetection) -> None:
        self.ear.detector.configure(effect.settings, effect.reset)

    def do_end_after(self, effect: fx.EndTurnAfter) -> None:
        self.ear.detector.end_after(effect.silence_ms)

    def do_save(self, effect: fx.SaveItem) -> None:
        self.record.changed(effect.item["id"])
        self.record.owe("item", {"item": effect.item, "previous_item_id": effect.previous_item_id, "deleted": effect.deleted})

    def do_tracing(self, effect: fx.SaveTracing) -> None:
        self.record.owe("tracing", {"tracing": effect.tracing})

    def do_turn(self, effect: fx.RecordTurn) -> None:
        self.record.changed()
        self.record.owe("turn", {"turn": asdict(effect), "session_ms": self.lasted_ms(), **self._written_by()})
        self.meter.turn(effect)
        if tokens := effect.usage.get("tokens_in", 0) + effect.usage.get("tokens_out", 0):
            self.spawn(self.place.count("tokens_per_minute", tokens), "count")
        metrics.observe_turn(effect)
        if self.trace:
            self.trace.turn(effect, clock.now())

    def do_tool(self, effect: fx.CallTool) -> None:
        self.spawn(self._call_tool(effect), "tool")

    async def _call_tool(self, effect: fx.CallTool) -> None:
        output = await tools.call(effect, self.place.session_id)
        try:
            self.perform(self.session.tool_result(effect.response_id, effect.call_id, output, clock.now()))
        except Exception:
            log.exception("result of %s", effect.name)
            self.fail()

    def do_close(self, effect: fx.Close) -> None:
        self.stop(effect.code, effect.reason)

    def _written_by(self) -> dict[str, Any]:
        return {"agent_id": self.about["agent_id"], "key_id": self.about["key_id"], "at": clock.now()}

    def _is_ours(self) -> bool:
        return bool(self.recorder.away_since) or clock.now() - self.record.held_at < TRUST_S

    def _settled(self, upto: int) -> None:
        self.record.settled(upto)

    def _troubled(self) -> None:
        self.record.open()

    def _refused(self, owed: Owed) -> None:
        self._later(self._set_aside(owed))

    async def _set_aside(self, owed: Owed) -> None:
        """For an operator to look at."""
        try:
            await self.recorder.records.set_aside(f"{self.id}/{owed.number}", orjson.dumps([owed.number, owed.kind, owed.fields]))
        except ERRORS as error:
            log.error("session %s: %s is not even set aside (%s)", self.id, owed, type(error).__name__)

    # Callbacks

    def hear(self, job: Job) -> None:
        """Its chunks come here."""
        self.dispatch.listen(job, self)

    def on_chunk(self, chunk: Chunk) -> None:
        if self.trace and chunk.kind in (ChunkKind.DONE, ChunkKind.FAILED):
            self.trace.done(chunk)
        try:
            self.health.judge(chunk)
            self.perform(self.session.engine(chunk, clock.now()))
            if chunk.kind is ChunkKind.DONE:
                self.record.spent(input_key(self.id, chunk.job, chunk.attempt))
            elif chunk.kind not in QUIET:
                self.record.changed()
        except Exception:  # one session's fault must not stop the routing of all
            log.exception("chunk of %s", chunk.job)
            self.fail()

    def on_timer(self, name: str) -> None:
        self._timers.pop(name, None)
        if self.dispatch.bus.away():
            self.session.cannot_hear(clock.now())
        try:
            self.perform(self.session.timer(name, clock.now()))
        except Exception:
            log.exception("timer %s", name)
            self.fail()

    # Tasks beside the loop

    def spawn(self, coroutine, name: str) -> asyncio.Task:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Frames that are kept

    def release(self, number: int, frames: list[str]) -> None:
        self.line.release(number, frames)

    # Ending

    def error(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        self.perform(self.session.refuse(ProtocolError(code, message, param=param), event_id, clock.now()))

    def limited(self, message: str, event_id: str | None) -> None:
        self.perform(self.session.refuse(ProtocolError("rate_limit_exceeded", message, type="rate_limit_error"), event_id, clock.now()))

    def end(self, code: str, message: str) -> None:
        """From elsewhere: the client is told (aloud, where there are words for it), then the socket is closed."""
        if self.over:
            return
        if kind := ALOUD.get(code):
            notice = self.session.context.notices(kind, self.session.context.settings.values["audio"]["output"]["voice"])
            return self.perform(self.session.conclude(code, message, notice, clock.now()))
        self.error(code, message)
        self.stop(1008, code)

    def fail(self) -> None:
        self.perform(self.session.refuse(ProtocolError("server_error", "Something went wrong on our side.", type="server_error"), None, clock.now()))
        self.stop(1011, "server_error")

    def stop(self, code: int, reason: str) -> None:
        """Close the connection with this code; without one, what follows from the code is done at once."""
        if self.connection is not None:
            self.connection.close(code, reason)
        elif code in FINAL:
            self._later(self.finish(reason))
        elif code == 1011:
            self._later(self.leave())

    def _later(self, coroutine) -> None:
        task = asyncio.create_task(coroutine, name="ending")
        self._last.add(task)
        task.add_done_callback(self._last.discard)

    def warn(self, seconds_left: int) -> None:
        """Of a drain: those who opted in learn of it before."""
        self.perform(self.session.warn(seconds_left, "drain", clock.now()))

    # Connections come and go (protocol section 9, resume)

    def connect(self, connection: Connection, outbox: Outbox) -> None:
        """The first one."""
        self.connection = connection
        self.line.attach(outbox)

    async def reconnect(self, connection: Connection, outbox: Outbox, last_event_id: str | None, tell_items: bool) -> None:
        """A newer connection wins; the older is closed with 4409. Raises the errors of SessionRecords."""
        if self.connection is not None:
            self.connection.close(4409, "resumed_elsewhere")
        self._cancel_timer(WINDOW)
        self.connection, self.gone_at = connection, 0.0
        self.line.detach()
        self.perform(self.session.renew(clock.now()))
        await self.recorder.flush(self.record)
        await self.line.resume(outbox, self.flavoured(self.session.welcome()), last_event_id, lambda: self.record.told)
        self.perform(self.session.pause(False, clock.now()))
        if tell_items:
            self.perform(self.session.tell_items(clock.now()))

    async def hung_up(self, connection: Connection, code: int, reason: str) -> None:
        """The connection is over, by the client (code 0) or by us."""
        if self.connection is not connection:
            return
        if code:
            await self.recorder.flush(self.record)
            if self.line.outbox is not None:
                await self.line.outbox.say_goodbye(code, reason)
        if self.connection is not connection:
            return
        self.connection = None
        self.line.detach()
        if self.over:
            return
        if code in FINAL or code == 0 and reason == "client" or not self.window_s:
            await self.finish(reason)
        elif code in (1011, 1012):
            await self.leave()
        else:
            self.end_reason = reason
            self.wait_for_client()

    def wait_for_client(self) -> None:
        """Nobody is connected: as long as the window lasts."""
        self.gone_at = clock.now()
        self._cancel_timer(WINDOW)
        self._timers[WINDOW] = asyncio.get_running_loop().call_later(self.window_s, self._window_over)

    @property
    def window_s(self) -> int:
        return self.session.context.config.resume_window_s

    def _window_over(self) -> None:
        self._later(self.finish("resume_expired" if self.end_reason == "disconnected" else self.end_reason))

    def _cancel_timer(self, name: str) -> None:
        if old := self._timers.pop(name, None):
            old.cancel()

    def fenced(self) -> None:
        """Another process took the session: nothing of it is written here any more."""
        if self.over:
            return
        log.info("session %s was taken over", self.id)
        self.store.hand_over()
        if self.connection is not None:
            self.connection.close(4409, "resumed_elsewhere")
        self._later(self._put_away(moved=True))

    async def leave(self) -> None:
        """Hold it no longer; any process may go on with it within the window."""
        await self.recorder.flush(self.record)
        await recording().flush(self)
        for lease in self.session.context.leases.values():
            self.spawn(self.dispatch.bus.cancel(lease.job, "superseded"), "cancel")
        try:
            await self.recorder.records.leave(self.id, clock.now() + self.window_s + GRACE_S)
        except ERRORS as error:
            log.warning("session %s: redis is away (%s)", self.id, type(error).__name__)
        await self._make_durable()
        await self.recorder.flush(self.record)
        await self._put_away()

    async def finish(self, reason: str, seen_at: float | None = None) -> None:
        """It is over: jobs are cancelled, what is left is written, its keys go. `seen_at`: it lasted until its gateway was last seen."""
        if self.over:
            return
        now = clock.now()
        ended = min(now, seen_at or self.gone_at or now)
        try:
            self.perform(self.session.close(reason, now))
        except Exception:
            log.exception("closing")
        self.record.owe("end", {"reason": reason, "session_ms": round((ended - self.about["began"]) * 1000), **self._written_by()})
        self.over = True
        await self.recorder.flush(self.record)
        self.record.hand_all()
        written = await self._make_durable()
        self.end_reason = reason
        self.record.over = True  # what the store settles now must not write it anew
        self.recorder.remove(self.record)
        try:
            if written:
                await self.recorder.records.forget(self.id, self.record.token, self.place.owner[0])
            else:
                await self.recorder.records.leave(self.id, clock.now())
        except ERRORS as error:
            log.warning("session %s: its keys stay until they expire (%s)", self.id, type(error).__name__)
        await self._put_away()

    async def _make_durable(self) -> bool:
        """Wait until PostgreSQL has all of it (True), or Redis has what it has not."""
        while not await self.store.close():
            if self.record.kept:
                self.store.stop()
                return False
        return True

    async def _put_away(self, moved: bool = False) -> None:
        """Let go of all this process holds for it. `moved`: its place is another process's."""
        self.over = self.record.over = True
        if lives.get(self.id) is self:
            del lives[self.id]
        metrics.SESSIONS.labels(self.place.owner[0]).dec()
        self.recorder.remove(self.record)
        recording().remove(self)
        for handle in self._timers.values():
            handle.cancel()
        self._jobs.forget_all()
        if self.trace:
            self.trace.end(self.end_reason)
        for task in [t for t in self._tasks if t.get_name() != "cancel"]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if moved:
            patrol.drop(self.place)
        else:
            await patrol.leave(self.place)


_CARRY_OUT = {
    fx.Send: Live.do_send, fx.SendAudio: Live.do_audio, fx.SaveItem: Live.do_save, fx.SaveTracing: Live.do_tracing, fx.RecordTurn: Live.do_turn,
    fx.OpenJob: lambda live, effect: live._jobs.open(effect), fx.FeedJob: lambda live, effect: live._jobs.feed(effect),
    fx.CancelJob: lambda live, effect: live._jobs.cancel(effect), fx.CountJob: lambda live, effect: live._jobs.count(effect),
    fx.SetTimer: Live.do_set_timer, fx.ClearTimer: Live.do_clear_timer, fx.SetTurnDetection: Live.do_detection, fx.EndTurnAfter: Live.do_end_after,
    fx.EngineFault: lambda live, effect: live.health.failed(effect.job), fx.CallTool: Live.do_tool, fx.Close: Live.do_close,
}  # fmt: skip
