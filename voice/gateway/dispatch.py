"""One per gateway process: the bus, and the routing of chunks to the sessions whose jobs they belong to."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from voice.bus.redis import RedisGatewayBus
from voice.core.jobs import Chunk, ChunkKind, Job

log = logging.getLogger("voice.dispatch")
_LAST = (ChunkKind.DONE, ChunkKind.FAILED)


class Listener(Protocol):
    def on_chunk(self, chunk: Chunk) -> None: ...


class Dispatch:
    def __init__(self, bus: RedisGatewayBus):
        self.bus = bus
        self._listeners: dict[str, tuple[int, Listener]] = {}  # job -> (its newest attempt, who listens)
        self._task: asyncio.Task | None = None

    async def start(self) -> None:
        await self.bus.start()
        self._task = asyncio.create_task(self._route(), name="dispatch")

    def listen(self, job: Job, listener: Listener) -> None:
        self._listeners[job.id] = job.attempt, listener

    def forget(self, job_id: str) -> None:
        self._listeners.pop(job_id, None)

    async def _route(self) -> None:
        async for chunk in self.bus.chunks():
            self._deliver(chunk)

    def _deliver(self, chunk: Chunk) -> None:
        """Apart from `_route`, which waits for the next chunk and would keep the listener of the last one.

        The end of the newest attempt ends the listening; whoever opens another one listens anew. An attempt that was given up may end
        while the newest is under way, and an end with something missing before it is answered with another attempt at once.
        """
        if chunk.job in self._listeners:
            self._listeners[chunk.job][1].on_chunk(chunk)
            if chunk.kind in _LAST and self._listeners.get(chunk.job, (0,))[0] == chunk.attempt:
                self.forget(chunk.job)


_dispatch: Dispatch | None = None
_starting: asyncio.Lock | None = None


async def shared() -> Dispatch:
    """The dispatch of this process, started with its first session."""
    global _dispatch, _starting
    if _dispatch is None:
        _starting = _starting or asyncio.Lock()
        async with _starting:
            if _dispatch is None:
                name = f"{os.getpid()}-{secrets.token_hex(4)}"
                made = Dispatch(RedisGatewayBus(settings.CONNECT_REDIS_ASYNC, name, import_string(settings.JOB_MESSAGE)))
                await made.start()
                _dispatch = made
    return _dispatch
