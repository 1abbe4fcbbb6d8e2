"""What crosses between a session and the workers: jobs out, feeds after them, chunks back.

One job is one stage of one turn, held by one worker as a lease (docs/architecture.md, "Lease").
Everything here is plain data: `to_dict`/`from_dict` give JSON, except audio, which travels as bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """A stage of a turn; also the name of its Celery queue."""

    STT = "stt"
    LLM = "llm"
    TTS = "tts"


TASK_NAMES = {
    Stage.STT: "voice.transcribe",
    Stage.LLM: "voice.complete",
    Stage.TTS: "voice.synthesize",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One stage of one turn.

    `params` is JSON and depends on the stage:
    stt: {language, prompt, rate_hz, interim_ms, turn_end}  input by feeds: PCM16 mono at rate_hz, `last` ends it; a transcript so far
                                                  after `flush` and after each interim_ms of new audio (0: never); `turn_end`: with the chance of the turn's end
    llm: {messages, tools, tool_choice, parallel_tool_calls, max_tokens, temperature, prefix, truncation, reasoning}
                                                  `prefix`: text already said; the answer goes on after it
                                                  `truncation`: auto, disabled or {type, retention_ratio}: what happens when it does not fit
    tts: {voice, speed, language, rate_hz}        input by feeds: one sentence each, `last` ends it
    """

    id: str  # job_...
    attempt: int  # 1, one more after each silent lease, at most leases.MAX_ATTEMPTS
    stage: Stage
    session: str  # sess_...; the hash tag of the job's keys
    engine: str  # module name under voice/engines/<stage>/
    model: str  # what that engine loads; "" = its default
    deadline_ms: int  # from opening to the last chunk; the worker stops by itself after it
    params: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        return cls(**{**values, "stage": Stage(values["stage"])})


@dataclass(frozen=True, slots=True)
class Feed:
    """Input for an open job. `index` counts from 0 over all attempts (TTS: the sentence number)."""

    index: int
    text: str = ""
    pcm: bytes = b""
    last: bool = False
    flush: bool = False  # STT: a short silence; say what was heard so far


class ChunkKind(StrEnum):
    STARTED = "started"  # a worker holds the lease
    BEAT = "beat"  # nothing to say, still here (every BEAT_MS); carries the last seq, not a new one
    TRANSCRIPT = "transcript"  # stt: text of all audio up to feed `index`; `final` ends it
    TEXT = "text"  # llm: text delta
    TOOL = "tool"  # llm: one whole call
    AUDIO = "audio"  # tts: pcm of sentence `index`
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece on the way back. (job, attempt, seq) is unique; seq counts 0, 1, 2... within an attempt
    and includes STARTED and DONE. A gap in seq fails the job."""

    job: str
    attempt: int
    seq: int
    kind: ChunkKind
    text: str = ""  # TRANSCRIPT, TEXT; FAILED: the message
    pcm: bytes = b""  # AUDIO: PCM16 mono at params.rate_hz, whole samples, at most 100 ms
    index: int = 0  # AUDIO: sentence number; TOOL: number of the call; TRANSCRIPT: last feed heard
    final: bool = False  # TRANSCRIPT: no more will come; AUDIO: last piece of this sentence
    name: str = ""  # TOOL: function name; FAILED: the error code
    arguments: str = ""  # TOOL: JSON text
    # AUDIO: (character offset in the sentence, ms from the sentence's start) of words beginning in this piece
    marks: tuple[tuple[int, int], ...] = ()
    # DONE: {first_ms, total_ms} of the engine itself, {input_tokens, output_tokens, finish_reason} (llm),
    # {audio_ms} (stt, tts). FAILED: {retryable}. TRANSCRIPT: {language, no_speech, confidence, ended, decoded_ms}
    meta: dict[str, Any] = field(default_factory=dict)


BEAT_MS = 100  # a worker with nothing to say still says so this often
SILENT_LEASE_MS = 500  # after this much silence the session opens attempt + 1
