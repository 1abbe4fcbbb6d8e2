"""Degraded mode: what the breakers learn of a session's engines, and what a client that opted in is told of all that is amiss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voice.core.jobs import Chunk, ChunkKind, Job
from voice.gateway import clock
from voice.gateway.breakers import Engine, Open, breakers
from voice.gateway.limits import PATROL_S, patrol

if TYPE_CHECKING:
    from voice.gateway.live import Live

JUDGED = (ChunkKind.DONE, ChunkKind.TRANSCRIPT, ChunkKind.FAILED)
FAULTS = ("engine_error", "deadline_exceeded", "model_not_found", "model_broken", "unknown_engine")  # of an engine, not of what it was asked
AFTER_S = 2.0  # what was handed out late is heard so much later than a Redis that was away


def _engine_of(job: Job) -> Engine:
    return str(job.stage), job.engine, job.model


class Health:
    def __init__(self, live: Live):
        self._live, self._session = live, live.session
        live.session.context.healthy = breakers().healthy

    # Of engines

    def failed(self, job: Job) -> None:
        if not self._live.dispatch.bus.away(AFTER_S):  # else nobody knows what the engine did
            breakers().failed(_engine_of(job))

    def judge(self, chunk: Chunk) -> None:
        """What the breaker of its engine learns of a chunk."""
        if chunk.kind not in JUDGED and not (chunk.final and chunk.kind is ChunkKind.AUDIO):  # a sentence: the job itself ends when nobody listens any more
            return
        if (lease := self._session.context.leases.get(chunk.job)) is None or lease.job.attempt != chunk.attempt:
            return
        if chunk.kind is not ChunkKind.FAILED:
            breakers().worked(_engine_of(lease.job))
        elif chunk.meta.get("retryable") or chunk.name in FAULTS:
            self.failed(lease.job)

    # Told to the client

    def tell(self) -> None:
        """All that is amiss when the session begins."""
        for engine, state in breakers().open.items():
            self.engine_changed(engine, state)
        if self._live.recorder.away_since:
            self.store_changed(True)
        if patrol.away_since:
            self.ledger_changed(True)
        if self._live.ear.by_loudness:
            self.ear_failed()

    def engine_changed(self, engine: Engine, state: Open | None) -> None:
        stage, name, model = engine
        context = self._session.context
        if context.settings.engine(stage) != (name, model):
            return
        if state is None:
            return self._recovered(stage)
        other = context.config.fallbacks.get(stage)
        wait_ms = max(0, round((state.retry_at - clock.now()) * 1000))
        self._degraded(stage, other[0] if other else None, since=state.since, retry_after_ms=wait_ms)

    def store_changed(self, away: bool) -> None:
        """Redis went or came."""
        self._degraded("state", retry_after_ms=500) if away else self._recovered("state")

    def ledger_changed(self, away: bool) -> None:
        """PostgreSQL went or came: until then what is used is kept in the session's journal, in Redis, and a spend cap holds nothing ahead."""
        if away:
            self._degraded("billing", None if self._live.recorder.away_since else "journal", since=patrol.away_since, retry_after_ms=round(PATROL_S * 1000))
        else:
            self._recovered("billing")

    def ear_failed(self) -> None:
        self._degraded("vad", "loudness")

    def _degraded(self, component: str, fallback: str | None = None, *, since: float = 0.0, retry_after_ms: int = 0) -> None:
        now = clock.now()
        self._live.perform(self._session.degraded(component, now, mode="fallback" if fallback else "unavailable", fallback=fallback,
                                                  since=since or now, retry_after_ms=retry_after_ms))  # fmt: skip

    def _recovered(self, component: str) -> None:
        self._live.perform(self._session.recovered(component, clock.now()))
