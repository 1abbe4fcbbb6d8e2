"""What every language-model engine must do; also run inside vLLM's own environment, so it imports little."""

from __future__ import annotations

import json
import time

import pytest

from voice.engines.base import Completion, CompletionRequest, EngineError, TextDelta, ToolCall

WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


def complete(engine, text: str, **fields) -> tuple[str, list[ToolCall], Completion]:
    found = list(engine.complete(CompletionRequest([{"role": "user", "content": text}], **fields)))
    assert isinstance(found[-1], Completion) and not [f for f in found[:-1] if isinstance(f, Completion)]
    return "".join(f.text for f in found if isinstance(f, TextDelta)), [f for f in found if isinstance(f, ToolCall)], found[-1]


def check_llm(engine) -> None:
    text, calls, end = complete(engine, "what is seven plus five")
    assert text == "Seven plus five is twelve." and calls == [] and end.finish_reason == "stop" and end.input_tokens > 5 and end.output_tokens > 3
    text, calls, end = complete(engine, "what is the weather in paris today", tools=[WEATHER])
    assert text == "" and json.loads(calls[0].arguments) == {"city": "paris"} and end.finish_reason == "tool_calls"
    text, calls, _ = complete(engine, "what is the weather in paris today", tools=[WEATHER], tool_choice="none")
    assert text and calls == []
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        _, calls, end = complete(engine, "hello", tools=[WEATHER], tool_choice=choice)
        assert calls[0].name == "get_weather" and set(json.loads(calls[0].arguments)) == {"city"}
    text, _, end = complete(engine, "count to twenty", max_tokens=6)
    assert end.finish_reason == "length" and text.startswith("Counting to")
    text, _, _ = complete(engine, "count to five", prefix="Counting to five: one, two,")
    assert text == " three, four, five."
    with pytest.raises(EngineError) as caught:
        complete(engine, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"
    stream = engine.complete(CompletionRequest([{"role": "user", "content": "count to one hundred"}]))
    next(stream)
    stream.close()  # what it held is free: the next one is answered at once
    began = time.monotonic()
    complete(engine, "hello")
    assert time.monotonic() - began < 5
