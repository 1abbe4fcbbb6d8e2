"""A language model by CTranslate2: any converted decoder with a tokenizer.json and a chat template, on CPU or GPU.

Tool choice is enforced, not hoped for: a required call is written by us up to each value, and the model only fills the
values its schema asks for, so the arguments are always valid JSON for a flat schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from voice.engines.base import Completion, CompletionRequest, EngineError, LLMEngine, TextDelta, ToolCall, fit
from voice.engines.hermes import HermesParser

VALUE_TOKENS = 64
ROOM_FOR_ANSWER = 128  # tokens kept free when old messages must go
_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)")


class Engine(LLMEngine):
    """`model`: a folder under models/llm/ as ct2-transformers-converter writes it, with tokenizer_config.json beside."""

    def load(self) -> None:
        import ctranslate2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from tokenizers import Tokenizer

        path = self.settings.find("llm", self.model)
        try:
            compute = "int8" if self.settings.device == "cpu" else "float16"
            self._generator = ctranslate2.Generator(str(path), device=self.settings.device, compute_type=compute, inter_threads=2,
                                                    intra_threads=self.settings.threads)  # fmt: skip
            self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            config = json.loads((path / "tokenizer_config.json").read_text())
            template = config["chat_template"]
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise EngineError(f"language model {path} cannot be loaded: {error!r}", code="model_broken") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
        self._template = environment.from_string(template)
        end = config["eos_token"]
        self._end = end if isinstance(end, str) else end["content"]
        self._context = min(int(config.get("model_max_length", 2048)), 131072)
        list(self.complete(CompletionRequest([{"role": "user", "content": "hello"}], max_tokens=2)))

    def complete(self, request: CompletionRequest) -> Iterator[TextDelta | ToolCall | Completion]:
        tools = [] if request.tool_choice == "none" else request.tools
        prompt, size = self._prompt(request, tools)
        if tools and (request.tool_choice == "required" or isinstance(request.tool_choice, dict)):
            yield from self._forced(request, tools, prompt, size)
        else:
            yield from self._free(request, bool(tools), prompt, size)

    def _prompt(self, request: CompletionRequest, tools: list[dict[str, Any]]) -> tuple[str, int]:
        """Rendered prompt and its tokens. Raises EngineError context_length_exceeded."""

        def render(messages: list[dict[str, Any]]) -> str:
            return self._template.render(messages=messages, tools=tools, add_generation_prompt=True) + request.prefix

        messages, size = fit(request, lambda messages: len(self._encode(render(messages))), self._context, min(ROOM_FOR_ANSWER, request.max_tokens))
        return render(messages), size

    def _encode(self, text: str) -> list[str]:
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def _free(self, request, tools: bool, prompt: str, size: int) -> Iterator[TextDelta | ToolCall | Completion]:
        limit = min(request.max_tokens, self._context - size)
        parser, calls, count = HermesParser(), 0, 0
        for text, count in self._stream(prompt, limit, request.temperature):
            for found in parser.feed(text):
                if isinstance(found, TextDelta):
                    yield found
                elif tools and (request.parallel_tool_calls or not calls):
                    calls += 1
                    yield found
        for found in parser.end():
            if isinstance(found, TextDelta):
                yield found
        reason = "tool_calls" if calls else "length" if count >= limit else "stop"
        yield Completion(reason, size, count)

    def _stream(self, prompt: str, limit: int, temperature: float = 0.0) -> Iterator[tuple[str, int]]:
        """(new text, tokens so far); text appears when its last byte is there."""
        ids: list[int] = []
        shown = ""
        steps = self._generator.generate_tokens(
            self._encode(prompt), max_length=limit, sampling_topk=1 if temperature <= 0 else 50,
            sampling_temperature=max(temperature, 0.01) if temperature > 0 else 1.0, end_token=self._end,
        )  # fmt: skip
        try:
            for step in steps:
                if step.token == self._end:
                    yield "", len(ids) + 0
                    return
                ids.append(step.token_id)
                text = self._tokenizer.decode(ids, skip_special_tokens=False)
                if not text.endswith("\ufffd"):
                    yield text[len(shown) :], len(ids)
                    shown = text
        finally:
            steps.close()

    # A call that must be made

    def _forced(self, request, tools, prompt: str, size: int) -> Iterator[ToolCall | Completion]:
        functions = {f["name"]: f for f in ((t.get("function") or t) for t in tools)}
        if isinstance(request.tool_choice, dict):
            name = request.tool_choice.get("name") or request.tool_choice["function"]["name"]
        else:
            name = self._best(prompt + '<tool_call>{"name": "', list(functions))
        schema = functions[name].get("parameters") or {}
        text = f'{prompt}<tool_call>{{"name": "{name}", "arguments": {{'
        arguments: dict[str, Any] = {}
        for key, kind in (schema.get("properties") or {}).items():
            text += f"{', ' if arguments else ''}{json.dumps(key)}: "
            arguments[key] = self._value(text, kind if isinstance(kind, dict) else {})
            text += json.dumps(arguments[key])
        written = len(self._encode(text)) - size
        yield ToolCall(name, json.dumps(arguments))
        yield Completion("tool_calls", size, max(1, written))

    def _value(self, prompt: str, schema: dict[str, Any]) -> Any:
        """One value its schema allows."""
        kind = schema.get("type", "string")
        kind = next((k for k in kind if k != "null"), "string") if isinstance(kind, list) else kind
        if options := schema.get("enum"):
            return options[self._best_index(prompt, [json.dumps(o) for o in options])]
        if kind == "boolean":
            return self._best_index(prompt, ["false", "true"]) == 1
        if kind in ("integer", "number"):
            match = _NUMBER.match(self._until(prompt.rstrip(), ',}"', 8))
            number = float(match[1]) if match else 0.0
            return int(number) if kind == "integer" or number.is_integer() else number
        if kind == "array":
            return []
        if kind == "object":
            return {k: self._value(f"{prompt}{{{json.dumps(k)}: ", v) for k, v in (schema.get("properties") or {}).items()}
        return self._until(prompt + '"', '"', VALUE_TOKENS).strip()

    def _until(self, prompt: str, stops: str, limit: int) -> str:
        text = ""
        stream = self._stream(prompt, limit)
        for piece, _ in stream:
            text += piece
            cut = min((text.find(c) for c in stops if c in text), default=-1)
            if cut >= 0:
                stream.close()
                return text[:cut]
        return text

    def _best(self, prompt: str, options: list[str]) -> str:
        return options[self._best_index(prompt, [o + '"' for o in options])]

    def _best_index(self, prompt: str, options: list[str]) -> int:
        """The option the model finds likeliest after the prompt, per token."""
        if len(options) == 1:
            return 0
        head = len(self._encode(prompt))
        rows = [self._encode(prompt + option) for option in options]
        scores = self._generator.score_batch(rows)
        means = [sum(s.log_probs[head - 1 :]) / max(1, len(s.log_probs[head - 1 :])) for s in scores]
        return means.index(max(means))

    def close(self) -> None:
        if hasattr(self, "_generator"):
            self._generator.unload_model()
