"""One realtime WebSocket. A Channels consumer with its own receive loop: frames go straight from `receive()` to the session
(live.py), and nothing here ever waits for an engine, the database or Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import orjson
import pybase64
import structlog
from django.conf import settings

from apps.common.errors import Overloaded, VivavoceError
from apps.common.ids import new_id
from voice.core.events import CLIENT_EVENTS, event_id_of
from voice.core.session import Session
from voice.core.settings import SessionConfig, turn_taking
from voice.gateway import auth, metrics, pace, prompts, resume
from voice.gateway.admission import admission
from voice.gateway.dispatch import shared
from voice.gateway.ids import make_id
from voice.gateway.intake import PIECE_BYTES, Intake
from voice.gateway.limits import Place, patrol, window_of
from voice.gateway.live import Live
from voice.gateway.meter import BYTES_PER_S
from voice.gateway.notices import shelf
from voice.gateway.outbox import Outbox
from voice.gateway.recorder import BACKLOG_BYTES, shared_recorder
from voice.gateway.sound import PCM
from voice.gateway.turnstile import Sluice

log = logging.getLogger("voice.gateway")

AT_A_TIME = 8  # frames of one connection, though more have come, before others have their turn
SMALL = 16 * 1024  # characters; a message up to here is taken whatever the limit
LARGE = 4 * 1024  # larger events are taken one at a time, and of all connections together
LARGE_BYTES_PER_S, LARGE_PAUSE_S = 1e6, 0.1  # so much of them a second: one of 30 KB costs this process 2 to 4 ms of CPU, most of it to keep it
SHORTEST_S = 0.005  # as long a piece of audio counts at least
BURST_S, FASTEST = 120.0, 20.0  # audio may come this far ahead of the clock, then at most this many times real time
UNREAD_BYTES = 2**18  # with more than this unsent a large event is the last one read: TCP holds a client back that does not read
LOOK_S = 0.05  # and after a small one the next waits so long
APPEND = "input_audio_buffer.append"
config = settings.VOICE


class _Append(msgspec.Struct):
    """Only what the hot path needs of a frame; all other keys are skipped unread."""

    type: str
    audio: str | None = None
    event_id: str | None = None


_decode = msgspec.json.Decoder(_Append)
_readers = Sluice(LARGE_BYTES_PER_S, LARGE_PAUSE_S)  # large events: those who talk are not held up by fifty others who paste


class Closing(Exception):
    """Ends the receive loop: close with this code."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason


class RealtimeConsumer:
    """ASGI application for one connection."""

    live: Live

    @classmethod
    def as_asgi(cls):
        async def application(scope, receive, send):
            await cls()(scope, receive, send)

        return application

    async def __call__(self, scope, receive, send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.began, self.audio_s = time.monotonic(), 0.0
        await receive()  # websocket.connect
        handshake = auth.Handshake.of(scope)
        try:
            admission.enter(returning=resume.wanted(handshake) is not None)
        except VivavoceError as error:
            return await self.refuse(error)
        try:
            await self.session_of(handshake)
        finally:
            admission.leave()

    async def session_of(self, handshake: auth.Handshake) -> None:
        wanted = resume.wanted(handshake)
        try:
            async with admission.turn():
                self.live = await self.let_in(handshake, wanted)
        except VivavoceError as error:
            return await self.refuse(error)
        except Exception:  # the edge: database or Redis away at connect
            log.exception("connect failed")
            return await self.refuse(_unavailable())
        structlog.contextvars.bind_contextvars(tenant=self.live.place.owner[0], session=self.live.id)
        try:
            await self.send({"type": "websocket.accept", "subprotocol": handshake.subprotocol})
        except (OSError, RuntimeError):  # the client is gone already
            return await self.live.give_up() if not wanted else None
        await self.serve(handshake if wanted else None)

    async def let_in(self, handshake: auth.Handshake, wanted: str | None) -> Live:
        """The session, new or taken up again. Raises the errors of apps.common.errors."""
        principal, agent, levels, capped = await asyncio.wait_for(auth.admit(handshake, settings.ALLOWED_ORIGINS, resuming=bool(wanted)), 8)
        dispatch, recorder = await asyncio.wait_for(shared(), 8), shared_recorder()
        resume.sweep.start(dispatch, recorder)
        place = Place(wanted or new_id("sess"), principal, levels, capped=capped)
        if wanted:
            return await asyncio.wait_for(resume.find(wanted, principal, handshake, place, dispatch, recorder), 8)
        await asyncio.wait_for(patrol.enter(place), 8)
        try:
            return self.begin(principal, agent, handshake, place, dispatch, recorder)
        except Exception:
            await patrol.leave(place)
            raise

    def begin(self, principal, agent, handshake: auth.Handshake, place: Place, dispatch, recorder) -> Live:
        kind = "transcription" if handshake.query.get("intent") == "transcription" or principal.session.get("type") == "transcription" else "realtime"
        window_s = window_of(place.levels, config.RESUME_SECONDS)
        session_config = _config(place.session_id, agent, handshake, kind, window_s)
        session = Session(session_config, make_id, shelf.of(session_config, dispatch))
        session.context.settings.update(principal.session)  # checked when the client secret was made
        return Live(session, resume.about_of(principal, handshake, agent, window_s), place, dispatch, recorder)

    async def refuse(self, error: VivavoceError) -> None:
        """Refuse the handshake by its HTTP status where the server can say one; else by a plain close (Daphne: 403)."""
        metrics.REFUSED.labels(error.code).inc()
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self.send({"type": "websocket.close", "code": 1013 if error.status == 503 else 1008})
            return
        headers = [(b"content-type", b"application/json")]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(error.retry_after_s).encode()))
        await self.send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "websocket.http.response.body", "body": orjson.dumps(error.to_json())})

    # The life of a connection

    def close(self, code: int, reason: str) -> None:
        """From the session or the outbox: end this connection with this code."""
        if not self.closed.is_set():
            self.code, self.reason = code, reason
            self.closed.set()

    async def serve(self, returning: auth.Handshake | None) -> None:
        """`returning`: the handshake of a client that takes its session up again."""
        live = self.live
        self.closed, self.code, self.reason = asyncio.Event(), 1011, "server_error"
        self.intake = Intake(live.audio, lambda: live.session.turns.buffer.room, live.fail)
        outbox = Outbox(self.send, self.cut)
        try:
            if returning:
                await live.reconnect(self, outbox, returning.query.get("last_event_id"), returning.extensions and returning.query.get("replay") == "items")
            else:
                live.connect(self, outbox)
                live.start()
            await self.listen()
        except Closing as closing:
            self.code, self.reason = closing.code, closing.reason
        except Exception:  # the edge of the connection: no traceback reaches the client
            log.exception("session %s failed", live.id)
            live.fail()
        finally:
            if live.connection is self:
                await live.hung_up(self, self.code, self.reason)
            elif self.code:  # a newer connection has the session
                await outbox.say_goodbye(self.code, self.reason)
            outbox.stop()

    def cut(self) -> None:
        """The client does not read."""
        self.close(1013, "slow_reader")

    async def listen(self) -> None:
        """Read frames until the client goes, or this end says so."""
        reading = asyncio.create_task(self.read(), name="reader")
        closed = asyncio.create_task(self.closed.wait(), name="closed")
        await asyncio.wait((reading, closed), return_when=asyncio.FIRST_COMPLETED)
        closed.cancel()
        if not reading.done():
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return
        try:
            reading.result()
        finally:
            del reading  # its error knows this frame: a ring

    async def read(self) -> None:
        receive = self.receive
        try:
            for number in count():
                if not number % AT_A_TIME:
                    await asyncio.sleep(0)
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    raise Closing(0, "client" if message.get("code") == 1000 else "disconnected")
                await self.frame(message)
        finally:
            if self.live.connection is self:
                self.intake.flush()

    async def frame(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        if text is None:
            self.live.error("invalid_json", "Binary frames are not part of the protocol; send JSON text.")
            raise Closing(1003, "binary_frame")
        if len(text) > SMALL and self.too_large(len(text)):
            return
        try:
            event = _decode.decode(text)
        except msgspec.DecodeError:
            event = None
        if event is not None and event.type == APPEND and event.audio is not None:
            return await self.append(event)
        self.intake.flush()
        if len(text) > LARGE:
            await _readers.wait(len(text))
        began = time.perf_counter()
        try:
            value = orjson.loads(text)
        except ValueError:
            return self.live.error("invalid_json", "The frame is not valid JSON.")
        kind = value.get("type") if isinstance(value, dict) else None
        if (per_s := pace.events.take(self.live.place.told("events_per_second"))) is not None:
            return await self.hold_back(value, per_s)
        if isinstance(kind, str) and kind in prompts.EVENTS:
            await prompts.learn(self.live, value)
        self.live.receive(value)
        metrics.EVENTS_IN.labels(kind if isinstance(kind, str) and kind in CLIENT_EVENTS else "unknown").inc()
        metrics.EVENT_SECONDS.observe(time.perf_counter() - began)
        await self.hold_up(len(text))

    async def hold_up(self, size: int) -> None:
        """A client that sends faster than its events can be kept, or does not read the answers, is not read for a while: TCP holds it back,
        and one that never reads is cut after OUTPUT_STALL_SECONDS (outbox.py). Behind small events nobody waits for long: on a slow line they
        stop the answer that fills it, and speech follows them."""
        if self.live.record.backlog > BACKLOG_BYTES:
            await self.live.recorder.flush(self.live.record)
        else:
            await asyncio.sleep(0)
        outbox = self.live.line.outbox
        while outbox is not None and outbox.unsent > UNREAD_BYTES:
            await asyncio.sleep(LOOK_S)
            if size <= LARGE:
                return

    def too_large(self, size: int) -> bool:
        """Larger than key or workspace may send: refused, and the connection stays."""
        kib = min((limit for _, limit in self.live.place.told("frame_kib")), default=0)
        if not kib or size <= kib * 1024:
            return False
        self.live.error("invalid_value", f"The message has {size // 1024} KiB; at most {kib} are allowed here. Send audio in smaller pieces.")
        return True

    async def hold_back(self, value: Any, per_s: int) -> None:
        """The event is dropped; the next one is read no sooner than the limit would have it, so that refusals keep to it, too."""
        metrics.REFUSED.labels("rate_limit_exceeded").inc()
        self.live.limited(f"More than {per_s} events a second; this one was dropped. Send it again in a moment.", event_id_of(value))
        await asyncio.sleep(1 / max(1, per_s))

    async def append(self, event: _Append) -> None:
        """The hot path: audio into the session."""
        try:
            pcm = pybase64.b64decode(event.audio, validate=True)
        except ValueError:
            return self.live.error("invalid_value", "'audio' is not valid base64.", "audio", event.event_id)
        if (format := self.live.session.context.settings.input_format) != PCM:
            pcm = self.live.sound.incoming(pcm, format)
        elif len(pcm) & 1:
            return self.live.error("invalid_value", f"'audio' has {len(pcm)} bytes; PCM16 needs an even number.", "audio", event.event_id)
        for piece in (pcm,) if len(pcm) <= PIECE_BYTES else _pieces(pcm):
            self.intake.push(piece, event.event_id)
            if self.intake.full:
                await self.intake.emptied()
        self.audio_s += max(SHORTEST_S, len(pcm) / BYTES_PER_S)
        ahead = self.audio_s - (time.monotonic() - self.began) * FASTEST - BURST_S
        if ahead > 0:  # far faster than real time: TCP holds the sender back
            await asyncio.sleep(min(1.0, ahead / FASTEST))


def _pieces(pcm: bytes) -> Iterator[bytes]:
    return (pcm[at : at + PIECE_BYTES] for at in range(0, len(pcm), PIECE_BYTES))


def _unavailable() -> VivavoceError:
    return Overloaded("The service is not available at the moment; try again.", retry_after_s=2)


def _config(session_id: str, agent, handshake: auth.Handshake, kind: str, window_s: int) -> SessionConfig:
    return SessionConfig(
        session_id=session_id, model=handshake.query.get("model") or "default", type=kind, instructions=agent.instructions,
        voice=agent.voice, voices=frozenset(config.VOICES), language=agent.language, stt_engine=agent.stt_engine, stt_model=agent.stt_model,
        llm_engine=agent.llm_engine, llm_model=agent.llm_model, tts_engine=agent.tts_engine, tts_model=agent.tts_model,
        **turn_taking(agent.turn_detection), fallbacks=agent.fallbacks, tools=tuple(prompts.client_tools(agent)),
        server_tools=prompts.server_tools(agent), extensions=handshake.extensions,
        strict=handshake.strict, prompts={agent.agent_id: prompts.patch(agent)}, pipelines={agent.agent_id: prompts.pipeline(agent)},
        max_session_s=(longest := min(config.MAX_SESSION_SECONDS, agent.limits.get("max_session_seconds", config.MAX_SESSION_SECONDS))),
        expires_at=int(time.time()) + longest,
        resume_window_s=window_s, start_deadline_ms=config.START_DEADLINE_MS, wait_deadline_ms=config.WAIT_DEADLINE_MS,
        stt_deadline_ms=config.STT_DEADLINE_MS, llm_deadline_ms=config.LLM_DEADLINE_MS,
        tts_deadline_ms=config.TTS_DEADLINE_MS,
    )  # fmt: skip
