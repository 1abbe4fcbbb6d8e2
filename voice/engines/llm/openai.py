"""A language model behind any OpenAI-compatible URL (vllm serve, Ollama, llama.cpp, hosted): POST /chat/completions, streamed.

Retried once, and only before the first byte of the answer; afterwards the session's own second attempt decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from voice.engines.base import Completion, CompletionRequest, EngineError, LLMEngine, TextDelta, ToolCall

TIMEOUT = httpx.Timeout(connect=3, read=30, write=10, pool=5)
RETRIES = 1


class Engine(LLMEngine):
    """`model`: the name sent to the server."""

    def load(self) -> None:
        if not self.settings.openai_base_url:
            raise EngineError("LLM_OPENAI_BASE_URL is empty; set it to the server, e.g. http://127.0.0.1:8000/v1", code="not_configured")
        headers = {"Authorization": f"Bearer {self.settings.openai_api_key}"} if self.settings.openai_api_key else {}
        self._client = httpx.Client(base_url=self.settings.openai_base_url.rstrip("/") + "/", headers=headers, timeout=TIMEOUT,
                                    limits=httpx.Limits(max_connections=64))  # fmt: skip

    def complete(self, request: CompletionRequest) -> Iterator[TextDelta | ToolCall | Completion]:
        body = self._body(request)
        failures = 0
        while True:
            begun = False
            try:
                for found in self._answer(body):
                    begun = True
                    yield found
                return
            except httpx.HTTPError as error:
                failures += 1
                if begun or failures > RETRIES:
                    raise EngineError(f"the language model server failed: {type(error).__name__}", code="llm_unavailable", retryable=True) from error
            except EngineError as error:
                if error.code != "context_length_exceeded" or request.truncation == "disabled" or not _forget(body["messages"]):
                    raise

    def _body(self, request: CompletionRequest) -> dict[str, Any]:
        messages = list(request.messages)
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
        body: dict[str, Any] = {
            "model": self.model, "messages": messages, "stream": True, "stream_options": {"include_usage": True},
            "max_tokens": request.max_tokens, "temperature": request.temperature,
        }  # fmt: skip
        if request.prefix:  # vLLM's switches; others ignore them and answer anew after the prefix
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.tools and request.tool_choice != "none":
            body["tools"] = [t if "function" in t else {"type": "function", "function": {k: v for k, v in t.items() if k != "type"}}
                             for t in request.tools]  # fmt: skip
            choice = request.tool_choice
            body["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}} if isinstance(choice, dict) else choice
            body["parallel_tool_calls"] = request.parallel_tool_calls
        if request.reasoning:
            body["reasoning_effort"] = request.reasoning
        return body

    def _answer(self, body: dict[str, Any]) -> Iterator[TextDelta | ToolCall | Completion]:
        calls: dict[int, dict[str, str]] = {}
        reason, usage, pieces = "stop", {}, 0
        with self._client.stream("POST", "chat/completions", json=body) as response:
            if response.status_code >= 500:
                response.raise_for_status()
            if response.status_code >= 400:
                response.read()
                long = "context_length" in response.text or "maximum context length" in response.text
                raise EngineError(f"the language model server refused: {response.status_code} {response.text[:200]}",
                                  code="context_length_exceeded" if long else "llm_refused")  # fmt: skip
            for line in response.iter_lines():
                if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                    continue
                event = json.loads(line[5:])
                usage = event.get("usage") or usage
                for choice in event.get("choices") or ():
                    reason = choice.get("finish_reason") or reason
                    delta = choice.get("delta") or {}
                    if delta.get("content"):
                        pieces += 1
                        yield TextDelta(delta["content"])
                    for part in delta.get("tool_calls") or ():
                        call = calls.setdefault(part.get("index", 0), {"name": "", "arguments": ""})
                        function = part.get("function") or {}
                        call["name"] += function.get("name") or ""
                        call["arguments"] += function.get("arguments") or ""
        for _, call in sorted(calls.items()):
            yield ToolCall(call["name"], call["arguments"] or "{}")
        reason = "tool_calls" if calls else reason if reason in ("stop", "length") else "stop"
        yield Completion(reason, usage.get("prompt_tokens", 0), usage.get("completion_tokens", pieces))

    def close(self) -> None:
        if hasattr(self, "_client"):
            self._client.close()


def _forget(messages: list[dict[str, Any]]) -> bool:
    """Drop the older half of the conversation, whose tokens only the server can count. False when nothing is left to drop."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    count = (len(messages) - first) // 2
    del messages[first : first + count]
    while len(messages) > first + 1 and messages[first]["role"] == "tool":
        del messages[first]
    return count > 0
