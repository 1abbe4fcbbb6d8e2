"""How each setting is checked and written: one function a key, `apply_patch` over all of them (protocol section 4)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from voice.core.errors import ProtocolError
from voice.core.events import expect

if TYPE_CHECKING:
    from voice.core.settings import SessionConfig

SERVER_VAD = {
    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
    "idle_timeout_ms": None, "create_response": True, "interrupt_response": True,
}  # fmt: skip
SEMANTIC_VAD = {"type": "semantic_vad", "eagerness": "auto", "create_response": True, "interrupt_response": True}
OPENAI_VOICES = ("alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar")
PCM = {"type": "audio/pcm", "rate": 24000}
# the beta's names beside those of GA
FORMATS = {"audio/pcm": PCM, "audio/pcmu": {"type": "audio/pcmu"}, "audio/pcma": {"type": "audio/pcma"}}
BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
MAX_TOKENS = 4096
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
TRACED = {"workflow_name": str, "group_id": str, "metadata": dict}
MAX_TRACED = 16 * 1024  # characters of JSON
LOGPROBS = "item.input_audio_transcription.logprobs"
INCLUDES = (LOGPROBS,)


def apply_patch(values: dict[str, Any], patch: dict[str, Any], config: SessionConfig, at: str = "session") -> None:
    """Write the known keys of `patch` into `values`, checked; unknown keys are ignored (rule 10)."""
    for key, setter in _SETTERS.items():
        if key in patch:
            setter(values, patch[key], f"{at}.{key}", config)


KNOWN = ("type", "extensions", "temperature", "client_secret", "id", "object", "expires_at")  # beside those with a setter: read elsewhere or not at all


def check_known(patch: dict[str, Any]) -> None:
    """Raises ProtocolError unknown_parameter: only for clients that asked for strictness."""
    places = [("session", patch, (*_SETTERS, *KNOWN))]
    if isinstance(audio := patch.get("audio"), dict):
        places += [("session.audio", audio, tuple(_AUDIO))]
        places += [(f"session.audio.{side}", audio[side], tuple(_AUDIO[side])) for side in _AUDIO if isinstance(audio.get(side), dict)]
    for where, value, known in places:
        for key in value:
            if key not in known:
                raise ProtocolError("unknown_parameter", f"Unknown parameter: '{where}.{key[:80]}'.", param=f"{where}.{key[:80]}")


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
    return [{"type": "function", **{k: v for k, v in t.items() if v is not None and k in ("name", "description", "parameters")}} for t in tools]


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
        for name, kind in TRACED.items():
            if expect(value, dict, param).get(name) is not None:
                expect(value[name], kind, f"{param}.{name}")
        if len(json.dumps(value)) > MAX_TRACED:
            raise ProtocolError("invalid_value", f"'{param}' is longer than {MAX_TRACED} characters.", param=param)
    values["tracing"] = value


def _set_reasoning(values, value, param, config):
    effort = None if value is None else expect(value, dict, param).get("effort")
    if effort is not None and effort not in EFFORTS:
        raise _invalid(f"{param}.effort", effort, ", ".join(map(repr, EFFORTS)))
    values["reasoning"] = {"effort": effort} if effort else None


def _set_prompt(values, value, param, config):
    """The shell has looked the agent up; what it stands for is applied before all other keys (Settings.update)."""
    if value is not None:
        expect(expect(value, dict, param).get("id"), str, f"{param}.id")
        for key, kind in (("version", str), ("variables", dict)):
            if value.get(key) is not None:
                expect(value[key], kind, f"{param}.{key}")
    values["prompt"] = value and {k: value[k] for k in ("id", "version", "variables") if value.get(k) is not None}


def _set_truncation(values, value, param, config):
    if isinstance(value, dict):
        value = _retention(value, param)
    elif value not in (None, "auto", "disabled"):
        raise _invalid(param, value, "'auto', 'disabled', {'type': 'retention_ratio', …}")
    values["truncation"] = value or "auto"


def _retention(value, param):
    ratio, limits = value.get("retention_ratio"), value.get("token_limits") or {}
    if value.get("type") != "retention_ratio" or isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise _invalid(param, value, "'auto', 'disabled', {'type': 'retention_ratio', 'retention_ratio': above 0 to 1}")
    most = expect(limits, dict, f"{param}.token_limits").get("post_instructions")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise _invalid(f"{param}.token_limits.post_instructions", most, "a whole number of tokens from 1")
    return {"type": "retention_ratio", "retention_ratio": float(ratio)} | ({"token_limits": {"post_instructions": most}} if most is not None else {})


def _set_include(values, value, param, config):
    for i, name in enumerate([] if value is None else expect(value, list, param)):
        if name not in INCLUDES:
            raise _invalid(f"{param}[{i}]", name, ", ".join(INCLUDES))
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
        value = {"type": BETA_FORMATS.get(value, value)}
    kind = expect(value, dict, param).get("type")
    if not isinstance(kind, str) or kind not in FORMATS:
        raise _invalid(f"{param}.type", kind, ", ".join(map(repr, FORMATS)))
    rate = FORMATS[kind].get("rate", 8000)
    if value.get("rate", rate) != rate or isinstance(value.get("rate"), bool):
        raise _invalid(f"{param}.rate", value["rate"], str(rate))
    side["format"] = dict(FORMATS[kind])


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
    for key in ("model", "language", "prompt"):
        if expect(value, dict, param).get(key) is not None:
            current[key] = expect(value[key], str, f"{param}.{key}")
        elif key in value:
            current.pop(key, None)
    for key in ("languages", "keywords"):  # never echoed: rule 14
        if key in value:
            words = [expect(w, str, f"{param}.{key}[{i}]")[:100] for i, w in enumerate(expect(value[key] or [], list, f"{param}.{key}")[:100])]
            current[key] = words
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
    "tool_choice": _set_tool_choice, "parallel_tool_calls": _set_parallel, "max_output_tokens": _set_max_tokens, "reasoning": _set_reasoning,
    "tracing": _set_tracing, "prompt": _set_prompt,
    "truncation": _set_truncation, "include": _set_include, "audio": _set_audio,
}  # fmt: skip
