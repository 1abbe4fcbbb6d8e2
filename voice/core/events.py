"""The client events we take, with their fields: protocol section 2 (openai 3.54.0, read 2026-11-23).

`check(event)` refuses what is malformed with the codes of protocol section 7; keys not named here are ignored.
"""

from __future__ import annotations

from typing import Any

from voice.core.errors import ProtocolError

_NAMES = {str: "a string", int: "an integer", dict: "an object", list: "a list", bool: "a boolean"}

# type -> {field: (type, required)}
CLIENT_EVENTS: dict[str, dict[str, tuple[type, bool]]] = {
    "session.update": {"session": (dict, True)},
    "input_audio_buffer.append": {"audio": (str, True)},
    "input_audio_buffer.commit": {},
    "input_audio_buffer.clear": {},
    "conversation.item.create": {"item": (dict, True), "previous_item_id": (str, False)},
    "conversation.item.retrieve": {"item_id": (str, True)},
    "conversation.item.truncate": {"item_id": (str, True), "content_index": (int, True), "audio_end_ms": (int, True)},
    "conversation.item.delete": {"item_id": (str, True)},
    "response.create": {"response": (dict, False)},
    "response.cancel": {"response_id": (str, False)},
    "output_audio_buffer.clear": {},
}


def expect(value: Any, kind: type, param: str) -> Any:
    """`value`, if it is of `kind` (a bool is not an integer). Raises ProtocolError invalid_type."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ProtocolError(
        "invalid_type", f"Invalid type for '{param}': expected {_NAMES[kind]}, got {type(value).__name__}.", param=param
    )


def check(event: Any) -> dict[str, Any]:
    """The event itself, its type known and its fields present and of the right type. Raises ProtocolError."""
    if not isinstance(event, dict):
        raise ProtocolError("invalid_type", "An event is a JSON object, e.g. {\"type\": \"response.create\"}.")
    if "type" not in event:
        raise ProtocolError("missing_required_parameter", "Missing required parameter: 'type'.", param="type")
    fields = CLIENT_EVENTS.get(expect(event["type"], str, "type"))
    if fields is None:
        known = ", ".join(CLIENT_EVENTS)
        raise ProtocolError("invalid_value", f"Invalid value: '{event['type'][:100]}'. Supported values are: {known}.", param="type")
    if event.get("event_id") is not None:
        expect(event["event_id"], str, "event_id")
    for name, (kind, required) in fields.items():
        value = event.get(name)
        if value is not None:
            expect(value, kind, name)
        elif required:
            raise ProtocolError("missing_required_parameter", f"Missing required parameter: '{name}'.", param=name)
    return event


def event_id_of(event: Any) -> str | None:
    value = event.get("event_id") if isinstance(event, dict) else None
    return value if isinstance(value, str) else None
