"""What the session asks the shell to do. The core decides, the shell (voice/gateway) carries out, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from voice.core.jobs import Feed, Job


@dataclass(frozen=True, slots=True)
class Send:
    """Send one server event. `event` is JSON-ready and already carries its event_id."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Send one `response.output_audio.delta`. `event` lacks only `delta`; the shell adds base64 of `pcm` in `format`."""

    event: dict[str, Any]
    pcm: bytes  # PCM16 mono 24 kHz, whole samples, 20-200 ms
    format: str = "audio/pcm"  # or audio/pcmu, audio/pcma: 8 kHz


@dataclass(frozen=True, slots=True)
class OpenJob:
    job: Job
    feeds: tuple[Feed, ...] = ()  # input known already; written before the job is submitted
    ahead: bool = False  # may come to nothing: not counted against limits before CountJob
    counted: bool = False  # against the limits, by the process that opened it first
    refused: bool = False  # its engine is down and nothing can take over: it is lost at once


@dataclass(frozen=True, slots=True)
class CountJob:
    """A job opened `ahead` is wanted after all: count it against the limits. `audio_ms`: of an utterance."""

    job: Job
    audio_ms: int = 0


@dataclass(frozen=True, slots=True)
class EngineFault:
    """The engine of this job did not do its work: counted by the circuit breakers."""

    job: Job


@dataclass(frozen=True, slots=True)
class FeedJob:
    job: Job
    feed: Feed


@dataclass(frozen=True, slots=True)
class CancelJob:
    job: Job
    reason: str  # client_cancelled, turn_detected, disconnected, superseded, deadline


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call session.timer(name, now) at `at` (the same monotonic seconds as `now`). Setting again moves it."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class ClearTimer:
    name: str


@dataclass(frozen=True, slots=True)
class SetTurnDetection:
    """The shell's detector takes these settings; None switches it off. `reset` forgets speech under way."""

    settings: dict[str, Any] | None
    reset: bool = False


@dataclass(frozen=True, slots=True)
class EndTurnAfter:
    """The detector takes the pause under way for the end of the turn once it has lasted `silence_ms`."""

    silence_ms: int


@dataclass(frozen=True, slots=True)
class SaveItem:
    """An item reached its last state (or changed after it: truncated). `item` is wire-shaped, without audio."""

    item: dict[str, Any]
    previous_item_id: str | None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class SaveTracing:
    """What the client files this session under: {workflow_name, group_id, metadata}, each where it was told."""

    tracing: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordTurn:
    """A response ended; written with its usage in one transaction. The unit of billing and of the waterfall."""

    turn_id: str  # turn_...
    response_id: str
    status: str  # completed, cancelled, failed, incomplete
    reason: str  # status_details.reason or error code, "" when completed
    user_item_id: str | None
    # consecutive, named, ms; their sum is the time from end of speech (or response.create) to the first audio
    # (or text) sent. Names: endpointing, stt_queue, stt, llm_queue, llm, sentence, tts_queue, tts, send
    segments: tuple[tuple[str, float], ...]
    # meter -> integer units: audio_in_ms, audio_out_ms, tokens_in, tokens_out
    usage: dict[str, int] = field(default_factory=dict)
    # the same meters, of work that the client never got (speculative, dropped, failed): kept apart, never billed
    unbilled: dict[str, int] = field(default_factory=dict)
    # (name, ms) of what was done before the end of the turn was certain; inside `endpointing`, not beside it
    overlapped: tuple[tuple[str, float], ...] = ()
    began: float = 0.0  # where the waterfall begins: monotonic seconds of the session's own clock; 0 = no waterfall


def turn_of(id: str) -> str:
    """Id of the turn of a response, or of an item that got none: a response that ends twice (its end was forgotten) is one turn."""
    return f"turn_{id.partition('_')[2] or id}"


@dataclass(frozen=True, slots=True)
class CallTool:
    """Call a function of the agent's at its URL; answer with session.tool_result(response_id, call_id, output, now), whatever happens."""

    response_id: str
    call_id: str
    name: str
    url: str
    arguments: str  # JSON text


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str


Effect = (
    Send | SendAudio | OpenJob | CountJob | FeedJob | CancelJob | SetTimer | ClearTimer
    | SetTurnDetection | EndTurnAfter | SaveItem | RecordTurn | CallTool | Close
)
