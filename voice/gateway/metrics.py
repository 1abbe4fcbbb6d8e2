from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_MS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SESSIONS = Gauge("voice_sessions", "Live realtime sessions", ["tenant"])
EVENTS_IN = Counter("voice_client_events_total", "Client events received", ["type"])
REFUSED = Counter("voice_handshakes_refused_total", "Handshakes refused", ["code"])
CUT = Counter("voice_sessions_cut_total", "Sessions ended by us", ["reason"])
RESPONSES = Counter("voice_responses_total", "Responses by how they ended", ["status"])
SEGMENT = Histogram("voice_turn_segment_seconds", "Segments of a turn's waterfall", ["segment"], buckets=_MS)
FIRST = Histogram("voice_turn_first_output_seconds", "End of speech to the first audio or text sent", buckets=_MS)
EVENT_SECONDS = Histogram("voice_event_seconds", "Handling of one client event", buckets=(0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5))
