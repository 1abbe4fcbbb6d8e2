"""Session settings: what a session starts with, and `session.update` as a patch (protocol section 4)."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from voice.core.errors import ProtocolError
from voice.core.events import expect

SERVER_VAD = {
    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
    "idle_timeout_ms": None, "create_response": True, "interrupt_response": True,
}  # fmt: skip
SEMANTIC_VAD = {"type": "semantic_vad", "eagerness": "auto", "create_response": True, "interrupt_response": True}
OPENAI_VOICES = ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
PCM = {"type": "audio/pcm", "rate": 24000}
MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What the shell knows when the session starts. Deadlines in ms."""

    session_id: str
    model: str = "default"
    type: str = "realtime"  # or "transcription"
    instructions: str = ""
    voice: str = "alloy"
    voices: frozenset[str] = frozenset()  # names the speech engine knows, beside OPENAI_VOICES
    language: str = "en"
    stt_engine: str = "faster_whisper"
    stt_model: str = ""
    llm_engine: str = "ctranslate2"
    llm_model: str = ""
    tts_engine: str = "espeak"
    tts_model: str = ""
    turn_detection: dict[str, Any] | None = field(default_factory=lambda: dict(SERVER_VAD))
    tools: tuple[dict[str, Any], ...] = ()
    extensions: bool = False
    max_session_s: int = 3600
    expires_at: int = 0  # unix seconds, shown to the client
    start_deadline_ms: int = 2000  # a job no worker has taken by then is handed out again
    wait_deadline_ms: int = 10000  # a job no worker has taken by then has failed
    stt_deadline_ms: int = 20000
    llm_deadline_ms: int = 60000
    tts_deadline_ms: int = 10000  # for one sentence
    responses_per_minute: int = 600
    tokens_per_minute: int = 1_000_000
    max_buffer_ms: int = 300_000  # audio held before it is committed
    max_items: int = 1000
    max_text_chars: int = 100_000  # in one item


class Settings:
    """The effective settings, in the GA shape. `update` is atomic: on an error nothing changes."""

    def __init__(self, config: SessionConfig):
        self.config = config
        detection = config.turn_detection
        defaults = {"server_vad": SERVER_VAD, "semantic_vad": SEMANTIC_VAD}
        if detection is not None:
            detection = {**defaults[detection["type"]], **detection}
        self.type = config.type
        self.extensions = config.extensions
        self.values: dict[str, Any] = {
            "model": config.model,
            "instructions": config.instructions,
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": dict(PCM), "transcription": None, "noise_reduction": None, "turn_detection": detection},
                "output": {"format": dict(PCM), "voice": config.voice, "speed": 1.0},
            },
            "tools": [dict(t) for t in config.tools],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "max_output_tokens": "inf",
            "tracing": None,
            "prompt": None,
            "truncation": "auto",
            "include": None,
        }

    @property
    def turn_detection(self) -> dict[str, Any] | None:
        return self.values["audio"]["input"]["turn_detection"]

    @property
    def transcription(self) -> dict[str, Any] | None:
        return self.values["audio"]["input"]["transcription"]

    def echo(self) -> dict[str, Any]:
        """The `session` object of session.created and session.updated: full, with defaults filled in."""
        values = copy.deepcopy(self.values)
        head = {"id": self.config.session_id, "expires_at": self.config.expires_at, "type": self.type}
        if self.type == "transcription":
            audio = {"input": values["audio"]["input"]}
            return {**head, "object": "realtime.transcription_session", "audio": audio, "include": values["include"]}
        return {**head, "object": "realtime.session", **values}

    def update(self, patch: dict[str, Any]) -> None:
        """Merge a patch. Raises ProtocolError; then nothing has changed."""
        values = copy.deepcopy(self.values)
        apply_patch(values, flat_to_ga(patch), self.config)
        self.values = values
        if isinstance(patch.get("extensions"), bool):
            self.extensions = patch["extensions"]


def flat_to_ga(patch: dict[str, Any]) -> dict[str, Any]:
    """Accept the beta's flat keys (community samples mix them): moved to where GA has them."""
    moved: dict[str, Any] = {k: v for k, v in patch.items()}
    audio = copy.deepcopy(moved["audio"]) if isinstance(moved.get("audio"), dict) else {}
    places = {
        "voice": ("output", "voice"), "speed": ("output", "speed"), "turn_detection": ("input", "turn_detection"),
        "input_audio_transcription": ("input", "transcription"), "input_audio_format": ("input", "format"),
        "output_audio_format": ("output", "format"), "input_audio_noise_reduction": ("input", "noise_reduction"),
    }  # fmt: skip
    for key, (side, name) in places.items():
        if key in moved:
            value = moved.pop(key)
            if key.endswith("_format") and isinstance(value, str):
                value = dict(PCM) if value == "pcm16" else {"type": value}
            if not isinstance(audio.get(side), dict):
                audio[side] = {}
            audio[side].setdefault(name, value)
    if audio:
        moved["audio"] = audio
    if "modalities" in moved:
        moved.setdefault("output_modalities", moved.pop("modalities"))
    if "max_response_output_tokens" in moved:
        moved.setdefault("max_output_tokens", moved.pop("max_response_output_tokens"))
    return moved


def apply_patch(values: dict[str, Any], patch: dict[str, Any], config: SessionConfig, at: str = "session") -> None:
    """Write the known keys of `patch` into `values`, checked; unknown keys are ignored (rule 10)."""
    for key, setter in _SETTERS.items():
        if key in patch:
            setter(values, patch[key], f"{at}.{key}", config)


def _invalid(param: str, value: Any, allowed: str) -> ProtocolError:
    return ProtocolError("invalid_value", f"Invalid value: {str(value)[:100]!r}. Supported values are: {allowed}.", param=param)


def _set_model(values, value, param, config):
    if value is not None:
        values["model"] = expect(value, str, param)


def _set_instructions(values, value, param, config):
    text = "" if value is None else expect(value, str, param)
    if len(text) > config.max_text_chars:
        raise ProtocolError("invalid_value", f"'{param}' is longer than {config.max_text_chars} characters.", param=param)
    values["instructions"] = text


def _set_modalities(values, value, param, config):
    if value is None:
        value = ["audio"]
    wanted = expect(value, list, param)
    if not wanted or any(m not in ("audio", "text") for m in wanted):
        raise _invalid(param, value, "['audio'] and ['text']")
    values["output_modalities"] = ["audio"] if "audio" in wanted else ["text"]


def _set_tools(values, value, param, config):
    values["tools"] = check_tools([] if value is None else value, param)


def check_tools(value: Any, param: str) -> list[dict[str, Any]]:
    """Function tools only. Raises ProtocolError unsupported_tool_type and others."""
    tools = expect(value, list, param)
    if len(tools) > 128:
        raise ProtocolError("invalid_value", f"'{param}': at most 128 tools.", param=param)
    for i, tool in enumerate(tools):
        where = f"{param}[{i}]"
        kind = expect(tool, dict, where).get("type", "function")
        if kind != "function":
            raise ProtocolError("unsupported_tool_type", f"Tools of type '{str(kind)[:40]}' are not supported; use 'function'.",
                                param=f"{where}.type")  # fmt: skip
        name = expect(tool.get("name"), str, f"{where}.name")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ProtocolError("invalid_value", f"Tool name {name[:80]!r}: 1-64 of A-Z a-z 0-9 _ -.", param=f"{where}.name")
        if tool.get("parameters") is not None:
            expect(tool["parameters"], dict, f"{where}.parameters")
        if tool.get("description") is not None:
            expect(tool["description"], str, f"{where}.description")
    return [{"type": "function", **{k: v for k, v in t.items() if v is not None and k != "type"}} for t in tools]


def _set_tool_choice(values, value, param, config):
    values["tool_choice"] = check_tool_choice(value, param)


def check_tool_choice(value: Any, param: str) -> Any:
    if value is None:
        return "auto"
    if isinstance(value, dict):
        if value.get("type") == "function" and isinstance(value.get("name"), str):
            return {"type": "function", "name": value["name"]}
        raise _invalid(param, value, "'auto', 'none', 'required', {'type': 'function', 'name': …}")
    if value not in ("auto", "none", "required"):
        raise _invalid(param, value, "'auto', 'none', 'required', {'type': 'function', 'name': …}")
    return value


def _set_max_tokens(values, value, param, config):
    if value is None or value == "inf":
        values["max_output_tokens"] = "inf"
        return
    if not 1 <= expect(value, int, param) <= MAX_TOKENS:
        raise _invalid(param, value, f"1 to {MAX_TOKENS}, or 'inf'")
    values["max_output_tokens"] = value


def _set_parallel(values, value, param, config):
    values["parallel_tool_calls"] = True if value is None else expect(value, bool, param)


def _set_tracing(values, value, param, config):
    if value is not None and value != "auto":
        expect(value, dict, param)
    values["tracing"] = value


def _set_prompt(values, value, param, config):
    if value is not None:
        name = expect(value, dict, param).get("id")
        raise ProtocolError("prompt_not_found", f"Prompt '{str(name)[:80]}' not found.", param=f"{param}.id")
    values["prompt"] = None


def _set_truncation(values, value, param, config):
    if isinstance(value, dict):
        if value.get("type") != "retention_ratio" or not isinstance(value.get("retention_ratio"), (int, float)):
            raise _invalid(param, value, "'auto', 'disabled', {'type': 'retention_ratio', …}")
    elif value not in (None, "auto", "disabled"):
        raise _invalid(param, value, "'auto', 'disabled', {'type': 'retention_ratio', …}")
    values["truncation"] = value or "auto"


def _set_include(values, value, param, config):
    if value is not None and any(not isinstance(v, str) for v in expect(value, list, param)):
        raise ProtocolError("invalid_type", f"'{param}' is a list of strings.", param=param)
    values["include"] = value


def _set_audio(values, value, param, config):
    audio = {} if value is None else expect(value, dict, param)
    for side, setters in _AUDIO.items():
        patch = audio.get(side)
        if patch is None:
            continue
        expect(patch, dict, f"{param}.{side}")
        for key, setter in setters.items():
            if key in patch:
                setter(values["audio"][side], patch[key], f"{param}.{side}.{key}", config)


def _set_format(side, value, param, config):
    if value is None:
        side["format"] = dict(PCM)
        return
    if isinstance(value, str):
        value = {"type": "audio/pcm" if value == "pcm16" else value}
    kind = expect(value, dict, param).get("type")
    if kind != "audio/pcm":
        raise _invalid(f"{param}.type", kind, "'audio/pcm'")
    if value.get("rate", 24000) != 24000:
        raise _invalid(f"{param}.rate", value["rate"], "24000")
    side["format"] = dict(PCM)


def _set_voice(side, value, param, config):
    if value is None:
        return
    name = value.get("id") if isinstance(value, dict) else value
    name = expect(name, str, param)
    if name not in config.voices and name not in OPENAI_VOICES:
        raise _invalid(param, name, ", ".join(sorted({*config.voices, *OPENAI_VOICES})))
    side["voice"] = name


def _set_speed(side, value, param, config):
    if value is None:
        value = 1.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ProtocolError("invalid_type", f"Invalid type for '{param}': expected a number.", param=param)
    if not 0.25 <= value <= 1.5:
        raise _invalid(param, value, "0.25 to 1.5")
    side["speed"] = float(value)


def _set_transcription(side, value, param, config):
    if value is None:
        side["transcription"] = None
        return
    current = dict(side["transcription"] or {})
    for key in ("model", "language", "prompt"):  # nothing else is echoed: rule 14
        if expect(value, dict, param).get(key) is not None:
            current[key] = expect(value[key], str, f"{param}.{key}")
        elif key in value:
            current.pop(key, None)
    side["transcription"] = current


def _set_noise_reduction(side, value, param, config):
    if value is not None and expect(value, dict, param).get("type") not in ("near_field", "far_field", None):
        raise _invalid(f"{param}.type", value["type"], "'near_field', 'far_field'")
    side["noise_reduction"] = None  # accepted, not done: echoed as null (protocol section 4)


def _set_turn_detection(side, value, param, config):
    if value is None:
        side["turn_detection"] = None
        return
    patch = expect(value, dict, param)
    now = side["turn_detection"]
    kind = patch.get("type") or (now or SERVER_VAD)["type"]
    defaults = {"server_vad": SERVER_VAD, "semantic_vad": SEMANTIC_VAD}.get(kind) if isinstance(kind, str) else None
    if defaults is None:
        raise _invalid(f"{param}.type", kind, "'server_vad', 'semantic_vad'")
    merged = dict(now) if now and now["type"] == kind else dict(defaults)
    for key, default in defaults.items():
        if key != "type" and key in patch:
            merged[key] = default if patch[key] is None else _check_detection(key, patch[key], f"{param}.{key}")
    side["turn_detection"] = merged


def _check_detection(key: str, value: Any, param: str) -> Any:
    if key in ("create_response", "interrupt_response"):
        return expect(value, bool, param)
    if key == "eagerness":
        if value not in ("low", "medium", "high", "auto"):
            raise _invalid(param, value, "'low', 'medium', 'high', 'auto'")
        return value
    if key == "threshold":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ProtocolError("invalid_type", f"Invalid type for '{param}': expected a number.", param=param)
        if not 0 <= value <= 1:
            raise _invalid(param, value, "0.0 to 1.0")
        return float(value)
    low, high = {"prefix_padding_ms": (0, 5000), "silence_duration_ms": (20, 10000), "idle_timeout_ms": (5000, 30000)}[key]
    if not low <= expect(value, int, param) <= high:
        raise _invalid(param, value, f"{low} to {high}")
    return value


_AUDIO = {
    "input": {"format": _set_format, "transcription": _set_transcription, "noise_reduction": _set_noise_reduction,
              "turn_detection": _set_turn_detection},
    "output": {"format": _set_format, "voice": _set_voice, "speed": _set_speed},
}  # fmt: skip
_SETTERS = {
    "model": _set_model, "instructions": _set_instructions, "output_modalities": _set_modalities, "tools": _set_tools,
    "tool_choice": _set_tool_choice, "parallel_tool_calls": _set_parallel, "max_output_tokens": _set_max_tokens, "tracing": _set_tracing, "prompt": _set_prompt,
    "truncation": _set_truncation, "include": _set_include, "audio": _set_audio,
}  # fmt: skip
