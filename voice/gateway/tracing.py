"""OpenTelemetry spans of a session: session -> turn -> stage -> engine. Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

A turn's spans are made when it has ended, from its waterfall, so that a live turn pays nothing. They carry ids, states and
numbers, never what was said. Export runs in a thread of its own over OTLP/HTTP with a bounded queue; what cannot be sent is dropped.
"""

from __future__ import annotations

import functools
import time
from collections import deque

from django.conf import settings

from voice.core.effects import RecordTurn
from voice.core.jobs import Chunk, Job

NS = 1_000_000_000
EXPORT_TIMEOUT_S = 5
ENGINES_KEPT = 64  # jobs whose engine time waits for the end of their turn
# stage -> segments of the waterfall it covers (voice/core/waterfall.py)
STAGES = {"endpointing": ("endpointing",), "stt": ("stt_queue", "stt"), "llm": ("llm_queue", "llm"), "tts": ("sentence", "tts_queue", "tts"), "send": ("send",)}


@functools.cache
def tracer():
    """The tracer of this process, or None when tracing is off."""
    endpoint = settings.VOICE.OTEL_ENDPOINT
    if not endpoint:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "vivavoce-gateway"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2048, schedule_delay_millis=1000))
    return provider.get_tracer("voice.gateway")


def of_session(session_id: str, tenant_id: str) -> SessionTrace | None:
    found = tracer()
    return SessionTrace(found, session_id, tenant_id) if found else None


class SessionTrace:
    """The spans of one session; `opened`, `done` and `cancelled` note its jobs, `turn` writes what a turn was made of."""

    def __init__(self, tracer, session_id: str, tenant_id: str):
        from opentelemetry import trace

        self._tracer = tracer
        self._ids = {"vivavoce.session": session_id, "vivavoce.tenant": tenant_id}
        self._span = tracer.start_span("session", attributes=self._ids, kind=trace.SpanKind.SERVER)
        self._context = trace.set_span_in_context(self._span)
        self._jobs: dict[str, tuple[Job, float]] = {}
        self._engines: deque[tuple[Job, float, float, str]] = deque(maxlen=ENGINES_KEPT)  # began and ended: unix seconds; how
        self._late: dict[str, tuple] = {}  # job that outlived its turn (recognition says last that it is done) -> where its span belongs

    def opened(self, job: Job) -> None:
        self._jobs[job.id] = (job, time.time())

    def done(self, chunk: Chunk) -> None:
        """The DONE or FAILED chunk of a job: its engine's own time is in `meta`."""
        if found := self._jobs.pop(chunk.job, None):
            now = time.time()
            self._ended(found[0], now - chunk.meta.get("total_ms", 0.0) / 1000, now, str(chunk.kind))

    def cancelled(self, job_id: str) -> None:
        """Nothing more is wanted of a job (recognition that had heard enough, an answer cut off)."""
        if found := self._jobs.pop(job_id, None):
            self._ended(*found, time.time(), "cancelled")

    def _ended(self, job: Job, began: float, ended: float, how: str) -> None:
        if where := self._late.pop(job.id, None):
            self._engine_span(*where, job, began, ended, how)
        else:
            self._engines.append((job, began, ended, how))

    def turn(self, effect: RecordTurn, now: float) -> None:
        """`now`: the monotonic time of the effect; `effect.began` counts on the same clock."""
        from opentelemetry import trace

        began = time.time() - (now - effect.began) if effect.began else time.time()
        attributes = {**self._ids, "vivavoce.turn": effect.turn_id, "vivavoce.response": effect.response_id, "vivavoce.status": effect.status}
        turn = self._tracer.start_span("turn", self._context, start_time=int(began * NS), attributes=attributes)
        inside = trace.set_span_in_context(turn)
        segments, at, stages = dict(effect.segments), began, {}
        for stage, names in STAGES.items():
            ms = sum(segments.get(name, 0.0) for name in names)
            if any(name in segments for name in names):
                span = self._tracer.start_span(stage, inside, start_time=int(at * NS), attributes={n: segments[n] for n in names if n in segments})
                at += ms / 1000
                span.end(int(at * NS))
                stages[stage] = trace.set_span_in_context(span)
        while self._engines:
            self._engine_span(stages, inside, *self._engines.popleft())
        self._late = dict.fromkeys(self._jobs, (stages, inside))
        turn.end(int(max(at, time.time()) * NS))

    def _engine_span(self, stages: dict, otherwise, job: Job, began: float, ended: float, how: str) -> None:
        attributes = {"vivavoce.engine": job.engine, "vivavoce.model": job.model, "vivavoce.job": job.id, "vivavoce.attempt": job.attempt, "vivavoce.ended": how}
        span = self._tracer.start_span(f"{job.stage} engine", stages.get(str(job.stage), otherwise), start_time=int(began * NS), attributes=attributes)
        span.end(int(ended * NS))

    def end(self, reason: str) -> None:
        self._span.set_attribute("vivavoce.reason", reason)
        self._span.end()
