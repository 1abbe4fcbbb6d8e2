"""What a response is made with, and the jobs of the engines that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from voice.core.context import Context
from voice.core.conversation import Entry, llm_messages
from voice.core.jobs import Stage
from voice.core.leases import Lease

TTS_JOB_MS = 15 * 60 * 1000  # a long answer holds its worker as long as it is spoken


@dataclass
class ResponseParams:
    """The session's settings with what response.create overrides."""

    instructions: str
    modality: str  # "audio" or "text"
    voice: str
    speed: float
    tools: list[dict[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    max_output_tokens: int | str
    metadata: dict[str, str] | None = None
    out_of_band: bool = False
    input: list[Entry] | None = None  # None: the conversation
    format: str = "audio/pcm"  # of its audio, as the client gets it; inside all is PCM16 24 kHz
    truncation: str | dict[str, Any] = "auto"
    reasoning: str = ""  # effort
    server_tools: dict[str, str] = field(default_factory=dict)  # functions the shell calls: name -> URL


def llm_params(params: ResponseParams, entries: list[Entry]) -> dict[str, Any]:
    """What the language model's job is opened with."""
    tokens = params.max_output_tokens
    return {
        "messages": llm_messages(params.instructions, entries), "tools": params.tools, "tool_choice": params.tool_choice,
        "parallel_tool_calls": params.parallel_tool_calls, "max_tokens": 4096 if tokens == "inf" else tokens, "temperature": 0.0, "prefix": "",
        "truncation": params.truncation, "reasoning": params.reasoning,
    }  # fmt: skip


def tts_params(context: Context, params: ResponseParams) -> dict[str, Any]:
    return {"voice": params.voice, "speed": params.speed, "language": context.config.language, "rate_hz": 24000}


def open_llm(context: Context, params: ResponseParams, entries: list[Entry], owner: str, ahead: bool = False) -> Lease:
    return context.open_job(Stage.LLM, owner, context.config.llm_deadline_ms, llm_params(params, entries), ahead=ahead)


def open_tts(context: Context, params: ResponseParams, owner: str, ahead: bool = False) -> Lease:
    return context.open_job(Stage.TTS, owner, TTS_JOB_MS, tts_params(context, params), ahead=ahead)
