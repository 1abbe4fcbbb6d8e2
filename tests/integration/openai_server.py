"""A small OpenAI-compatible server over our own ctranslate2 engine, standing in for `vllm serve` or Ollama: a real process on a real socket.

    python -m tests.integration.openai_server PORT [FIRST_MS TOKENS_PER_S]

With the last two it is as slow as a larger model: the first word comes after FIRST_MS, the others at that pace; so it is when asked for a
model named `as-200ms-75tps` (bench/).
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from config.workers import engine_settings
from voice.engines import create
from voice.engines.base import Completion, CompletionRequest, EngineError, TextDelta

engine = create("llm", "ctranslate2", "embedded-closed-vocab", engine_settings())


def pace_of(model: str) -> tuple[float, float]:
    """Seconds before the first word, and before each."""
    named = re.fullmatch(r"as-(\d+)ms-(\d+)tps", model)
    first_ms, per_s = named.groups() if named else sys.argv[2:4] or ("0", "inf")
    return float(first_ms) / 1000, 1 / float(per_s)


def request_of(body: dict) -> CompletionRequest:
    messages, prefix = body["messages"], ""
    if body.get("continue_final_message"):
        prefix = messages.pop()["content"]
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict):
        choice = {"type": "function", "name": choice["function"]["name"]}
    return CompletionRequest(messages, body.get("tools", []), choice, body.get("parallel_tool_calls", True), body["max_tokens"], prefix=prefix)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != "Bearer right":
            return self.answer(401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        pieces = engine.complete(request_of(body))
        try:
            first = next(pieces)
        except EngineError as error:
            return self.answer(400, {"error": {"message": str(error), "code": error.code}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        calls = 0
        first_s, each_s = pace_of(str(body.get("model", "")))
        time.sleep(first_s)
        for piece in itertools.chain([first], pieces):
            time.sleep(each_s)
            if isinstance(piece, TextDelta):
                self.event({"choices": [{"delta": {"content": piece.text}}]})
            elif isinstance(piece, Completion):
                self.event({"choices": [{"delta": {}, "finish_reason": piece.finish_reason}]})
                self.event({"choices": [], "usage": {"prompt_tokens": piece.input_tokens, "completion_tokens": piece.output_tokens}})
            else:  # arguments in two pieces, as servers send them
                half = len(piece.arguments) // 2
                for name, part in ((piece.name, piece.arguments[:half]), (None, piece.arguments[half:])):
                    function = {"arguments": part} | ({"name": name} if name else {})
                    self.event({"choices": [{"delta": {"tool_calls": [{"index": calls, "function": function}]}}]})
                calls += 1
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: dict) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

    def answer(self, status: int, value: dict) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *arguments) -> None:
        pass


if __name__ == "__main__":
    engine.load()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
