"""How much of what clients send is taken at a time, so that turns of the event loop stay short for the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turnstile:
    """So many a turn of the event loop, the others in their order: what has to take several turns (an event through Redis takes about five) is not held up
    behind a hundred frames of sound that came at once."""

    def __init__(self, count: int):
        self._count = self._left = count
        self._waiting: deque[Callable[[], None]] = deque()  # one a connection
        self._turning = False

    def free(self) -> bool:
        """Pass at once, if nobody waits and this turn has not had its share."""
        if not self._left or self._waiting:
            return False
        self._left -= 1
        self._turn_soon()
        return True

    def call(self, callback: Callable[[], None]) -> None:
        """After those who came before. It must not raise."""
        self._waiting.append(callback)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turning, self._left = False, self._count
        while self._left and self._waiting:
            self._left -= 1
            self._waiting.popleft()()
        if self._left < self._count:
            self._turn_soon()


class Sluice:
    """One at a time in their order, and after each a pause for its size: fifty who paste at once take a share of the process, not all of it."""

    def __init__(self, bytes_per_s: float, longest_s: float):
        self._bytes_per_s, self._longest_s = bytes_per_s, longest_s
        self._lock = asyncio.Lock()  # whose askers come in their order
        self._opens_at = 0.0

    async def wait(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        async with self._lock:
            await asyncio.sleep(max(0.0, self._opens_at - loop.time()))
            self._opens_at = loop.time() + min(self._longest_s, size / self._bytes_per_s)
