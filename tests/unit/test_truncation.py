"""What of a conversation a language model is shown (voice/engines/base.py: fit). A token here is a character."""

from __future__ import annotations

import pytest

from voice.engines.base import CompletionRequest, EngineError, fit

SYSTEM = {"role": "system", "content": "s" * 20}


def shown(truncation, turns: int, context: int = 200, room: int = 20) -> list[str]:
    """Contents of the messages that stay; each turn is 10 tokens."""
    messages = [SYSTEM, *({"role": "user", "content": f"turn {n:05}"} for n in range(turns))]
    kept, size = fit(CompletionRequest(messages, truncation=truncation), lambda found: sum(len(m["content"]) for m in found), context, room)
    assert size == sum(len(m["content"]) for m in kept)
    return [m["content"] for m in kept]


def retention(ratio: float, most: int | None = None):
    return {"type": "retention_ratio", "retention_ratio": ratio} | ({"token_limits": {"post_instructions": most}} if most else {})


@pytest.mark.parametrize(("truncation", "turns", "kept"), [
    ("auto", 16, 16), ("auto", 17, 16),  # 20 tokens stay free
    (retention(0.5), 16, 16), (retention(0.5), 17, 8),  # of the context, instructions and all
    (retention(1.0, 50), 5, 5), (retention(1.0, 50), 6, 5), (retention(0.6, 50), 6, 3),  # of the limit, beside the instructions
    (retention(1.0, 10_000), 17, 16),  # no more than the model reads
])  # fmt: skip
def test_the_oldest_leave(truncation, turns, kept):
    found = shown(truncation, turns)
    assert found[0] == SYSTEM["content"] and found[1:] == [f"turn {n:05}" for n in range(turns - kept, turns)]


def test_without_instructions_the_limit_holds_too():
    request = CompletionRequest([{"role": "user", "content": "x" * 10}] * 9, truncation=retention(1.0, 30))
    assert len(fit(request, lambda found: sum(len(m["content"]) for m in found), 200, 20)[0]) == 3


def test_what_may_not_leave_is_an_error():
    with pytest.raises(EngineError) as caught:
        shown("disabled", 17)
    assert caught.value.code == "context_length_exceeded"


def test_a_call_leaves_with_its_outputs():
    call, output = {"role": "assistant", "content": "c" * 10}, {"role": "tool", "content": "o" * 10}
    messages = [SYSTEM, call, output, output, {"role": "user", "content": "u" * 10}]
    kept, _ = fit(CompletionRequest(messages, truncation=retention(1.0, 30)), lambda found: sum(len(m["content"]) for m in found), 200, 20)
    assert [m["role"] for m in kept] == ["system", "user"]


def test_a_long_history_is_measured_a_few_times_only():
    asked = []
    messages = [{"role": "user", "content": "x" * 10}] * 1000
    fit(CompletionRequest(messages), lambda found: asked.append(1) or sum(len(m["content"]) for m in found), 200, 20)
    assert len(asked) < 20  # each time all of it is rendered and cut into tokens
