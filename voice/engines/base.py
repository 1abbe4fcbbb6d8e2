"""The three engine contracts. One file per engine under stt/, llm/, tts/ with a class named Engine; the module
name is the engine's name. An engine knows nothing of sessions, tenants, Redis or cancelling: it yields, and frees
what it holds when its generator is closed (GeneratorExit at a yield). Heavy imports go inside load().

Engines are shared by all threads of a worker: load() runs once, the other methods from many threads at once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class EngineError(Exception):
    """The engine could not do it. `retryable`: the same call may work a moment later or on another worker."""

    def __init__(self, message: str, *, code: str = "engine_error", retryable: bool = False):
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class ModelNotFound(EngineError):
    """No such model on this machine; the message names the path looked at and `manage.py models pull`."""


@dataclass(frozen=True, slots=True)
class Transcript:
    text: str  # all heard so far, or all of it when final
    final: bool
    language: str = "en"
    no_speech: float = 0.0  # 0..1
    words: tuple[tuple[str, int, int], ...] = ()  # (word, start_ms, end_ms); empty where not known
    ended: float | None = None  # 0..1: the chance that the user has finished, where it was asked for
    confidence: float = 1.0  # 0..1: how sure the model is of these words (Whisper: e ** mean log-probability of a token)
    logprobs: tuple[tuple[str, float], ...] = ()  # (token, natural log of its probability), whose tokens join to the text; where it was asked for


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    messages: list[dict[str, Any]]  # Chat Completions shape: role system/user/assistant/tool, content, tool_calls
    tools: list[dict[str, Any]] = field(default_factory=list)  # [{type: function, name, description, parameters}]
    tool_choice: str | dict[str, Any] = "auto"  # auto, none, required, {type: function, name}
    parallel_tool_calls: bool = True
    max_tokens: int = 512
    temperature: float = 0.0
    prefix: str = ""  # text of the answer already said; go on after it
    # disabled: too long is an error; {retention_ratio, token_limits: {post_instructions}}: the share kept of the context, or of that limit, when full
    truncation: str | dict[str, Any] = "auto"
    reasoning: str = ""  # effort: none, minimal, low, medium, high, xhigh; "" = the model's own


def fit(request: CompletionRequest, size_of: Callable[[list[dict[str, Any]]], int], context: int, room: int) -> tuple[list[dict[str, Any]], int]:
    """(messages, their tokens): the oldest leave until `room` tokens stay free of `context`; a call leaves with its outputs.

    Raises EngineError context_length_exceeded where that is not enough or the request forbids it.
    """
    messages, size = list(request.messages), size_of(request.messages)
    first = 1 if messages and messages[0]["role"] == "system" else 0
    most, target = _limits(request, lambda: size_of(messages[:first]) if first else 0, context, room)
    if size > most and request.truncation != "disabled":
        starts = [i for i in range(first, len(messages) - 1) if messages[i]["role"] != "tool"] + [len(messages) - 1]
        kept = bisect_left(starts[:-1], True, key=lambda start: size_of(messages[:first] + messages[start:]) <= target)
        messages[first : starts[kept]] = []
        size = size_of(messages)
    if size + (room if request.truncation == "disabled" else 1) > context:
        raise EngineError(f"the prompt has {size} tokens, the model reads {context}", code="context_length_exceeded")
    return messages, size


def _limits(request: CompletionRequest, instructions: Callable[[], int], context: int, room: int) -> tuple[int, int]:
    """(tokens a prompt may have, tokens it is cut down to when it has more). `instructions`: tokens that always stay."""
    most = context - room
    if not isinstance(request.truncation, dict):
        return most, most
    ratio = request.truncation["retention_ratio"]
    if (own := request.truncation.get("token_limits", {}).get("post_instructions")) is None:
        return most, min(most, int(ratio * context))
    stay = instructions()
    return min(most, stay + own), min(most, stay + int(ratio * own))


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str  # valid JSON object


@dataclass(frozen=True, slots=True)
class Completion:
    """Last thing an LLM yields."""

    finish_reason: str  # stop, length, tool_calls
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Speech:
    pcm: bytes  # PCM16 mono at Engine.rate_hz, whole samples, at most 100 ms
    marks: tuple[tuple[int, int], ...] = ()  # (character offset, ms from start) of words beginning in this piece


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What engines are told of the installation. `models_dirs` are searched for <stage>/<model>."""

    models_dirs: tuple[Path, ...] = ()
    device: str = "cpu"
    threads: int = 1
    openai_base_url: str = ""
    openai_api_key: str = ""

    def find(self, stage: str, model: str) -> Path:
        """Folder of a model, or the path `model` itself. Raises ModelNotFound."""
        tried = [Path(model)] if os.sep in model else [folder / stage / model for folder in self.models_dirs]
        for path in tried:
            if path.is_dir():
                return path
        raise ModelNotFound(f"no {stage} model {model!r} at {', '.join(map(str, tried))}; `manage.py models list` shows what is "
                            "there, `manage.py models pull NAME` downloads one", code="model_not_found")  # fmt: skip


class Engine(ABC):
    def __init__(self, model: str = "", settings: EngineSettings = EngineSettings()):
        self.model, self.settings = model, settings

    @abstractmethod
    def load(self) -> None:
        """Import what is heavy and load weights. Raises ModelNotFound, EngineError."""

    def close(self) -> None:
        """Give back processes, threads and memory. Safe to call twice."""


class STTEngine(Engine):
    endings: dict[str, float] = {}  # of a closed vocabulary: last words -> chance that the sentence is over (voice/engines/turn_end.py)
    window_s: float = 30.0  # audio one inference looks at; longer speech is cut at the speaker's own pauses before it gets there

    @abstractmethod
    def transcribe(self, pcm: bytes, *, language: str = "en", prompt: str = "", task: str = "transcribe", logprobs: bool = False) -> Iterator[Transcript]:
        """PCM16 mono 16 kHz in; zero or more interim transcripts, then exactly one final (text "" for silence).

        `task`: transcribe, or translate (into English; EngineError unsupported_parameter where the model cannot)."""


class LLMEngine(Engine):
    @abstractmethod
    def complete(self, request: CompletionRequest) -> Iterator[TextDelta | ToolCall | Completion]:
        """Text deltas and whole tool calls, then exactly one Completion."""


class TTSEngine(Engine):
    rate_hz: int = 24000

    @abstractmethod
    def voices(self) -> list[str]:
        """Names this engine speaks with; the first is its default."""

    @abstractmethod
    def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0, language: str = "en") -> Iterator[Speech]:
        """Speak `text` (one sentence). speed 0.25-4.0, 1.0 = normal. Unknown voice: EngineError unknown_voice."""
