"""How many sessions this process takes: as many as it can give their quality, under a fixed ceiling; none while it drains.

What callers notice is how late the event loop is (every frame waits that long), so that decides; `python -m bench --only admission` measures both together.
On two cores shared with the workers and the callers, 100 sessions that speak at once made it 25 ms late (90th percentile; echo p50 7 ms, first word p95 270 ms) and
125 made it 82 ms late (echo p50 77 ms, first word p95 825 ms): LATE_MS lies between. A burst of connections is no overload: they wait their turn,
HANDSHAKES at a time, so that those who talk notice little. Sessions that come back (their gateway died, and all its callers are here at once) are taken for longer than new ones.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from django.conf import settings

from apps.common.errors import Overloaded
from voice.gateway import metrics

RETRY_AFTER_S = 2
SAMPLE_S = 0.1
SAMPLES = 30  # 3 s
LATE_MS = settings.VOICE.ADMISSION_LATE_MS  # 90th percentile of 3 s; 0: whatever it is
RETURNING = 3  # times as late is not too late for a session that comes back
BUSY = 0.5  # of a core: lateness with less to do than that is the machine's, and refusing would not help
HANDSHAKES, TURN_S = 6, 10.0  # at a time; a handshake waits this long at most


class Load:
    """The last 3 s of this process."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=SAMPLES)
        self._marks: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # wall, CPU seconds
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="load")
            loop = asyncio.get_running_loop()
            metrics.TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))  # counted when somebody asks

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            now = time.monotonic()
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

    def full(self, returning: bool = False) -> bool:
        return bool(LATE_MS) and self.share > BUSY and self.late_ms > LATE_MS * (RETURNING if returning else 1)


class Admission:
    def __init__(self, limit: int):
        self.limit, self.live, self.draining = limit, 0, False
        self.load = Load()
        self._turns = asyncio.Semaphore(HANDSHAKES)

    def enter(self, returning: bool = False) -> None:
        """Count one more connection; `returning`: of a session that was here before. Raises Overloaded."""
        self.load.start()
        if self.draining:
            raise Overloaded("This gateway is shutting down; connect again.", retry_after_s=RETRY_AFTER_S)
        if self.live >= self.limit:
            raise Overloaded(f"This gateway holds {self.limit} sessions already; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        if self.live and self.load.full(returning):
            raise Overloaded("This gateway has as much to do as it can; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        self.live += 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """While a connection is let in. Raises Overloaded when it had to wait for too long."""
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("Too many connect at once; try again in a moment.", retry_after_s=RETRY_AFTER_S) from None
        try:
            yield
        finally:
            self._turns.release()

    def leave(self) -> None:
        self.live -= 1


admission = Admission(settings.VOICE.GATEWAY_MAX_SESSIONS)
