"""POST /v1/chat/completions: the workspace's language model, metered; streaming and tools (protocol section 8)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from apps.common.errors import BadRequest
from voice.core.errors import ProtocolError
from voice.core.jobs import Chunk, ChunkKind, Stage
from voice.core.setters import EFFORTS, check_tools
from voice.gateway.ids import make_id
from voice.gateway.rest.door import Caller, json_body, operation, pick, unsupported
from voice.gateway.rest.speech import sse
from voice.gateway.rest.work import Work, WorkFailed

MAX_MESSAGES, MAX_TOKENS, MAX_STOPS = 2000, 16384, 4
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


@operation("realtime:connect", "audio:write")
async def complete(request: HttpRequest, caller: Caller) -> HttpResponse:
    body = json_body(request)
    params, stops = request_params(body)
    model = body.get("model")
    agent = await caller.agent(model)
    await caller.check_tokens()
    head = {"id": f"chatcmpl-{caller.id[4:]}", "created": int(time.time()), "model": model}
    answer = _answer(caller, agent, params, stops)
    if pick(body, "stream", bool, False):
        first = await anext(answer)
        with_usage = bool((pick(body, "stream_options", dict, {})).get("include_usage"))
        return StreamingHttpResponse(_events(head, first, answer, with_usage), content_type="text/event-stream", headers={"Cache-Control": "no-store"})
    texts, calls, done = [], [], {}
    async with aclosing(answer):
        async for kind, value in answer:
            if kind == "text":
                texts.append(value)
            elif kind == "call":
                calls.append(value)
            else:
                done = value
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": done["finish_reason"], "logprobs": None}
    return JsonResponse({**head, "object": "chat.completion", "choices": [choice], "usage": done["usage"]})


# The request


def request_params(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(parameters of the job, stop sequences). Raises BadRequest naming the field."""
    for name, only in (("n", 1), ("logprobs", False), ("audio", None)):
        if body.get(name) not in (None, only):
            raise unsupported(name, f"only {only} is available")
    if (pick(body, "response_format", dict, {})).get("type", "text") != "text":
        raise unsupported("response_format", "only text is available")
    messages = pick(body, "messages", list)
    if not messages or len(messages) > MAX_MESSAGES:
        raise BadRequest(f"'messages': 1 to {MAX_MESSAGES} of them", param="messages")
    most = pick(body, "max_completion_tokens", int) or pick(body, "max_tokens", int) or 4096
    if not 1 <= most <= MAX_TOKENS:
        raise BadRequest(f"'max_completion_tokens': {most} is not between 1 and {MAX_TOKENS}", param="max_completion_tokens")
    temperature = pick(body, "temperature", (int, float), 0.0)
    if not 0 <= temperature <= 2:
        raise BadRequest(f"'temperature': {temperature} is not between 0 and 2", param="temperature")
    effort = pick(body, "reasoning_effort", str, "")
    if effort and effort not in EFFORTS:
        raise BadRequest(f"'reasoning_effort': one of {', '.join(EFFORTS)}", param="reasoning_effort")
    tools, choice = _tools(body)
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else pick(body, "stop", list, [])
    if len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise BadRequest(f"'stop': at most {MAX_STOPS} texts", param="stop")
    return {
        "messages": [_message(m, f"messages[{i}]") for i, m in enumerate(messages)], "tools": tools, "tool_choice": choice,
        "parallel_tool_calls": pick(body, "parallel_tool_calls", bool, True), "max_tokens": most, "temperature": float(temperature), "prefix": "",
        "truncation": "disabled", "reasoning": effort,
    }, stops  # fmt: skip


def _tools(body: dict[str, Any]) -> tuple[list[dict[str, Any]], Any]:
    tools, choice = [], body.get("tool_choice") or "auto"
    for i, tool in enumerate(pick(body, "tools", list, [])):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise BadRequest(f"'tools[{i}]': expected {{type: function, function: {{…}}}}", param=f"tools[{i}]")
        tools.append({"type": "function", **tool["function"]})
    try:
        tools = check_tools(tools, "tools")
    except ProtocolError as error:
        raise BadRequest(error.message, param=error.param) from error
    if isinstance(choice, dict):
        name = choice["function"].get("name") if isinstance(choice.get("function"), dict) else None
        if name not in {t["name"] for t in tools}:
            raise BadRequest(f"'tool_choice': {str(name)[:64]!r} is not among the tools", param="tool_choice")
        return tools, {"type": "function", "name": name}
    if choice not in ("auto", "none", "required") or choice == "required" and not tools:
        raise BadRequest("'tool_choice': auto, none, required (with tools) or {type: function, function: {name}}", param="tool_choice")
    return tools, choice


def _message(message: Any, at: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise BadRequest(f"'{at}.role': one of {', '.join(ROLES)}", param=f"{at}.role")
    role = ROLES[message["role"]]
    made: dict[str, Any] = {"role": role, "content": _content(message.get("content"), f"{at}.content")}
    if role == "tool":
        if not isinstance(message.get("tool_call_id"), str):
            raise BadRequest(f"'{at}.tool_call_id' is required", param=f"{at}.tool_call_id")
        made["tool_call_id"] = message["tool_call_id"]
    elif role == "assistant" and message.get("tool_calls"):
        made["tool_calls"] = [_call(c, f"{at}.tool_calls[{i}]") for i, c in enumerate(pick(message, "tool_calls", list))]
    return made


def _call(call: Any, at: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not all(isinstance(v, str) for v in (call.get("id"), function.get("name"), function.get("arguments"))):
        raise BadRequest(f"'{at}': expected {{id, type: function, function: {{name, arguments}}}}", param=at)
    return {"id": call["id"], "type": "function", "function": {"name": function["name"], "arguments": function["arguments"]}}


def _content(content: Any, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequest(f"'{at}': text or a list of parts", param=at)
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") not in ("text", "refusal") or not isinstance(part.get("text", part.get("refusal")), str):
            error = BadRequest(f"'{at}[{i}]': only text parts are understood", param=f"{at}[{i}]")
            error.code = "unsupported_content_type"
            raise error
        texts.append(part.get("text") or part.get("refusal") or "")
    return "".join(texts)


# The answer

Piece = tuple[str, Any]  # ("text", str), ("call", dict), ("done", {finish_reason, usage})


async def _answer(caller: Caller, agent: Any, params: dict[str, Any], stops: list[str]) -> AsyncIterator[Piece]:
    """Raises WorkFailed. Whoever hangs up is billed for what was written."""
    held, pieces, finished = Stops(stops), 0, {}
    work = Work(Stage.LLM, (agent.llm_engine, agent.llm_model), params, owner=caller.id, deadline_ms=settings.VOICE.LLM_DEADLINE_MS)
    try:
        async with work:
            async for chunk in work:
                pieces += 1
                if chunk.kind is ChunkKind.TEXT:
                    if text := held.feed(chunk.text):
                        yield "text", text
                    if held.met:
                        break
                elif chunk.kind is ChunkKind.TOOL:
                    yield "call", _wire_call(chunk)
        if rest := held.rest():
            yield "text", rest
        finished = work.done
        usage = _spent(finished, params, pieces)
        reason = "stop" if held.met else finished.get("finish_reason", "stop")
        yield "done", {"finish_reason": reason, "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}}
    finally:
        if pieces:
            spent = _spent(finished, params, pieces)
            caller.bill(agent, tokens_in=spent[0], tokens_out=spent[1])


def _spent(done: dict[str, Any], params: dict[str, Any], pieces: int) -> tuple[int, int]:
    """Tokens read and written; of an answer cut short about four characters a token in and a token a piece out."""
    if done:
        return int(done.get("input_tokens", 0)), int(done.get("output_tokens", 0))
    return sum(len(m["content"]) for m in params["messages"]) // 4, pieces


def _wire_call(chunk: Chunk) -> dict[str, Any]:
    return {"id": make_id("call"), "type": "function", "function": {"name": chunk.name, "arguments": chunk.arguments}}


async def _events(head: dict[str, Any], first: Piece, answer: AsyncIterator[Piece], with_usage: bool) -> AsyncIterator[bytes]:
    def frame(delta: dict[str, Any] | None, reason: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]
        body = {**head, "object": "chat.completion.chunk", "choices": choices}
        return sse({**body, "usage": usage} if with_usage else body)

    async def pieces() -> AsyncIterator[Piece]:
        yield first
        async for piece in answer:
            yield piece

    calls = 0
    yield frame({"role": "assistant", "content": ""})
    try:
        async with aclosing(answer):
            async for kind, value in pieces():
                if kind == "text":
                    yield frame({"content": value})
                elif kind == "call":
                    yield frame({"tool_calls": [{"index": calls, **value}]})
                    calls += 1
                else:
                    yield frame({}, value["finish_reason"])
                    if with_usage:
                        yield frame(None, usage=value["usage"])
    except WorkFailed as error:
        yield sse({"error": {"message": error.message, "type": "server_error", "code": error.code, "param": None}})
    yield b"data: [DONE]\n\n"


class Stops:
    """Text up to the first stop sequence; what could be the beginning of one is held back."""

    def __init__(self, stops: list[str]):
        self._stops, self._held, self.met = stops, "", False

    def feed(self, text: str) -> str:
        self._held += text
        cut = min((at for s in self._stops if (at := self._held.find(s)) >= 0), default=-1)
        if cut >= 0:
            self.met = True
            text, self._held = self._held[:cut], ""
            return text
        keep = max((n for s in self._stops for n in range(1, len(s)) if self._held.endswith(s[:n])), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def rest(self) -> str:
        text, self._held = self._held, ""
        return "" if self.met else text
