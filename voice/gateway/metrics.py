"""What the gateway counts. Names: docs/operations.md, "Watching it"."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from prometheus_client import Counter, Gauge, Histogram

from voice.core.effects import RecordTurn

_MS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SESSIONS = Gauge("voice_sessions", "Live realtime sessions", ["tenant"])
in_memory: WeakSet[Any] = WeakSet()
IN_MEMORY = Gauge("voice_sessions_in_memory", "Sessions this process has the objects of: live ones, and ended ones that were not freed")
IN_MEMORY.set_function(lambda: len(in_memory))
LOOP_LATE = Gauge("voice_loop_late_seconds", "How late the event loop is, 90th percentile of 3 s")
TASKS = Gauge("voice_tasks", "asyncio tasks of this process")
CORE_SHARE = Gauge("voice_core_share", "Share of one core this process uses, over 3 s")
RESTORE = Histogram("voice_restore_seconds", "A session taken over from another gateway", buckets=_MS)
EVENTS_IN = Counter("voice_client_events_total", "Client events received", ["type"])
REFUSED = Counter("voice_handshakes_refused_total", "Handshakes refused", ["code"])
CUT = Counter("voice_sessions_cut_total", "Sessions ended by us", ["reason"])
RESPONSES = Counter("voice_responses_total", "Responses by how they ended", ["status"])
VAD = Histogram("voice_vad_seconds", "End of speech to the certainty that it was one", buckets=_MS)
STT = Histogram("voice_stt_seconds", "Certain end of speech to the transcript, waiting included", buckets=_MS)
LLM_FIRST_TOKEN = Histogram("voice_llm_first_token_seconds", "Transcript to the first words of the answer, waiting included", buckets=_MS)
TTS_FIRST_BYTE = Histogram("voice_tts_first_byte_seconds", "First sentence to its first audio, waiting included", buckets=_MS)
FIRST = Histogram("voice_first_audio_seconds", "End of speech (or response.create) to the first audio or text sent", buckets=_MS)
EVENT_SECONDS = Histogram("voice_event_seconds", "Handling of one client event", buckets=(0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5))
_STAGES = ((VAD, ("endpointing",)), (STT, ("stt_queue", "stt")), (LLM_FIRST_TOKEN, ("llm_queue", "llm")), (TTS_FIRST_BYTE, ("tts_queue", "tts")))


def observe_turn(turn: RecordTurn) -> None:
    """Count a response that ended, by its waterfall (voice/core/waterfall.py)."""
    RESPONSES.labels(turn.status).inc()
    segments = dict(turn.segments)
    for histogram, names in _STAGES:
        if found := [segments[name] for name in names if name in segments]:
            histogram.observe(sum(found) / 1000)
    if segments:
        FIRST.observe(sum(segments.values()) / 1000)
