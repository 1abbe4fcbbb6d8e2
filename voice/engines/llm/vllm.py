"""A language model by vLLM inside the worker: one AsyncLLM on its own event-loop thread, so that the requests of all worker
threads are batched together. vLLM starts a child process: run the worker with `-P threads`, never prefork.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from voice.engines.base import Completion, CompletionRequest, EngineError, LLMEngine, TextDelta, ToolCall, fit
from voice.engines.hermes import HermesParser

START_S = 600
ANSWER_S = 60
ROOM_FOR_ANSWER = 128  # tokens kept free when old messages must go


class Engine(LLMEngine):
    """`model`: a Hugging Face model folder (or one holding it as hf/)."""

    def load(self) -> None:
        path = self.settings.find("llm", self.model)
        self._path = path / "hf" if (path / "hf").is_dir() else path
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_S)
        except ImportError as error:
            raise EngineError("vllm is not installed: pip install -r requirements/gpu.txt", code="not_installed") from error
        except (RuntimeError, ValueError, OSError, TimeoutError) as error:
            raise EngineError(f"vLLM did not start on {self._path}: {error}", code="model_broken") from error

    async def _start(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        cpu = self.settings.device == "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(str(self._path))
        config = json.loads((self._path / "config.json").read_text())
        self._context = min(int(config.get("max_position_embeddings", 4096)), 32768)
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(
            model=str(self._path), max_model_len=self._context, enforce_eager=cpu, dtype="float32" if cpu else "auto",
        ))  # fmt: skip

    def complete(self, request: CompletionRequest) -> Iterator[TextDelta | ToolCall | Completion]:
        tools = [] if request.tool_choice == "none" else request.tools
        forced = bool(tools) and (request.tool_choice == "required" or isinstance(request.tool_choice, dict))
        listed = [t if "function" in t else {"type": "function", "function": t} for t in tools] or None

        def render(messages: list[dict[str, Any]]) -> str:
            return self._tokenizer.apply_chat_template(messages, tools=listed, add_generation_prompt=True, tokenize=False) + request.prefix

        def size_of(messages: list[dict[str, Any]]) -> int:
            return len(self._tokenizer.encode(render(messages), add_special_tokens=False))

        messages, size = fit(request, size_of, self._context, min(ROOM_FOR_ANSWER, request.max_tokens))
        prompt = render(messages)
        limit = min(request.max_tokens, self._context - size)
        grammar = _call_schema(tools, request.tool_choice) if forced else None
        if forced:
            prompt += "<tool_call>"
        yield from self._read(request, prompt, limit, grammar, bool(tools), size)

    def _read(self, request, prompt, limit, grammar, tools, size):
        parser, calls, count, reason = HermesParser(), 0, 0, "stop"
        found = parser.feed("<tool_call>") if grammar else []
        for text, count, reason in self._stream(prompt, limit, request.temperature, grammar):
            found += parser.feed(text)
            for piece in found:
                if isinstance(piece, TextDelta):
                    yield piece
                elif tools and (request.parallel_tool_calls or not calls):
                    calls += 1
                    yield piece
            found = []
        for piece in parser.end():
            calls += isinstance(piece, ToolCall)
            yield piece
        yield Completion("tool_calls" if calls else "length" if reason == "length" else "stop", size, count)

    def _stream(self, prompt: str, limit: int, temperature: float, grammar: dict | None) -> Iterator[tuple[str, int, str]]:
        """Deltas from the loop's thread through a bounded queue; closing aborts the request in the engine."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        structured = StructuredOutputsParams(json=grammar) if grammar else None
        params = SamplingParams(temperature=temperature, max_tokens=limit, output_kind=RequestOutputKind.DELTA, structured_outputs=structured,
                                skip_special_tokens=False, stop=None if grammar else [self._tokenizer.eos_token])  # fmt: skip
        request_id, out = uuid.uuid4().hex, queue.Queue(4096)

        async def pull() -> None:
            try:
                async for output in self._llm.generate(prompt, params, request_id):
                    out.put_nowait(output.outputs[0])
                out.put_nowait(None)
            except Exception as error:  # the edge of the loop's thread: carried to the caller
                out.put_nowait(error)

        future = asyncio.run_coroutine_threadsafe(pull(), self._loop)
        count, done = 0, False
        try:
            while True:
                try:
                    piece = out.get(timeout=ANSWER_S)
                except queue.Empty:
                    raise EngineError(f"vLLM gave nothing for {ANSWER_S} s", code="deadline_exceeded", retryable=True) from None
                if piece is None or isinstance(piece, Exception):
                    done = True
                    if piece is not None:
                        raise EngineError(f"vLLM failed: {piece}", code="engine_error", retryable=True) from piece
                    return
                count += len(piece.token_ids)
                text = piece.text.replace(self._tokenizer.eos_token, "")
                yield text, count, piece.finish_reason or "stop"
        finally:
            if not done:
                asyncio.run_coroutine_threadsafe(self._llm.abort(request_id), self._loop)
            future.cancel()

    def close(self) -> None:
        if hasattr(self, "_llm"):
            self._loop.call_soon_threadsafe(self._llm.shutdown)


def _call_schema(tools: list[dict[str, Any]], choice: Any) -> dict[str, Any]:
    """JSON schema of the call that must be made."""
    functions = [t.get("function") or t for t in tools]
    if isinstance(choice, dict):
        functions = [f for f in functions if f["name"] == choice["name"]]
    calls = [{
        "type": "object", "additionalProperties": False, "required": ["name", "arguments"],
        "properties": {"name": {"const": f["name"]}, "arguments": f.get("parameters") or {"type": "object"}},
    } for f in functions]  # fmt: skip
    return calls[0] if len(calls) == 1 else {"anyOf": calls}
