"""Functions of the agent that the shell calls itself, inside one response: the call and its output become items of the conversation,
and the language model goes on with them. Clients see the items, not as output of the response: none of them would know such a function.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from voice.core.conversation import Entry, shown
from voice.core.effects import CallTool
from voice.core.params import open_llm

if TYPE_CHECKING:
    from voice.core.context import Context
    from voice.core.jobs import Chunk
    from voice.core.response import Response

MAX_ROUNDS = 8


def output_item(context: Context, call_id: str, output: str) -> Entry:
    return Entry({"id": context.ids("item"), "object": "realtime.item", "type": "function_call_output", "status": "completed", "call_id": call_id,
                  "output": output[: context.config.max_text_chars]})  # fmt: skip


def place(context: Context, entry: Entry) -> None:
    """A finished item at the end of the conversation."""
    previous = context.conversation.add(entry)
    for what in ("added", "done"):
        context.send(f"conversation.item.{what}", item=shown(entry.item), previous_item_id=previous)
    context.save(entry)


@dataclass
class ServerTools:
    waiting: dict[str, Entry] = field(default_factory=dict)  # call id -> call without an output yet
    beside: list[Entry] = field(default_factory=list)  # calls and outputs of this response
    asked: bool = False  # calls in this round of the language model
    others: int = 0  # calls that are the client's to answer
    rounds: int = 0
    said_before: int = 0  # characters of the message that earlier rounds wrote

    response = None  # the Response; set by it and not part of a snapshot

    def call(self, chunk: Chunk) -> None:
        response: Response = self.response
        context = response.context
        response.clock.mark("llm", context.now)
        response.calls += 1
        item = {"id": context.ids("item"), "object": "realtime.item", "type": "function_call", "status": "completed",
                "call_id": context.ids("call"), "name": chunk.name, "arguments": chunk.arguments}  # fmt: skip
        self._place(Entry(item))
        self.waiting[item["call_id"]], self.asked = self.beside[-1], True
        if response.message and response.message.entry.spoken:
            response.delivery.add(response.message.chunker.flush())  # "Let me see" is said while the function runs
        self._ask(item)

    def _ask(self, item: dict[str, Any]) -> None:
        url = self.response.params.server_tools[item["name"]]
        self.response.context.do(CallTool(self.response.id, item["call_id"], item["name"], url, item["arguments"]))

    def _place(self, entry: Entry) -> None:
        self.beside.append(entry)
        if not self.response.params.out_of_band:
            place(self.response.context, entry)

    def result(self, call_id: str, output: str) -> None:
        if self.waiting.pop(call_id, None) is not None:
            self._place(output_item(self.response.context, call_id, output))
            self.response.finish_if_done()

    def revive(self) -> None:
        """In another process: nobody there has called them."""
        for entry in self.waiting.values():
            self._ask(entry.item)

    def wait(self) -> bool:
        """Must the response wait for outputs, or does it go on with them now?"""
        if self.waiting:
            return True
        if not self.asked:
            return False
        self.asked = False
        response = self.response
        if self.rounds == MAX_ROUNDS:
            response.failure = ("tool_loop", f"The language model called functions {MAX_ROUNDS} times without an answer.")
        elif not self.others and response.finish_reason != "length":  # calls of the client's need its outputs first
            self._next_round()
            return True
        response.written()
        return True

    def _next_round(self) -> None:
        response = self.response
        self.rounds += 1
        self.said_before = len(response.message.text) if response.message else 0
        response.llm_done = response.counted = False
        response.calls = response.deltas = 0
        params = replace(response.params, tool_choice="auto")  # what was forced has been done
        response.llm = open_llm(response.context, params, self._entries(), response.id)

    def _entries(self) -> list[Entry]:
        response = self.response
        message = response.message
        own = [Entry({**message.entry.item, "content": [{"type": "output_text", "text": message.text}]})] if message else []
        if response.params.input is not None:
            return [*response.params.input, *own, *self.beside]
        if response.params.out_of_band:
            return [*response.context.conversation.entries(), *own, *self.beside]
        return [own[0] if message and e is message.entry else e for e in response.context.conversation.entries()]

    def said(self) -> str:
        """What this round of the language model has written."""
        return self.response.message.text[self.said_before :] if self.response.message else ""

    def joined(self, text: str) -> str:
        """Text of a later round does not stick to that of the one before."""
        before = self.response.message.text
        stuck = self.said_before and len(before) == self.said_before and not before[-1].isspace() and not text[0].isspace()
        return f" {text}" if stuck else text
