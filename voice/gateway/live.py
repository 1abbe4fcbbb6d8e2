"""One live session of this process: the pure core, its detector, and the carrying out of what the core asks for.

Nothing here waits for an engine, the database or Redis. It does not know how frames come in (consumer.py) nor how they go out (outbox.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any

import orjson
import pybase64
from channels.layers import get_channel_layer
from django.conf import settings

from apps.common.errors import RateLimited
from voice.audio.detector import Detector
from voice.bus.redis import BusUnavailable
from voice.core import beta
from voice.core import effects as fx
from voice.core.errors import ProtocolError
from voice.core.jobs import Chunk, ChunkKind, Job, Stage
from voice.core.notices import NoticeKind
from voice.core.session import Session
from voice.core.settings import SessionConfig
from voice.gateway import metrics, tracing
from voice.gateway.dispatch import Dispatch
from voice.gateway.limits import Place
from voice.gateway.notices import shelf
from voice.gateway.outbox import Outbox
from voice.gateway.purse import Purse
from voice.gateway.sound import Sound
from voice.gateway.store import Store

log = logging.getLogger("voice.gateway")
BYTES_PER_S = 48000
METERED = (Stage.STT, Stage.LLM)
ALOUD = {"insufficient_quota": NoticeKind.INSUFFICIENT_QUOTA, "billing_hard_limit_reached": NoticeKind.INSUFFICIENT_QUOTA,
         "session_ended": NoticeKind.SESSION_ENDED}  # ends that are spoken
config = settings.VOICE


def make_id(prefix: str) -> str:
    """Ids inside a session: 80 random bits, short enough for call ids (at most 32 characters)."""
    return f"{prefix}_{secrets.token_hex(10)}"


class Live:
    def __init__(self, session_config: SessionConfig, place: Place, dispatch: Dispatch, store: Store):
        self.session = Session(session_config, make_id, shelf.of(session_config, dispatch))
        self.detector = Detector(None, config.VAD_GATE_DB)
        self.sound = Sound()
        self.beta = False  # the client speaks the beta flavour
        self.place, self.dispatch, self.store = place, dispatch, store
        place.about = lambda: store.about(self.lasted_ms())
        place.on_cap = self._hold_ahead
        self._purse: asyncio.Task | None = None
        self._heard = self._said = 0  # bytes of PCM16
        self._tokens = {"tokens_in": 0, "tokens_out": 0}
        self.trace = tracing.of_session(place.session_id, place.owner[0])
        self.outbox: Outbox | None = None  # of the connection, while there is one
        self.began = time.monotonic()
        self.closed = asyncio.Event()
        self.close_code, self.close_reason = 1000, "client"
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._jobs: set[str] = set()
        self._metered: set[str] = set()  # jobs that were counted against the limits, or are once it is certain that they are wanted
        self._bus_queue: asyncio.Queue = asyncio.Queue(2000)
        self._tasks: set[asyncio.Task] = set()

    def start(self) -> None:
        metrics.SESSIONS.labels(self.place.owner[0]).inc()
        self.spawn(self._run_bus(), "bus")
        self.spawn(self._control(), "control")
        self.spawn(self.store.seen(self.lasted_ms()), "seen")
        self._hold_ahead()
        self.perform(self.session.start(time.monotonic()))

    def receive(self, event: Any) -> None:
        """Any client event but audio."""
        self.perform(self.session.receive(beta.from_client(event) if self.beta else event, time.monotonic()))

    def audio(self, pcm: bytes, event_id: str | None) -> None:
        """The hot path: PCM16 mono 24 kHz into the detector and the session."""
        self._heard += len(pcm)
        edges = self.detector.push(pcm)
        if effects := self.session.audio(pcm, edges, time.monotonic(), event_id):
            self.perform(effects)

    def lasted_ms(self) -> int:
        return round((time.monotonic() - self.began) * 1000)

    # Effects

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            _CARRY_OUT[type(effect)](self, effect)

    def do_send(self, effect: fx.Send) -> None:
        self._send(effect.event)

    def do_audio(self, effect: fx.SendAudio) -> None:
        self._said += len(effect.pcm)
        pcm = self.sound.outgoing(effect.pcm, effect.format, effect.event["item_id"])
        effect.event["delta"] = pybase64.b64encode_as_string(pcm)
        self._send(effect.event)

    def _send(self, event: dict[str, Any]) -> None:
        if self.beta and (event := beta.to_client(event)) is None:
            return
        self.put(orjson.dumps(event).decode())

    def put(self, frame: str) -> None:
        if self.outbox is not None:
            self.outbox.put(frame)

    def do_open(self, effect: fx.OpenJob) -> None:
        self._jobs.add(effect.job.id)
        self.dispatch.listen(effect.job, self)
        if self.trace:
            self.trace.opened(effect.job)
        if effect.ahead and effect.job.stage in METERED:
            self._metered.add(effect.job.id)
            self._to_bus(self._open_ahead, effect.job, effect.feeds)  # in the queue: its next feed may be close behind
        elif effect.job.stage in METERED and effect.job.id not in self._metered:
            self._metered.add(effect.job.id)
            self.spawn(self._open_metered(effect.job, effect.feeds), "open")
        elif effect.feeds:
            self._to_bus(self.dispatch.bus.open, effect.job, effect.feeds)
        else:
            self.spawn(self._guard(effect.job, self.dispatch.bus.open(effect.job)), "open")

    async def _open_metered(self, job: Job, feeds) -> None:
        """Hand the work out when the limits allow it; a second attempt of the same work is not counted again."""
        audio_ms = sum(len(f.pcm) for f in feeds) * 500 // job.params.get("rate_hz", 24000)
        if await self._allowed(job, self._count(job, audio_ms)) and job.id in self._jobs:  # not cancelled meanwhile
            await self._guard(job, self.dispatch.bus.open(job, feeds))

    async def _open_ahead(self, job: Job, feeds) -> None:
        """Work that may come to nothing: only where something is left of the limits, and not counted yet."""
        name = "audio_minutes_per_day" if job.stage is Stage.STT else "requests_per_minute"
        if await self._allowed(job, self.place.check(name)) and job.id in self._jobs:
            await self.dispatch.bus.open(job, feeds)

    async def _count(self, job: Job, audio_ms: int) -> None:
        if job.stage is Stage.STT:
            await self.place.spend("audio_minutes_per_day", max(1, round(audio_ms / 1000)))
        else:
            self._tell("requests", await self.place.spend("requests_per_minute"))
            self._tell("tokens", await self.place.check("tokens_per_minute"))

    async def _allowed(self, job: Job, asking) -> bool:
        """False: a limit is reached, and the session knows."""
        try:
            await asking
        except RateLimited as error:
            metrics.REFUSED.labels(error.code).inc()
            self.perform(self.session.job_lost(job.id, job.attempt, error.code, error.message, time.monotonic()))
            return False
        return True

    def do_count(self, effect: fx.CountJob) -> None:
        self.spawn(self._allowed(effect.job, self._count(effect.job, effect.audio_ms)), "count")

    def _tell(self, name: str, window) -> None:
        if window is not None:
            self.session.tell_limit(name, window.limit, window.remaining, window.reset_s, time.monotonic())

    def do_feed(self, effect: fx.FeedJob) -> None:
        self._to_bus(self.dispatch.bus.feed, effect.job, effect.feed)

    def do_cancel(self, effect: fx.CancelJob) -> None:
        self._jobs.discard(effect.job.id)
        self.dispatch.forget(effect.job.id)
        self.spawn(self.dispatch.bus.cancel(effect.job, effect.reason), "cancel")

    def do_set_timer(self, effect: fx.SetTimer) -> None:
        if old := self._timers.pop(effect.name, None):
            old.cancel()
        delay = max(0.0, effect.at - time.monotonic())
        self._timers[effect.name] = asyncio.get_running_loop().call_later(delay, self.on_timer, effect.name)

    def do_clear_timer(self, effect: fx.ClearTimer) -> None:
        if old := self._timers.pop(effect.name, None):
            old.cancel()

    def do_detection(self, effect: fx.SetTurnDetection) -> None:
        self.detector.configure(effect.settings, effect.reset)

    def do_end_after(self, effect: fx.EndTurnAfter) -> None:
        self.detector.end_after(effect.silence_ms)

    def do_save(self, effect: fx.SaveItem) -> None:
        self.store.save_item(effect)

    def do_turn(self, effect: fx.RecordTurn) -> None:
        safe = self.store.record_turn(effect, self.lasted_ms())
        if self.outbox is not None:
            self.outbox.hold(safe)
        for meter in self._tokens:
            self._tokens[meter] += effect.usage.get(meter, 0)
        if tokens := effect.usage.get("tokens_in", 0) + effect.usage.get("tokens_out", 0):
            self.spawn(self.place.count("tokens_per_minute", tokens), "count")
        metrics.observe_turn(effect)
        if self.trace:
            self.trace.turn(effect, time.monotonic())

    def do_close(self, effect: fx.Close) -> None:
        self.stop(effect.code, effect.reason)

    # Callbacks

    def on_chunk(self, chunk: Chunk) -> None:
        if self.trace and chunk.kind in (ChunkKind.DONE, ChunkKind.FAILED):
            self.trace.done(chunk)
        try:
            self.perform(self.session.engine(chunk, time.monotonic()))
        except Exception:  # one session's fault must not stop the routing of all
            log.exception("chunk of %s", chunk.job)
            self.fail()

    def on_timer(self, name: str) -> None:
        self._timers.pop(name, None)
        try:
            self.perform(self.session.timer(name, time.monotonic()))
        except Exception:
            log.exception("timer %s", name)
            self.fail()

    # Tasks beside the loop

    def spawn(self, coroutine, name: str) -> asyncio.Task:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _to_bus(self, call, job: Job, what) -> None:
        try:
            self._bus_queue.put_nowait((call, job, what))
        except asyncio.QueueFull:
            self.perform(self.session.job_lost(job.id, job.attempt, "bus_overloaded", "Too much is waiting for the workers.", time.monotonic()))

    async def _run_bus(self) -> None:
        """Feeds of this session in order."""
        while True:
            call, job, what = await self._bus_queue.get()
            await self._guard(job, call(job, what))

    async def _guard(self, job: Job, coroutine) -> None:
        try:
            await coroutine
        except BusUnavailable as error:
            log.warning("%s", error)
            self.perform(self.session.job_lost(job.id, job.attempt, f"{job.stage}_unavailable", "The work could not be handed out; try again.",
                                               time.monotonic()))  # fmt: skip

    async def _control(self) -> None:
        """Messages from elsewhere: key revoked, workspace suspended (docs/architecture.md, "Control messages")."""
        layer = get_channel_layer()
        tenant_id, key_id = self.place.owner
        groups = (f"tenant.{tenant_id}", f"key.{key_id}", f"session.{self.place.session_id}")
        while True:
            try:
                channel = await layer.new_channel()
                for group in groups:
                    await layer.group_add(group, channel)
                try:
                    while True:
                        message = await layer.receive(channel)
                        if message["type"] == "session.end":
                            return self.end(message["code"], message["message"])
                finally:
                    for group in groups:
                        await layer.group_discard(group, channel)
            except OSError as error:
                log.warning("control messages: redis is away (%s)", error)
                await asyncio.sleep(1)

    def _hold_ahead(self) -> None:
        """Under a cap, while there is one."""
        if not self.place.capped and self._purse is not None:
            self._purse.cancel()
            self._purse = None
        elif self.place.capped and self._purse is None:
            purse = Purse(self.place.principal.tenant, self.place.session_id, self._used, self.end)
            self._purse = self.spawn(purse.run(), "purse")

    def _used(self) -> dict[str, int]:
        return {"session_ms": self.lasted_ms(), "audio_in_ms": self._heard * 1000 // BYTES_PER_S, "audio_out_ms": self._said * 1000 // BYTES_PER_S,
                **self._tokens}  # fmt: skip

    # Ending

    def error(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        self.perform(self.session.refuse(ProtocolError(code, message, param=param), event_id, time.monotonic()))

    def end(self, code: str, message: str) -> None:
        """From elsewhere: the client is told (aloud, where there are words for it), then the socket is closed."""
        if self.closed.is_set():
            return
        if kind := ALOUD.get(code):
            notice = self.session.context.notices(kind, self.session.context.settings.values["audio"]["output"]["voice"])
            return self.perform(self.session.conclude(code, message, notice, time.monotonic()))
        self.error(code, message)
        self.stop(1008, code)

    def fail(self) -> None:
        self.perform(self.session.refuse(ProtocolError("server_error", "Something went wrong on our side.", type="server_error"), None, time.monotonic()))
        self.stop(1011, "server_error")

    def stop(self, code: int, reason: str) -> None:
        """The connection is to close with this code; 0: it is gone already."""
        if not self.closed.is_set():
            self.close_code, self.close_reason = code, reason
            self.closed.set()

    async def finish(self) -> None:
        """Cancel jobs, write what is left."""
        self.closed.set()
        metrics.SESSIONS.labels(self.place.owner[0]).dec()
        now = time.monotonic()
        try:
            for effect in self.session.close(self.close_reason, now):
                if not isinstance(effect, (fx.Send, fx.SendAudio)):
                    _CARRY_OUT[type(effect)](self, effect)
        except Exception:
            log.exception("closing")
        for handle in self._timers.values():
            handle.cancel()
        for job_id in self._jobs:
            self.dispatch.forget(job_id)
        if self.outbox is not None and self.close_code:
            await self.outbox.say_goodbye(self.close_code, self.close_reason)
        self.store.end(self.close_reason, self.lasted_ms())
        await self.store.close()
        if self.trace:
            self.trace.end(self.close_reason)
        for task in [t for t in self._tasks if t.get_name() != "cancel"]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


_CARRY_OUT = {
    fx.Send: Live.do_send, fx.SendAudio: Live.do_audio, fx.OpenJob: Live.do_open, fx.FeedJob: Live.do_feed, fx.CancelJob: Live.do_cancel,
    fx.SetTimer: Live.do_set_timer, fx.ClearTimer: Live.do_clear_timer, fx.SetTurnDetection: Live.do_detection, fx.SaveItem: Live.do_save,
    fx.RecordTurn: Live.do_turn, fx.Close: Live.do_close, fx.CountJob: Live.do_count, fx.EndTurnAfter: Live.do_end_after,
}  # fmt: skip
