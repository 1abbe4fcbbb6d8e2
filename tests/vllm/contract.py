"""The language-model contract with vLLM; run by its own environment's Python: `python -m tests.vllm.contract`."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.contracts import check_llm, complete
from voice.engines import create
from voice.engines.base import EngineSettings


def main() -> None:
    engine = create("llm", "vllm", "embedded-closed-vocab", EngineSettings((Path(__file__).resolve().parents[2] / "voice" / "models",)))
    engine.load()
    check_llm(engine)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(complete(engine, "what is seven plus five")[0])) for _ in range(16)]
    [t.start() for t in threads], [t.join(60) for t in threads]
    assert texts == ["Seven plus five is twelve."] * 16, texts
    engine.close()
    print("contract kept", flush=True)


if __name__ == "__main__":
    main()
