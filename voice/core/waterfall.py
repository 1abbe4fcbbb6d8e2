"""Where the time of a turn went: consecutive segments whose sum is the time to the first audio (or text) sent."""

from __future__ import annotations

NAMES = ("endpointing", "stt_queue", "stt", "llm_queue", "llm", "sentence", "tts_queue", "tts", "send")


class Waterfall:
    """`base`: end of the user's speech, or the client's response.create; monotonic seconds."""

    def __init__(self, base: float):
        self.base = base
        self._ends: dict[str, float] = {}
        self._ahead = False

    def mark(self, name: str, now: float) -> None:
        """Segment `name` ended; the first mark counts."""
        self._ends.setdefault(name, now)

    def has(self, name: str) -> bool:
        return name in self._ends

    def segments(self) -> tuple[tuple[str, float], ...]:
        """(name, ms) in order; never negative; those that did not happen are left out."""
        rows, before = [], self.base
        for name in NAMES:
            if name in self._ends:
                end = max(before, self._ends[name])
                rows.append((name, round((end - before) * 1000, 3)))
                before = end
        return tuple(rows)

    def ahead(self, ends: dict[str, float]) -> None:
        """Work that was begun before the end of the turn was certain, at the pause: when each of its segments was over."""
        self._ahead = True
        for name, end in ends.items():
            self.mark(name, end)

    def overlapped(self) -> tuple[tuple[str, float], ...]:
        """(name, ms) of what was done while the silence was still being waited out; `segments` does not count it again."""
        if not self._ahead:
            return ()
        rows, before, certain = [], self.base, self._ends["endpointing"]
        for name in ("pause", *NAMES[1:-1]):
            if name in self._ends and before < certain:
                end = min(certain, max(before, self._ends[name]))
                rows.append((name, round((end - before) * 1000, 3)))
                before = end
        return tuple(rows)
