"""One realtime WebSocket. A Channels consumer with its own receive loop: frames go straight from `receive()` to the session,
the channel layer is read by a task beside it, and nothing here ever waits for an engine, the database or Redis.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from typing import Any

import msgspec
import orjson
import pybase64
import structlog
from channels.layers import get_channel_layer
from django.conf import settings

from apps.common.errors import Overloaded, RateLimited, VivavoceError
from apps.common.ids import new_id
from voice.audio.detector import Detector
from voice.bus.redis import BusUnavailable
from voice.core import effects as fx
from voice.core.errors import ProtocolError
from voice.core.events import CLIENT_EVENTS
from voice.core.jobs import Chunk, Job, Stage
from voice.core.session import Session
from voice.core.settings import SERVER_VAD, SessionConfig
from voice.gateway import auth, metrics
from voice.gateway.admission import Admission
from voice.gateway.dispatch import shared
from voice.gateway.limits import Place, patrol
from voice.gateway.store import Store

log = logging.getLogger("voice.gateway")

SLICE = 48000  # bytes of audio (1 s) handled before others get their turn
BYTES_PER_S = 48000
METERED = (Stage.STT, Stage.LLM)
BURST_S, FASTEST = 120.0, 20.0  # audio may come this far ahead of the clock, then at most this many times real time
APPEND = "input_audio_buffer.append"
config = settings.VOICE
admission = Admission(config.GATEWAY_MAX_SESSIONS)


class _Append(msgspec.Struct):
    """Only what the hot path needs of a frame; all other keys are skipped unread."""

    type: str
    audio: str | None = None
    event_id: str | None = None


_decode = msgspec.json.Decoder(_Append)


def make_id(prefix: str) -> str:
    """Ids inside a session: 80 random bits, short enough for call ids (at most 32 characters)."""
    return f"{prefix}_{secrets.token_hex(10)}"


class Closing(Exception):
    """Ends the receive loop: close with this code."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason


class RealtimeConsumer:
    """ASGI application for one connection."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.close_code, self.close_reason = 1000, "client"
        self.outbox: deque[str] = deque()
        self.outbox_bytes = 0
        self.wake = asyncio.Event()
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.jobs: set[str] = set()
        self.metered: set[str] = set()  # jobs that were counted against the limits
        self.bus_queue: asyncio.Queue = asyncio.Queue(2000)
        self.tasks: set[asyncio.Task] = set()
        self.audio_s = 0.0
        self.sending_since = 0.0

    @classmethod
    def as_asgi(cls):
        async def application(scope, receive, send):
            await cls()(scope, receive, send)

        return application

    async def __call__(self, scope, receive, send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        await receive()  # websocket.connect
        handshake = auth.Handshake.of(scope)
        try:
            admission.enter()
        except VivavoceError as error:
            return await self.refuse(error)
        try:
            await self.session_of(handshake)
        finally:
            admission.leave()

    async def session_of(self, handshake: auth.Handshake) -> None:
        try:
            principal, agent, levels = await asyncio.wait_for(auth.admit(handshake, settings.ALLOWED_ORIGINS), 8)
            self.dispatch = await asyncio.wait_for(shared(), 8)
            self.place = Place(new_id("sess"), principal, levels, self.end)
            await asyncio.wait_for(patrol.enter(self.place), 8)
        except VivavoceError as error:
            return await self.refuse(error)
        except Exception:  # the edge: database or Redis away at connect
            log.exception("connect failed")
            return await self.refuse(_unavailable())
        structlog.contextvars.bind_contextvars(tenant=principal.tenant.tenant_id)
        try:
            await self.send({"type": "websocket.accept", "subprotocol": handshake.subprotocol})
            await self.serve(principal, agent, handshake)
        finally:
            await patrol.leave(self.place)

    async def refuse(self, error: VivavoceError) -> None:
        """Refuse the handshake by its HTTP status where the server can say one; else by a plain close (Daphne: 403)."""
        metrics.REFUSED.labels(error.code).inc()
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self.send({"type": "websocket.close", "code": 1008})
            return
        headers = [(b"content-type", b"application/json")]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        await self.send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "websocket.http.response.body", "body": orjson.dumps(error.to_json())})

    # The life of a session

    async def serve(self, principal, agent, handshake: auth.Handshake) -> None:
        session_id = self.place.session_id
        structlog.contextvars.bind_contextvars(session=session_id)
        self.began = time.monotonic()
        wanted = handshake.query.get("intent") == "transcription" or principal.session.get("type") == "transcription"
        self.session = Session(_config(session_id, agent, handshake, "transcription" if wanted else "realtime"), make_id)
        self.session.context.settings.update(principal.session)  # checked when the client secret was made
        self.detector = Detector(None, config.VAD_GATE_DB)
        self.store = Store(principal.tenant, session_id)
        self.store.open(agent_id=agent.agent_id, agent_version=agent.version, key_id=principal.key_id,
                        model=handshake.query.get("model", ""), client=handshake.user_agent)  # fmt: skip
        gauge = metrics.SESSIONS.labels(principal.tenant.tenant_id)
        gauge.inc()
        self.spawn(self.write(), "writer")
        self.spawn(self.watch_writer(), "writer watch")
        self.spawn(self.run_bus(), "bus")
        self.spawn(self.control(principal), "control")
        try:
            self.perform(self.session.start(time.monotonic()))
            await self.listen()
        except Closing as closing:
            self.close_code, self.close_reason = closing.code, closing.reason
        except Exception:  # the edge of the connection: no traceback reaches the client
            log.exception("session %s failed", session_id)
            self.fail()
        finally:
            gauge.dec()
            await self.finish()

    async def listen(self) -> None:
        """Read frames until the client goes, or `stop()` says so."""
        reading = asyncio.create_task(self.read(), name="reader")
        closed = asyncio.create_task(self.closed.wait(), name="closed")
        await asyncio.wait((reading, closed), return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not reading.done():
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return
        reading.result()

    async def read(self) -> None:
        receive = self.receive
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                raise Closing(0, "client" if message.get("code") in (1000, None) else "disconnected")
            await self.frame(message)

    async def frame(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        if text is None:
            self.error("invalid_json", "Binary frames are not part of the protocol; send JSON text.")
            raise Closing(1003, "binary_frame")
        try:
            event = _decode.decode(text)
        except msgspec.DecodeError:
            event = None
        if event is not None and event.type == APPEND and event.audio is not None:
            return await self.append(event)
        began = time.perf_counter()
        try:
            value = orjson.loads(text)
        except ValueError:
            return self.error("invalid_json", "The frame is not valid JSON.")
        kind = value.get("type") if isinstance(value, dict) else None
        self.perform(self.session.receive(value, time.monotonic()))
        metrics.EVENTS_IN.labels(kind if isinstance(kind, str) and kind in CLIENT_EVENTS else "unknown").inc()
        metrics.EVENT_SECONDS.observe(time.perf_counter() - began)

    async def append(self, event: _Append) -> None:
        """The hot path: audio into the detector and the session."""
        try:
            pcm = pybase64.b64decode(event.audio, validate=True)
        except ValueError:
            return self.error("invalid_value", "'audio' is not valid base64.", "audio", event.event_id)
        if len(pcm) & 1:
            return self.error("invalid_value", f"'audio' has {len(pcm)} bytes; PCM16 needs an even number.", "audio", event.event_id)
        if len(pcm) <= SLICE:
            edges = self.detector.push(pcm)
            if effects := self.session.audio(pcm, edges, time.monotonic(), event.event_id):
                self.perform(effects)
        else:
            view = memoryview(pcm)
            for at in range(0, len(pcm), SLICE):
                part = bytes(view[at : at + SLICE])
                edges = self.detector.push(part)
                self.perform(self.session.audio(part, edges, time.monotonic(), event.event_id))
                await asyncio.sleep(0)
        self.audio_s += len(pcm) / 48000
        ahead = self.audio_s - (time.monotonic() - self.began) * FASTEST - BURST_S
        if ahead > 0:  # far faster than real time: TCP holds the sender back
            await asyncio.sleep(min(1.0, ahead / FASTEST))

    # Effects

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            _CARRY_OUT[type(effect)](self, effect)

    def do_send(self, effect: fx.Send) -> None:
        self.put(orjson.dumps(effect.event).decode())

    def do_audio(self, effect: fx.SendAudio) -> None:
        effect.event["delta"] = pybase64.b64encode_as_string(effect.pcm)
        self.put(orjson.dumps(effect.event).decode())

    def put(self, frame: str) -> None:
        """Queue a frame; a client that does not read is cut when its budget is used up."""
        self.outbox.append(frame)
        self.outbox_bytes += len(frame)
        self.wake.set()
        if self.outbox_bytes > config.OUTPUT_BUFFER_BYTES and not self.closed.is_set():
            metrics.CUT.labels("slow_reader").inc()
            self.stop(1013, "slow_reader", drop=True)

    def do_open(self, effect: fx.OpenJob) -> None:
        self.jobs.add(effect.job.id)
        self.dispatch.listen(effect.job, self)
        if effect.job.stage in METERED and effect.job.id not in self.metered:
            self.metered.add(effect.job.id)
            self.spawn(self.open_metered(effect.job, effect.feeds), "open")
        elif effect.feeds:
            self.to_bus(self.dispatch.bus.open, effect.job, effect.feeds)
        else:
            self.spawn(self.guard(effect.job, self.dispatch.bus.open(effect.job)), "open")

    async def open_metered(self, job: Job, feeds) -> None:
        """Hand the work out when the limits allow it; a second attempt of the same work is not counted again."""
        try:
            if job.stage is Stage.STT:
                await self.place.spend("audio_minutes_per_day", max(1, round(sum(len(f.pcm) for f in feeds) / BYTES_PER_S)))
            else:
                self.tell("requests", await self.place.spend("requests_per_minute"))
                self.tell("tokens", await self.place.check("tokens_per_minute"))
        except RateLimited as error:
            metrics.REFUSED.labels(error.code).inc()
            self.perform(self.session.job_lost(job.id, job.attempt, error.code, error.message, time.monotonic()))
            return
        if job.id in self.jobs:  # not cancelled meanwhile
            await self.guard(job, self.dispatch.bus.open(job, feeds))

    def tell(self, name: str, window) -> None:
        if window is not None:
            self.session.tell_limit(name, window.limit, window.remaining, window.reset_s, time.monotonic())

    def do_feed(self, effect: fx.FeedJob) -> None:
        self.to_bus(self.dispatch.bus.feed, effect.job, effect.feed)

    def do_cancel(self, effect: fx.CancelJob) -> None:
        self.jobs.discard(effect.job.id)
        self.dispatch.forget(effect.job.id)
        self.spawn(self.dispatch.bus.cancel(effect.job, effect.reason), "cancel")

    def do_set_timer(self, effect: fx.SetTimer) -> None:
        if old := self.timers.pop(effect.name, None):
            old.cancel()
        delay = max(0.0, effect.at - time.monotonic())
        self.timers[effect.name] = asyncio.get_running_loop().call_later(delay, self.on_timer, effect.name)

    def do_clear_timer(self, effect: fx.ClearTimer) -> None:
        if old := self.timers.pop(effect.name, None):
            old.cancel()

    def do_detection(self, effect: fx.SetTurnDetection) -> None:
        self.detector.configure(effect.settings, effect.reset)

    def do_save(self, effect: fx.SaveItem) -> None:
        self.store.save_item(effect)

    def do_turn(self, effect: fx.RecordTurn) -> None:
        self.store.record_turn(effect)
        if tokens := effect.usage.get("tokens_in", 0) + effect.usage.get("tokens_out", 0):
            self.spawn(self.place.count("tokens_per_minute", tokens), "count")
        metrics.RESPONSES.labels(effect.status).inc()
        for name, ms in effect.segments:
            metrics.SEGMENT.labels(name).observe(ms / 1000)
        if effect.segments:
            metrics.FIRST.observe(sum(ms for _, ms in effect.segments) / 1000)

    def do_close(self, effect: fx.Close) -> None:
        self.stop(effect.code, effect.reason)

    # Callbacks

    def on_chunk(self, chunk: Chunk) -> None:
        try:
            self.perform(self.session.engine(chunk, time.monotonic()))
        except Exception:  # one session's fault must not stop the routing of all
            log.exception("chunk of %s", chunk.job)
            self.fail()

    def on_timer(self, name: str) -> None:
        self.timers.pop(name, None)
        try:
            self.perform(self.session.timer(name, time.monotonic()))
        except Exception:
            log.exception("timer %s", name)
            self.fail()

    # Tasks beside the loop

    def spawn(self, coroutine, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def to_bus(self, call, job: Job, what) -> None:
        try:
            self.bus_queue.put_nowait((call, job, what))
        except asyncio.QueueFull:
            self.perform(self.session.job_lost(job.id, job.attempt, "bus_overloaded", "Too much is waiting for the workers.", time.monotonic()))

    async def run_bus(self) -> None:
        """Feeds of this session in order."""
        while True:
            call, job, what = await self.bus_queue.get()
            await self.guard(job, call(job, what))

    async def guard(self, job: Job, coroutine) -> None:
        try:
            await coroutine
        except BusUnavailable as error:
            log.warning("%s", error)
            self.perform(self.session.job_lost(job.id, job.attempt, f"{job.stage}_unavailable", "The work could not be handed out; try again.",
                                               time.monotonic()))  # fmt: skip

    async def write(self) -> None:
        """Frames out, as fast as the client takes them."""
        while True:
            if not self.outbox:
                self.wake.clear()
                await self.wake.wait()
                continue
            frame = self.outbox.popleft()
            self.sending_since = time.monotonic()
            try:
                await self.send({"type": "websocket.send", "text": frame})
            except (OSError, RuntimeError):  # the connection is gone; read() ends by itself
                return
            self.outbox_bytes -= len(frame)
            self.sending_since = 0.0

    async def watch_writer(self) -> None:
        """Cut a client that does not take a frame for too long."""
        while True:
            await asyncio.sleep(config.OUTPUT_STALL_SECONDS / 4)
            if self.sending_since and time.monotonic() - self.sending_since > config.OUTPUT_STALL_SECONDS:
                metrics.CUT.labels("slow_reader").inc()
                return self.stop(1013, "slow_reader", drop=True)

    async def control(self, principal) -> None:
        """Messages from elsewhere: key revoked, workspace suspended (docs/architecture.md, "Control messages")."""
        layer = get_channel_layer()
        groups = (f"tenant.{principal.tenant.tenant_id}", f"key.{principal.key_id}", f"session.{self.place.session_id}")
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

    # Ending

    def error(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        self.perform(self.session.refuse(ProtocolError(code, message, param=param), event_id, time.monotonic()))

    def end(self, code: str, message: str) -> None:
        """From elsewhere: the client is told, then the socket is closed."""
        if not self.closed.is_set():
            self.error(code, message)
            self.stop(1008, code)

    def fail(self) -> None:
        self.perform(self.session.refuse(ProtocolError("server_error", "Something went wrong on our side.", type="server_error"), None, time.monotonic()))
        self.stop(1011, "server_error")

    def stop(self, code: int, reason: str, drop: bool = False) -> None:
        """End the session; `drop` throws away what the client never took."""
        if self.closed.is_set():
            return
        self.close_code, self.close_reason = code, reason
        if drop:
            self.outbox.clear()
            self.outbox_bytes = 0
        self.closed.set()

    async def finish(self) -> None:
        """Cancel jobs, write what is left, close."""
        self.closed.set()
        now = time.monotonic()
        try:
            for effect in self.session.close(self.close_reason, now):
                if not isinstance(effect, (fx.Send, fx.SendAudio)):
                    _CARRY_OUT[type(effect)](self, effect)
        except Exception:
            log.exception("closing")
        for handle in self.timers.values():
            handle.cancel()
        for job_id in self.jobs:
            self.dispatch.forget(job_id)
        if self.close_code:
            await self.say_goodbye()
        self.store.end(self.close_reason, round((now - self.began) * 1000))
        await self.store.close()
        pending = [t for t in self.tasks if t.get_name() != "cancel"]
        for task in pending:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def say_goodbye(self) -> None:
        """Let the last frames out, then the close; a client that takes neither is left to the server's own deadline."""
        until = time.monotonic() + 2
        while self.outbox and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for task in self.tasks:
            if task.get_name() == "writer":
                task.cancel()
        try:
            await asyncio.wait_for(self.send({"type": "websocket.close", "code": self.close_code, "reason": self.close_reason}), 3)
        except (TimeoutError, OSError, RuntimeError):
            log.info("the client did not take the close")


_CARRY_OUT = {
    fx.Send: RealtimeConsumer.do_send, fx.SendAudio: RealtimeConsumer.do_audio, fx.OpenJob: RealtimeConsumer.do_open,
    fx.FeedJob: RealtimeConsumer.do_feed, fx.CancelJob: RealtimeConsumer.do_cancel, fx.SetTimer: RealtimeConsumer.do_set_timer,
    fx.ClearTimer: RealtimeConsumer.do_clear_timer, fx.SetTurnDetection: RealtimeConsumer.do_detection, fx.SaveItem: RealtimeConsumer.do_save,
    fx.RecordTurn: RealtimeConsumer.do_turn, fx.Close: RealtimeConsumer.do_close,
}  # fmt: skip


def _unavailable() -> VivavoceError:
    return Overloaded("The service is not available at the moment; try again.", retry_after_s=2)


def _config(session_id: str, agent, handshake: auth.Handshake, kind: str) -> SessionConfig:
    return SessionConfig(
        session_id=session_id, model=handshake.query.get("model") or "default", type=kind, instructions=agent.instructions,
        voice=agent.voice, voices=frozenset(config.VOICES), language=agent.language, stt_engine=agent.stt_engine, stt_model=agent.stt_model,
        llm_engine=agent.llm_engine, llm_model=agent.llm_model, tts_engine=agent.tts_engine, tts_model=agent.tts_model,
        turn_detection=agent.turn_detection or dict(SERVER_VAD), tools=tuple(agent.tools), extensions=handshake.extensions,
        max_session_s=(longest := min(config.MAX_SESSION_SECONDS, agent.limits.get("max_session_seconds", config.MAX_SESSION_SECONDS))),
        expires_at=int(time.time()) + longest,
        start_deadline_ms=config.START_DEADLINE_MS, wait_deadline_ms=config.WAIT_DEADLINE_MS,
        stt_deadline_ms=config.STT_DEADLINE_MS, llm_deadline_ms=config.LLM_DEADLINE_MS,
        tts_deadline_ms=config.TTS_DEADLINE_MS,
    )  # fmt: skip
