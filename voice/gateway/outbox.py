"""Frames on their way to one connection: bounded, written as fast as the client takes them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from django.conf import settings

from voice.gateway import metrics

config = settings.VOICE
GOODBYE_S = 2


class Outbox:
    """`cut` is called once when the client does not read: its budget is used up, or a frame is not taken for too long."""

    def __init__(self, send: Callable[[dict], Awaitable[None]], cut: Callable[[], None]):
        self._send, self._cut = send, cut
        self._frames: deque[str] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._sending_since = 0.0
        self._over = False
        self._budget = config.OUTPUT_BUFFER_BYTES
        self._tasks = [asyncio.create_task(self._write(), name="writer"), asyncio.create_task(self._watch(), name="writer watch")]

    @property
    def unsent(self) -> int:
        """Bytes the client has not taken."""
        return self._bytes

    def grant(self, size: int) -> None:
        """A replay is coming: the client may have this much more waiting."""
        self._budget += size

    def put(self, frame: str) -> None:
        """Queue a frame."""
        if self._over:
            return
        self._frames.append(frame)
        self._bytes += len(frame)
        self._wake.set()
        if self._bytes > self._budget:
            self._give_up()

    def _give_up(self) -> None:
        metrics.CUT.labels("slow_reader").inc()
        self.drop()
        self._cut()

    def drop(self) -> None:
        """Throw away what the client never took; take no more."""
        self._over = True
        self._frames.clear()
        self._bytes = 0

    async def _write(self) -> None:
        while True:
            if not self._frames:
                self._wake.clear()
                await self._wake.wait()
                continue
            frame = self._frames.popleft()
            self._sending_since = time.monotonic()
            try:
                await self._send({"type": "websocket.send", "text": frame})
            except (OSError, RuntimeError):  # the connection is gone; its reader ends by itself
                return self.drop()
            self._bytes -= len(frame)
            self._sending_since = 0.0

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(config.OUTPUT_STALL_SECONDS / 4)
            if self._sending_since and time.monotonic() - self._sending_since > config.OUTPUT_STALL_SECONDS:
                return self._give_up()

    async def say_goodbye(self, code: int, reason: str) -> None:
        """Let the last frames out, then the close (none for code 0); a client that takes neither is left to the server's own deadline."""
        until = time.monotonic() + GOODBYE_S
        while (self._frames or self._sending_since) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        tasks = self._tasks
        self.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.wait_for(self._send({"type": "websocket.close", "code": code, "reason": reason}), 3)
        except (TimeoutError, OSError, RuntimeError):
            pass  # it did not take the close

    def stop(self) -> None:
        self._over = True
        for task in self._tasks:
            task.cancel()
        self._tasks = []  # a cancelled task knows the frame it ended in, and that knows this: a ring
