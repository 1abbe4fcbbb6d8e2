"""The conversation: its items in order, and what the language model is shown of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from voice.core.errors import ProtocolError
from voice.core.events import expect

ITEM_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}\Z")
CALL_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}\Z")
_TEXT_PARTS = {"system": ("input_text",), "user": ("input_text", "input_audio"), "assistant": ("output_text", "text")}


@dataclass
class Sentence:
    """One spoken sentence of an answer, for cutting it at what was heard."""

    start_char: int
    text: str
    start_ms: float = 0.0
    audio_ms: float = 0.0
    marks: list[tuple[int, int]] = field(default_factory=list)
    final: bool = False


@dataclass
class Spoken:
    """Text and time of an answer that was said aloud."""

    sentences: list[Sentence] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(s.text for s in self.sentences)

    @property
    def audio_ms(self) -> float:
        return sum(s.audio_ms for s in self.sentences)

    def heard(self, ms: float) -> str:
        """The words completely said within the first `ms` of audio; by word marks, else in proportion."""
        for sentence in self.sentences:
            if ms < sentence.start_ms + sentence.audio_ms or not sentence.final:
                before = "".join(s.text for s in self.sentences[: self.sentences.index(sentence)])
                return (before + _cut(sentence, ms - sentence.start_ms)).rstrip()
        return self.text.rstrip()


def _cut(sentence: Sentence, ms: float) -> str:
    if ms <= 0 or not sentence.audio_ms:
        return ""
    if sentence.marks:
        begun = [char for char, at in sentence.marks if at <= ms]
        return sentence.text[: begun[-1]] if begun else ""  # the word under way is not counted as heard
    head = sentence.text[: int(len(sentence.text) * min(1.0, ms / sentence.audio_ms))]
    return head[: head.rfind(" ") + 1]


@dataclass
class Entry:
    """An item with what is not on the wire."""

    item: dict[str, Any]
    spoken: Spoken | None = None  # assistant audio
    audio_ms: int = 0  # user audio
    pending: bool = False  # transcript still to come
    aside: bool = False  # said over an answer without meaning to interrupt ("mm-hmm"): not for the language model
    hint: str = ""  # what the language model is told in place of words


class Conversation:
    def __init__(self, max_items: int, max_chars: int):
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []
        self._max_items, self._max_chars = max_items, max_chars

    def __len__(self) -> int:
        return len(self._order)

    def order(self) -> list[str]:
        return list(self._order)

    @property
    def last_id(self) -> str | None:
        return self._order[-1] if self._order else None

    def get(self, item_id: str) -> Entry | None:
        return self._entries.get(item_id)

    def previous_of(self, item_id: str) -> str | None:
        at = self._order.index(item_id)
        return self._order[at - 1] if at else None

    def find(self, item_id: str, verb: str) -> Entry:
        """Raises ProtocolError item_<verb>_invalid_item_id."""
        if (entry := self._entries.get(item_id)) is None:
            raise ProtocolError(f"item_{verb}_invalid_item_id", f"Error {verb[:-1] if verb.endswith('e') else verb}ing item: the item "
                                f"with id '{item_id[:80]}' does not exist.", param="item_id")  # fmt: skip
        return entry

    def add(self, entry: Entry, previous: str | None = None) -> str | None:
        """Insert after `previous` ("root": first; None: last). Returns the id it now follows. Raises ProtocolError."""
        item_id = entry.item["id"]
        if item_id in self._entries:
            raise ProtocolError("item_create_duplicate_item_id", f"Item with id '{item_id}' already exists.", param="item.id")
        at = len(self._order)
        if previous == "root":
            at = 0
        elif previous is not None:
            if previous not in self._entries:
                raise ProtocolError("item_create_invalid_previous_item_id", f"Previous item '{previous[:80]}' does not exist.",
                                    param="previous_item_id")  # fmt: skip
            at = self._order.index(previous) + 1
        self._order.insert(at, item_id)
        self._entries[item_id] = entry
        return self._order[at - 1] if at else None

    def check_room(self) -> None:
        """Raises ProtocolError when a client may add no more."""
        if len(self._order) >= self._max_items:
            raise ProtocolError("conversation_full", f"A conversation holds at most {self._max_items} items; delete some.", param="item")

    def delete(self, item_id: str) -> None:
        self.find(item_id, "delete")
        del self._entries[item_id]
        self._order.remove(item_id)

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> int:
        """Cut a spoken item to what was heard; returns the ms really kept (clamped, rule 20)."""
        entry = self.find(item_id, "truncate")
        if entry.spoken is None:
            raise ProtocolError("invalid_value", f"Item '{item_id}' is not assistant audio and cannot be truncated.", param="item_id")
        if content_index != 0:
            raise ProtocolError("invalid_value", f"Invalid content_index {content_index}: the item has one part, 0.", param="content_index")
        kept = int(max(0, min(audio_end_ms, entry.spoken.audio_ms)))
        entry.item["content"] = [{"type": "output_audio", "transcript": entry.spoken.heard(kept)}]
        return kept

    def entries(self) -> list[Entry]:
        return [self._entries[i] for i in self._order]

    def has_call(self, call_id: str) -> bool:
        return any(e.item["type"] == "function_call" and e.item["call_id"] == call_id for e in self._entries.values())

    def has_output(self, call_id: str) -> bool:
        return any(e.item["type"] == "function_call_output" and e.item["call_id"] == call_id for e in self._entries.values())

    def build(self, raw: dict[str, Any], new_id: str, *, check_calls: bool = True) -> dict[str, Any]:
        """A client's item, checked, with only keys that are set (rule 5). Raises ProtocolError."""
        item_id = raw.get("id")
        if item_id is not None and not ITEM_ID.match(expect(item_id, str, "item.id")):
            raise ProtocolError("invalid_value", f"Invalid item id {item_id[:80]!r}: 1-64 of A-Z a-z 0-9 _ -.", param="item.id")
        kind = raw.get("type", "message")
        head = {"id": item_id or new_id, "object": "realtime.item", "type": kind, "status": "completed"}
        if kind == "message":
            return head | self._message(raw)
        if kind == "function_call":
            return head | self._function_call(raw, head["id"])
        if kind == "function_call_output":
            call_id = expect(raw.get("call_id"), str, "item.call_id")
            if check_calls and not self.has_call(call_id):
                raise ProtocolError("invalid_tool_call_id", f"Tool call ID '{call_id[:80]}' not found in conversation.", param="item.call_id")
            return head | {"call_id": call_id, "output": self._bounded(raw.get("output"), "item.output")}
        raise ProtocolError("invalid_value", f"Invalid item type {str(kind)[:60]!r}. Supported values are: message, function_call, "
                            "function_call_output.", param="item.type")  # fmt: skip

    def _message(self, raw: dict[str, Any]) -> dict[str, Any]:
        role = raw.get("role")
        if role not in ("system", "user", "assistant"):
            raise ProtocolError("invalid_value", f"Invalid role {str(role)[:40]!r}: system, user or assistant.", param="item.role")
        parts = expect(raw.get("content"), list, "item.content")
        return {"role": role, "content": [self._part(p, role, f"item.content[{i}]") for i, p in enumerate(parts)]}

    def _part(self, part: Any, role: str, param: str) -> dict[str, Any]:
        kind = expect(part, dict, param).get("type")
        if kind not in _TEXT_PARTS[role]:
            raise ProtocolError("unsupported_content_type", f"Content type {str(kind)[:40]!r} is not supported in a {role} message; "
                                f"use {' or '.join(_TEXT_PARTS[role])}.", param=f"{param}.type")  # fmt: skip
        if kind == "input_audio":
            transcript = part.get("transcript")
            if transcript is not None:
                self._bounded(transcript, f"{param}.transcript")
            return {"type": kind, "transcript": transcript}
        return {"type": "output_text" if role == "assistant" else kind, "text": self._bounded(part.get("text"), f"{param}.text")}

    def _function_call(self, raw: dict[str, Any], item_id: str) -> dict[str, Any]:
        call_id = raw.get("call_id")
        call_id = expect(call_id, str, "item.call_id") if call_id is not None else f"call_{item_id[-24:]}"
        if not CALL_ID.match(call_id):
            raise ProtocolError("invalid_value", f"Invalid call_id {call_id[:80]!r}.", param="item.call_id")
        name = expect(raw.get("name"), str, "item.name")
        return {"call_id": call_id, "name": name, "arguments": self._bounded(raw.get("arguments"), "item.arguments")}

    def _bounded(self, value: Any, param: str) -> str:
        if len(expect(value, str, param)) > self._max_chars:
            raise ProtocolError("invalid_value", f"'{param}' is longer than {self._max_chars} characters.", param=param)
        return value


def shown(item: dict[str, Any]) -> dict[str, Any]:
    """An item as it is now, for a frame: later changes do not reach it."""
    return {**item, "content": [dict(p) for p in item["content"]]} if "content" in item else dict(item)


def llm_messages(instructions: str, entries: list[Entry]) -> list[dict[str, Any]]:
    """Chat Completions messages: the instructions, then each item that has words."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    for entry in entries:
        item = entry.item
        if item["type"] == "function_call":
            call = {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
            if messages and messages[-1]["role"] == "assistant" and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif item["type"] == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
        elif entry.aside:
            continue
        elif text := entry.hint or " ".join(p.get("text") or p.get("transcript") or "" for p in item.get("content", ())).strip():
            messages.append({"role": item["role"], "content": text})
    return messages
