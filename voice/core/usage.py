"""What a response spent, in the protocol's tokens and in the ledger's meters (protocol section 6)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

USER_AUDIO_MS_PER_TOKEN = 100
ASSISTANT_AUDIO_MS_PER_TOKEN = 50


@dataclass
class Spent:
    text_in: int = 0  # tokens the language model read
    text_out: int = 0  # tokens it wrote
    audio_in_ms: int = 0
    audio_out_ms: int = 0  # audio sent to the client

    @property
    def total(self) -> int:
        return self.input + self.output

    @property
    def input(self) -> int:
        return self.text_in + self.audio_in_ms // USER_AUDIO_MS_PER_TOKEN

    @property
    def output(self) -> int:
        return self.text_out + self.audio_out_ms // ASSISTANT_AUDIO_MS_PER_TOKEN

    def wire(self) -> dict[str, Any]:
        cached = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
        return {
            "total_tokens": self.total, "input_tokens": self.input, "output_tokens": self.output,
            "input_token_details": {
                "text_tokens": self.text_in, "audio_tokens": self.input - self.text_in, "image_tokens": 0,
                "cached_tokens": 0, "cached_tokens_details": cached,
            },
            "output_token_details": {"text_tokens": self.text_out, "audio_tokens": self.output - self.text_out},
        }  # fmt: skip

    def meters(self) -> dict[str, int]:
        return {"audio_in_ms": self.audio_in_ms, "audio_out_ms": self.audio_out_ms, "tokens_in": self.text_in,
                "tokens_out": self.text_out}  # fmt: skip


class MinuteBucket:
    """How much of `limit` was used in the last 60 s. Bounded by the limit it guards."""

    def __init__(self, limit: int):
        self.limit = limit
        self._spent: deque[tuple[float, int]] = deque()
        self._used = 0

    def spend(self, amount: int, now: float) -> None:
        self._spent.append((now, amount))
        self._used += amount

    def remaining(self, now: float) -> int:
        while self._spent and now - self._spent[0][0] >= 60:
            self._used -= self._spent.popleft()[1]
        return max(0, self.limit - self._used)

    def wire(self, name: str, now: float) -> dict[str, Any]:
        left = self.remaining(now)
        wait = 60 - (now - self._spent[0][0]) if self._spent else 0.0
        return {"name": name, "limit": self.limit, "remaining": left, "reset_seconds": round(max(0.0, wait), 3)}
