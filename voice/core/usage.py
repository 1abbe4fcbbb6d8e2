"""What a response spent, in the protocol's tokens and in the ledger's meters (protocol section 6)."""

from __future__ import annotations

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

    @classmethod
    def of(cls, meters: dict[str, int]) -> Spent:
        """The same, from what `meters` gave."""
        return cls(meters.get("tokens_in", 0), meters.get("tokens_out", 0), meters.get("audio_in_ms", 0), meters.get("audio_out_ms", 0))

    def meters(self) -> dict[str, int]:
        return {"audio_in_ms": self.audio_in_ms, "audio_out_ms": self.audio_out_ms, "tokens_in": self.text_in,
                "tokens_out": self.text_out}  # fmt: skip


class Allowance:
    """What is left of a limit in its window of a minute, as the shell last told; between tellings what this session spends is taken off.

    The shell decides (it counts for all sessions of a tenant); this is what clients are shown and what refuses early.
    """

    def __init__(self, limit: int):
        self.limit = self._remaining = limit
        self._reset_at = 0.0

    def tell(self, limit: int, remaining: int, reset_s: float, now: float) -> None:
        self.limit, self._remaining, self._reset_at = limit, remaining, now + reset_s

    def spend(self, amount: int, now: float) -> None:
        if now >= self._reset_at:
            self._remaining, self._reset_at = self.limit, now + 60
        self._remaining -= amount

    def remaining(self, now: float) -> int:
        return self.limit if now >= self._reset_at else max(0, self._remaining)

    def wire(self, name: str, now: float) -> dict[str, Any]:
        return {"name": name, "limit": self.limit, "remaining": self.remaining(now), "reset_seconds": round(max(0.0, self._reset_at - now), 3)}
