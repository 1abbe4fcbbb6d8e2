"""From speech probabilities to edges: has the user begun, has the user finished? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

START_WINDOWS = 2  # this many windows of speech in a row begin an utterance (64 ms)
HYSTERESIS = 0.15  # speech goes on down to threshold - this
# semantic_vad, until a model of turn ends decides: silence by eagerness (ms); each far inside the hard limits of protocol
# section 3, flow 4 (8 s, 4 s, 2 s)
SEMANTIC_SILENCE_MS = {"low": 1000, "medium": 600, "auto": 600, "high": 350}


@dataclass(frozen=True, slots=True)
class Endpointing:
    """What decides; made from the session's turn_detection."""

    threshold: float
    silence_ms: int

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Endpointing:
        if settings["type"] == "semantic_vad":
            return cls(0.5, SEMANTIC_SILENCE_MS[settings.get("eagerness", "auto")])
        return cls(settings["threshold"], settings["silence_duration_ms"])


class Endpointer:
    """Fed one probability per window; says "started" or "stopped" with where in the audio it was."""

    def __init__(self, rule: Endpointing):
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        self._speaking = False
        self._run = 0
        self._started_ms = 0
        self._last_speech_ms = 0

    def push(self, chance: float, from_ms: int, to_ms: int) -> tuple[str, int] | None:
        """(kind, at_ms) when something changed with this window."""
        rule = self.rule
        if not self._speaking:
            if chance < rule.threshold:
                self._run = 0
                return None
            if not self._run:
                self._started_ms = from_ms
            self._run += 1
            if self._run < START_WINDOWS:
                return None
            self._speaking, self._last_speech_ms = True, to_ms
            return "started", self._started_ms
        if chance >= max(0.05, rule.threshold - HYSTERESIS):
            self._last_speech_ms = to_ms
        elif to_ms - self._last_speech_ms >= rule.silence_ms:
            self._speaking, self._run = False, 0
            return "stopped", self._last_speech_ms
        return None
