"""The beta flavour (header OpenAI-Beta: realtime=v1), translated at the socket: inside, all is GA (protocol section 5).

Names, content types and the flat session differ; the models are those of openai.types.beta.realtime (openai 3.54.0).
"""

from __future__ import annotations

from typing import Any

from voice.core.setters import BETA_FORMATS
from voice.core.settings import flat_to_ga

_FORMATS = {ga: beta for beta, ga in BETA_FORMATS.items()}
_NAMES = {
    "response.output_text.delta": "response.text.delta", "response.output_text.done": "response.text.done",
    "response.output_audio.delta": "response.audio.delta", "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done", "conversation.item.added": "conversation.item.created",
}  # fmt: skip
_UNKNOWN = ("conversation.item.done", "input_audio_buffer.timeout_triggered")  # the beta has no such events
_CONTENT = {"output_text": "text", "output_audio": "audio"}
# the beta's model has no other names; all are aliases of a pipeline
MODELS = ("gpt-realtime", "gpt-4o-realtime-preview", "gpt-4o-realtime-preview-2024-10-01", "gpt-4o-realtime-preview-2024-12-17",
          "gpt-4o-realtime-preview-2025-06-03", "gpt-4o-mini-realtime-preview", "gpt-4o-mini-realtime-preview-2024-12-17")  # fmt: skip
TEMPERATURE = 0.8  # the beta's default; shown, without effect


def from_client(event: Any) -> Any:
    """A client's event as GA. What is not one is left as it is: the session refuses it."""
    if isinstance(event, dict) and event.get("type") == "transcription_session.update" and isinstance(event.get("session"), dict):
        return {**event, "type": "session.update", "session": {**to_ga_session(event["session"]), "type": "transcription"}}
    return event


def to_client(event: dict[str, Any]) -> dict[str, Any] | None:
    """A server event as the beta has it; None where it has none."""
    kind = event["type"]
    if kind in _UNKNOWN:
        return None
    changed = {**event, "type": _NAMES.get(kind, kind)}
    if "session" in event:
        changed["session"] = flat_session(event["session"])
        if kind == "session.updated" and event["session"]["type"] == "transcription":
            changed["type"] = "transcription_session.updated"
    if "item" in event:
        changed["item"] = _item(event["item"])
    if "response" in event:
        changed["response"] = _response(event["response"])
    return changed


def to_ga_session(flat: dict[str, Any]) -> dict[str, Any]:
    return flat_to_ga({k: v for k, v in flat.items() if k != "client_secret"})


def flat_session(session: dict[str, Any]) -> dict[str, Any]:
    heard = session["audio"]["input"]
    flat = {
        "id": session["id"], "object": session["object"], "expires_at": session["expires_at"], "input_audio_format": _FORMATS[heard["format"]["type"]],
        "input_audio_transcription": heard["transcription"], "input_audio_noise_reduction": heard["noise_reduction"],
        "turn_detection": heard["turn_detection"],
    }  # fmt: skip
    if "resumption" in session:
        flat["resumption"] = session["resumption"]
    if session["type"] == "transcription":
        secret = {"value": "", "expires_at": session["expires_at"]}  # the beta's model wants the key; only REST fills it
        return {**flat, "modalities": ["text"], "include": session["include"], "client_secret": secret}
    spoken = session["audio"]["output"]
    return {
        **flat, "model": session["model"] if session["model"] in MODELS else "gpt-realtime", "modalities": _modalities(session["output_modalities"]), "instructions": session["instructions"],
        "voice": spoken["voice"], "speed": spoken["speed"], "output_audio_format": _FORMATS[spoken["format"]["type"]], "tools": session["tools"],
        "tool_choice": _choice(session["tool_choice"]), "temperature": TEMPERATURE, "max_response_output_tokens": session["max_output_tokens"],
        "tracing": session["tracing"],
    }  # fmt: skip


def _choice(choice: Any) -> str:
    return choice if isinstance(choice, str) else "required"  # the beta's model takes strings only


def _modalities(output: list[str]) -> list[str]:
    return ["text", "audio"] if "audio" in output else ["text"]


def _item(item: dict[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return item
    return {**item, "content": [{**part, "type": _CONTENT.get(part["type"], part["type"])} for part in item["content"]]}


def _response(response: dict[str, Any]) -> dict[str, Any]:
    flat = {k: v for k, v in response.items() if k not in ("audio", "output_modalities")}
    flat |= {"output": [_item(i) for i in response["output"]], "modalities": _modalities(response["output_modalities"])}
    if "audio" in response:
        spoken = response["audio"]["output"]
        flat |= {"voice": spoken["voice"], "output_audio_format": _FORMATS[spoken["format"]["type"]]}
    return flat
