"""How fast clients may send events, audio apart.

In the memory of each gateway process, because the way of an audio frame asks nobody: a workspace that spreads over n processes may send
n times as much.
"""

from __future__ import annotations

from collections.abc import Iterable

from voice.gateway import clock

BURST_S = 10.0  # so many seconds' worth of events at once: a history is sent in one go
HOLDERS = 10_000  # buckets kept; full ones are let go first


class Bucket:
    __slots__ = ("at", "left")

    def __init__(self, left: float, at: float):
        self.left, self.at = left, at


class Events:
    """Token buckets by holder of a limit (key, workspace, installation)."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}

    def take(self, limits: Iterable[tuple[str, int]]) -> int | None:
        """Count one event for each (holder, events a second). The limit that is reached, or None."""
        now = clock.now()
        return next((per_s for holder, per_s in limits if not self._take(holder, per_s, now)), None)

    def _take(self, holder: str, per_s: int, now: float) -> bool:
        bucket = self._buckets.get(holder)
        if bucket is None:
            if len(self._buckets) >= HOLDERS:
                self._let_go(now)
            bucket = self._buckets[holder] = Bucket(per_s * BURST_S, now)
        bucket.left = min(per_s * BURST_S, bucket.left + (now - bucket.at) * per_s)
        bucket.at = now
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    def _let_go(self, now: float) -> None:
        """Of those that sent nothing for BURST_S: they are full again."""
        self._buckets = {holder: b for holder, b in self._buckets.items() if now - b.at < BURST_S}


events = Events()
