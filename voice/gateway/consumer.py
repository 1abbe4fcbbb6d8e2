"""One realtime WebSocket. A Channels consumer with its own receive loop: frames go straight from `receive()` to the session
(live.py), and nothing here ever waits for an engine, the database or Redis.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
import orjson
import pybase64
import structlog
from django.conf import settings

from apps.common.errors import Overloaded, VivavoceError
from apps.common.ids import new_id
from voice.core.events import CLIENT_EVENTS
from voice.core.settings import SessionConfig, turn_taking
from voice.gateway import auth, metrics, prompts
from voice.gateway.admission import Admission
from voice.gateway.dispatch import shared
from voice.gateway.limits import Place, patrol
from voice.gateway.live import BYTES_PER_S, Live
from voice.gateway.outbox import Outbox
from voice.gateway.sound import PCM
from voice.gateway.store import Store

log = logging.getLogger("voice.gateway")

SLICE = 48000  # bytes of audio (1 s) handled before others get their turn
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
            admission.enter()
        except VivavoceError as error:
            return await self.refuse(error)
        try:
            await self.session_of(handshake)
        finally:
            admission.leave()

    async def session_of(self, handshake: auth.Handshake) -> None:
        try:
            principal, agent, levels, capped = await asyncio.wait_for(auth.admit(handshake, settings.ALLOWED_ORIGINS), 8)
            dispatch = await asyncio.wait_for(shared(), 8)
            place = Place(new_id("sess"), principal, levels, self.end, capped)
            await asyncio.wait_for(patrol.enter(place), 8)
        except VivavoceError as error:
            return await self.refuse(error)
        except Exception:  # the edge: database or Redis away at connect
            log.exception("connect failed")
            return await self.refuse(_unavailable())
        structlog.contextvars.bind_contextvars(tenant=principal.tenant.tenant_id)
        try:
            await self.send({"type": "websocket.accept", "subprotocol": handshake.subprotocol})
            structlog.contextvars.bind_contextvars(session=place.session_id)
            store = Store(principal.tenant, place.session_id)
            store.open(agent_id=agent.agent_id, agent_version=agent.version, key_id=principal.key_id, model=handshake.query.get("model", ""),
                       client=handshake.user_agent)  # fmt: skip
            wanted = handshake.query.get("intent") == "transcription" or principal.session.get("type") == "transcription"
            settled = _config(place.session_id, agent, handshake, "transcription" if wanted else "realtime")
            self.live = Live(settled, place, dispatch, store)
            self.live.beta = handshake.beta
            self.live.session.context.settings.update(principal.session)  # checked when the client secret was made
            await self.serve()
        finally:
            await patrol.leave(place)

    def end(self, code: str, message: str) -> None:
        """From the patrol: this key or workspace may not go on."""
        if hasattr(self, "live"):
            self.live.end(code, message)

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

    # The life of a connection

    async def serve(self) -> None:
        live = self.live
        outbox = live.outbox = Outbox(self.send, lambda: live.stop(1013, "slow_reader"))
        try:
            live.start()
            await self.listen()
        except Closing as closing:
            live.close_code, live.close_reason = closing.code, closing.reason
        except Exception:  # the edge of the connection: no traceback reaches the client
            log.exception("session %s failed", live.place.session_id)
            live.fail()
        finally:
            await live.finish()
            outbox.stop()

    async def listen(self) -> None:
        """Read frames until the client goes, or the session says so."""
        reading = asyncio.create_task(self.read(), name="reader")
        closed = asyncio.create_task(self.live.closed.wait(), name="closed")
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
            self.live.error("invalid_json", "Binary frames are not part of the protocol; send JSON text.")
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
            return self.live.error("invalid_json", "The frame is not valid JSON.")
        kind = value.get("type") if isinstance(value, dict) else None
        if kind in prompts.EVENTS:
            await prompts.learn(self.live, value)
        self.live.receive(value)
        metrics.EVENTS_IN.labels(kind if isinstance(kind, str) and kind in CLIENT_EVENTS else "unknown").inc()
        metrics.EVENT_SECONDS.observe(time.perf_counter() - began)

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
        if len(pcm) <= SLICE:
            self.live.audio(pcm, event.event_id)
        else:
            view = memoryview(pcm)
            for at in range(0, len(pcm), SLICE):
                self.live.audio(bytes(view[at : at + SLICE]), event.event_id)
                await asyncio.sleep(0)
        self.audio_s += len(pcm) / BYTES_PER_S
        ahead = self.audio_s - (time.monotonic() - self.began) * FASTEST - BURST_S
        if ahead > 0:  # far faster than real time: TCP holds the sender back
            await asyncio.sleep(min(1.0, ahead / FASTEST))


def _unavailable() -> VivavoceError:
    return Overloaded("The service is not available at the moment; try again.", retry_after_s=2)


def _config(session_id: str, agent, handshake: auth.Handshake, kind: str) -> SessionConfig:
    return SessionConfig(
        session_id=session_id, model=handshake.query.get("model") or "default", type=kind, instructions=agent.instructions,
        voice=agent.voice, voices=frozenset(config.VOICES), language=agent.language, stt_engine=agent.stt_engine, stt_model=agent.stt_model,
        llm_engine=agent.llm_engine, llm_model=agent.llm_model, tts_engine=agent.tts_engine, tts_model=agent.tts_model,
        **turn_taking(agent.turn_detection), tools=tuple(agent.tools), extensions=handshake.extensions,
        strict=handshake.strict, prompts={agent.agent_id: prompts.patch(agent)}, pipelines={agent.agent_id: prompts.pipeline(agent)},
        max_session_s=(longest := min(config.MAX_SESSION_SECONDS, agent.limits.get("max_session_seconds", config.MAX_SESSION_SECONDS))),
        expires_at=int(time.time()) + longest,
        start_deadline_ms=config.START_DEADLINE_MS, wait_deadline_ms=config.WAIT_DEADLINE_MS,
        stt_deadline_ms=config.STT_DEADLINE_MS, llm_deadline_ms=config.LLM_DEADLINE_MS,
        tts_deadline_ms=config.TTS_DEADLINE_MS,
    )  # fmt: skip
