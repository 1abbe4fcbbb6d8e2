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
from voice.core.leases import MAX_ATTEMPTS

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
        """Apart from `_route`, which waits for the next chunk and would keep the listener of the last one."""
        if chunk.job in self._listeners:
            attempt, listener = self._listeners[chunk.job]
            listener.on_chunk(chunk)
            if chunk.kind in _LAST and chunk.attempt == attempt:  # one that was given up may still end, while the newest is under way
                self._drop_ended(chunk)

    def _drop_ended(self, chunk: Chunk) -> None:
        # a failed attempt may be followed by another one under the same id
        if chunk.kind is ChunkKind.DONE or not chunk.meta.get("retryable") or chunk.attempt >= MAX_ATTEMPTS:
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
