"""Does a server frame fit the models of openai-python? Extension events (ext.*) are ours alone."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _adapter():
    from openai.types.realtime import RealtimeServerEvent
    from pydantic import TypeAdapter

    return TypeAdapter(RealtimeServerEvent)


def assert_valid(event: dict[str, Any]) -> dict[str, Any]:
    if not event["type"].startswith("ext."):
        _adapter().validate_python(event)
    assert event.get("event_id"), event
    return event
