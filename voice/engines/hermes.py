"""Tool calls in Hermes form inside streamed text: <tool_call>{"name": …, "arguments": {…}}</tool_call>.

The markup never reaches the text: what could be the beginning of a tag is held back until it is certain.
"""

from __future__ import annotations

import json

from voice.engines.base import TextDelta, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesParser:
    """`feed()` and `end()` give text and whole calls in order. Calls that are not valid JSON are dropped."""

    def __init__(self) -> None:
        self._buffer = ""
        self._inside = False

    def feed(self, text: str) -> list[TextDelta | ToolCall]:
        self._buffer += text
        found: list[TextDelta | ToolCall] = []
        while True:
            tag = CLOSE if self._inside else OPEN
            at = self._buffer.find(tag)
            if at < 0:
                break
            self._take(self._buffer[:at], found)
            self._buffer = self._buffer[at + len(tag) :]
            self._inside = not self._inside
        if not self._inside:
            keep = next((n for n in range(len(OPEN) - 1, 0, -1) if self._buffer.endswith(OPEN[:n])), 0)
            sure, self._buffer = self._buffer[: len(self._buffer) - keep], self._buffer[len(self._buffer) - keep :]
            if sure:
                found.append(TextDelta(sure))
        return found

    def end(self) -> list[TextDelta | ToolCall]:
        found: list[TextDelta | ToolCall] = []
        self._take(self._buffer, found)
        self._buffer = ""
        return found

    def _take(self, text: str, found: list[TextDelta | ToolCall]) -> None:
        if not self._inside:
            if text:
                found.append(TextDelta(text))
        elif call := parse_call(text):
            found.append(call)


def parse_call(text: str) -> ToolCall | None:
    try:
        value = json.loads(text)
        arguments = value.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        return ToolCall(str(value["name"]), json.dumps(arguments)) if isinstance(arguments, dict) else None
    except (ValueError, KeyError, AttributeError):
        return None
