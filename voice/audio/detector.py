"""The detector of a session: 24 kHz PCM in, speech edges out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voice.audio.endpointing import Endpointer, Endpointing
from voice.audio.vad import HISTORY, RATE_HZ, WINDOW, WINDOW_MS, Loudness, Vad
from voice.core.speech import SpeechEdge

TOGETHER = 2  # windows of speech that goes on are heard so many at a time: it costs less
NO_EDGES: Sequence[SpeechEdge] = ()


class Detector:
    """`settings`: the session's turn_detection, None = off. Positions count all audio pushed since the start."""

    def __init__(self, settings: dict[str, Any] | None, gate_db: float = -55.0, by_loudness: bool = False):
        """`by_loudness`: without the model. Raises what loading the model raises."""
        self._vad = Loudness(gate_db) if by_loudness else Vad(gate_db)
        self._endpointer: Endpointer | None = None
        self._bytes = 0
        self.configure(settings, reset=True)

    def skip_to(self, start: int) -> None:
        """The bytes before `start` were pushed to another detector."""
        self._bytes = start
        self._base_ms = start * 1000 // 2 // RATE_HZ

    def assume_speech(self) -> None:
        """Another detector found it already: somebody speaks where the next audio begins."""
        if self._endpointer is not None:
            self._endpointer.assume_speech(self._base_ms)

    def configure(self, settings: dict[str, Any] | None, reset: bool) -> None:
        """New settings; `reset` forgets speech under way (a manual commit or clear)."""
        if settings is None:
            self._endpointer = None
            return
        rule = Endpointing.of(settings)
        if self._endpointer is None or reset:
            self._endpointer = Endpointer(rule)
            self._vad.reset()
            self._held, self._count = np.zeros(HISTORY + 4 * WINDOW, np.int16), 0  # what was before, samples not looked at yet; how many these are
            self._base_ms, self._windows = self._bytes * 1000 // 2 // RATE_HZ, 0
        self._endpointer.rule = rule

    def end_after(self, silence_ms: int) -> None:
        """The pause under way is the end of the turn once it has lasted this long."""
        if self._endpointer is not None:
            self._endpointer.end_after(silence_ms)

    def push(self, pcm: bytes) -> Sequence[SpeechEdge]:
        """PCM16 mono 24 kHz, whole samples."""
        self._bytes += len(pcm)
        if self._endpointer is None:
            return NO_EDGES
        count = self._take(np.frombuffer(pcm, "<i2"))
        if not count or count < TOGETHER and self._endpointer.goes_on and self._vad.loud(self._held[HISTORY : HISTORY + WINDOW]):
            return NO_EDGES
        edges: list[SpeechEdge] | None = None
        begin = self._base_ms + self._windows * WINDOW_MS
        for chance in self._vad.chances(self._held, count):
            change = self._endpointer.push(chance, begin, begin + WINDOW_MS)
            begin += WINDOW_MS
            if change is not None:
                edges = edges or []
                edges.append(SpeechEdge(change[0], change[1], begin))
        self._drop(count)
        return edges or NO_EDGES

    def _take(self, samples: np.ndarray) -> int:
        """Keep these, too. How many windows there are."""
        begin = HISTORY + self._count
        end = begin + len(samples)
        if end > len(self._held):
            self._held = np.concatenate((self._held, np.empty(end, np.int16)))
        self._held[begin:end] = samples
        self._count += len(samples)
        return self._count // WINDOW

    def _drop(self, count: int) -> None:
        """These windows were looked at."""
        used = count * WINDOW
        rest = HISTORY + self._count - used
        self._held[:rest] = self._held[used : used + rest]
        self._windows, self._count = self._windows + count, self._count - used
