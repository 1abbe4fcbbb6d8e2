"""From speech probabilities to edges: has the user begun, paused, gone on, finished? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

START_WINDOWS = 2  # this many windows of speech in a row begin an utterance (64 ms)
RESUME_WINDOWS = 3  # and this many go on after a pause (96 ms): a click or a breath does not
PAUSE_MS = 96  # silence after which the utterance may be over: three windows; most stop consonants are shorter
SEMANTIC_PAUSE_MS = 128  # the same where a model judges what was said up to there: it learnt from that much
HYSTERESIS = 0.15  # speech goes on down to threshold - this
SEMANTIC_THRESHOLD = 0.5
SEMANTIC_LIMIT_MS = {"low": 8000, "medium": 4000, "auto": 4000, "high": 2000}  # protocol section 3, flow 4


@dataclass(frozen=True, slots=True)
class Endpointing:
    """What decides; made from the session's turn_detection. `semantic`: silence_ms is a limit, `end_after` says how long to wait."""

    threshold: float
    silence_ms: int
    semantic: bool = False
    pause_ms: int = PAUSE_MS

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Endpointing:
        if settings["type"] == "semantic_vad":
            return cls(SEMANTIC_THRESHOLD, SEMANTIC_LIMIT_MS[settings.get("eagerness", "auto")], True, SEMANTIC_PAUSE_MS)
        return cls(settings["threshold"], settings["silence_duration_ms"])


class Endpointer:
    """Fed one probability per window; says "started", "paused", "resumed" or "stopped" with where in the audio it was."""

    def __init__(self, rule: Endpointing):
        self.rule = rule
        self.reset()

    def reset(self) -> None:
        self._speaking = self._paused = False
        self._run = 0
        self._started_ms = 0
        self._last_speech_ms = 0
        self._wait_ms: int | None = None

    @property
    def goes_on(self) -> bool:
        """Somebody speaks, without a pause."""
        return self._speaking and not self._paused

    def assume_speech(self, at_ms: int) -> None:
        """An utterance began there or before."""
        self._speaking, self._last_speech_ms = True, at_ms

    def end_after(self, silence_ms: int) -> None:
        """The pause under way is the end once it has lasted this long (within the rule's limit)."""
        if self._paused:
            self._wait_ms = silence_ms

    def push(self, chance: float, from_ms: int, to_ms: int) -> tuple[str, int] | None:
        """(kind, at_ms) when something changed with this window."""
        if not self._speaking:
            return self._begin(chance, from_ms, to_ms)
        if chance >= max(0.05, self.rule.threshold - HYSTERESIS):
            return self._go_on(from_ms, to_ms)
        self._run = 0
        silence_ms = to_ms - self._last_speech_ms
        if silence_ms >= (self.rule.silence_ms if self._wait_ms is None else min(self._wait_ms, self.rule.silence_ms)):
            self._speaking, self._paused, self._wait_ms = False, False, None
            return "stopped", self._last_speech_ms
        if silence_ms >= self.rule.pause_ms and not self._paused:
            self._paused = True
            return "paused", self._last_speech_ms
        return None

    def _begin(self, chance: float, from_ms: int, to_ms: int) -> tuple[str, int] | None:
        if chance < self.rule.threshold:
            self._run = 0
            return None
        if not self._run:
            self._started_ms = from_ms
        self._run += 1
        if self._run < START_WINDOWS:
            return None
        self._speaking, self._run, self._last_speech_ms = True, 0, to_ms
        return "started", self._started_ms

    def _go_on(self, from_ms: int, to_ms: int) -> tuple[str, int] | None:
        self._last_speech_ms = to_ms
        if not self._paused:
            return None
        if not self._run:
            self._started_ms = from_ms
        self._run += 1
        if self._run < RESUME_WINDOWS:
            return None
        self._paused, self._run, self._wait_ms = False, 0, None
        return "resumed", self._started_ms
