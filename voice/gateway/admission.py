"""How many sessions this process takes: by what it measures of itself, under a fixed ceiling; none while it drains.

Measured are the share of a core this process uses and how late its event loop is. Both rise together when it has too much to do; new sessions are refused
before those it holds would notice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from django.conf import settings

from apps.common.errors import Overloaded
from voice.gateway import metrics

RETRY_AFTER_S = 2
SAMPLE_S = 0.1
SAMPLES = 30  # 3 s
FULL = 0.92  # of a core
BUSY, LATE_MS = 0.6, 60.0  # this much of a core and this late, 90th percentile


class Load:
    """The last 3 s of this process."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=SAMPLES)
        self._marks: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # wall, CPU seconds
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="load")

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            now = time.monotonic()
            metrics.TASKS.set(len(asyncio.all_tasks()))
            self.see((now - due) * 1000, now, time.process_time())

    def see(self, late_ms: float, wall: float, cpu: float) -> None:
        self._late.append(late_ms)
        self._marks.append((wall, cpu))
        metrics.LOOP_LATE.set(self.late_ms / 1000)
        metrics.CORE_SHARE.set(self.share)

    @property
    def late_ms(self) -> float:
        """90th percentile."""
        return sorted(self._late)[len(self._late) * 9 // 10] if self._late else 0.0

    @property
    def share(self) -> float:
        """Of one core."""
        if len(self._marks) < SAMPLES // 3:
            return 0.0
        (wall, cpu), (wall2, cpu2) = self._marks[0], self._marks[-1]
        return (cpu2 - cpu) / max(0.001, wall2 - wall)

    @property
    def full(self) -> bool:
        return self.share > FULL or self.share > BUSY and self.late_ms > LATE_MS


class Admission:
    def __init__(self, limit: int):
        self.limit, self.live, self.draining = limit, 0, False
        self.load = Load()

    def enter(self) -> None:
        """Count one more connection. Raises Overloaded."""
        self.load.start()
        if self.draining:
            raise Overloaded("This gateway is shutting down; connect again.", retry_after_s=RETRY_AFTER_S)
        if self.live >= self.limit:
            raise Overloaded(f"This gateway holds {self.limit} sessions already; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        if self.live and self.load.full:
            raise Overloaded("This gateway has as much to do as it can; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        self.live += 1

    def leave(self) -> None:
        self.live -= 1


admission = Admission(settings.VOICE.GATEWAY_MAX_SESSIONS)
