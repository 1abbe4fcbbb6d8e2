"""One engine job of a REST call, over the same bus and workers as the sessions', with the same lease."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from django.conf import settings

from voice.bus.redis import BusUnavailable
from voice.core.jobs import Chunk, ChunkKind, Feed, Job, Stage
from voice.core.leases import Lease, Verdict
from voice.gateway.dispatch import shared
from voice.gateway.ids import make_id

QUEUE = 8000  # chunks; an answer has fewer
CHECK_S = 0.1
config = settings.VOICE


class WorkFailed(Exception):
    """The worker could not do it, or none could be reached; `code` as in protocol section 7."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class Work:
    """`async with Work(...) as work: async for chunk in work: …`; leaving it early cancels the job. `done` is the engine's last word."""

    def __init__(self, stage: Stage, engine: tuple[str, str], params: dict[str, Any], feeds: tuple[Feed, ...] = (), *, owner: str, deadline_ms: int):
        self._job = Job(make_id("job"), 1, stage, owner, *engine, deadline_ms, params)
        self._feeds = feeds
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue(QUEUE)
        self._over = self._yielded = False
        self.done: dict[str, Any] = {}

    async def __aenter__(self) -> Work:
        now = time.monotonic()
        self._lease = Lease(self._job, self._job.session, now, now + self._job.deadline_ms / 1000, now + config.START_DEADLINE_MS / 1000,
                            now + config.WAIT_DEADLINE_MS / 1000, feeds=list(self._feeds))  # fmt: skip
        self._dispatch = await shared()
        await self._open()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self._dispatch.forget(self._job.id)
        if not self._over:
            self._over = True
            await asyncio.shield(self._dispatch.bus.cancel(self._lease.job, "disconnected"))

    def on_chunk(self, chunk: Chunk) -> None:
        try:
            self._chunks.put_nowait(chunk)
        except asyncio.QueueFull:  # seen as a gap
            pass

    async def feed(self, feed: Feed) -> None:
        """Raises WorkFailed."""
        self._lease.feeds.append(feed)
        await self._guard(self._dispatch.bus.feed(self._lease.job, feed))

    async def _open(self) -> None:
        self._dispatch.listen(self._lease.job, self)
        await self._guard(self._dispatch.bus.open(self._lease.job, tuple(self._lease.feeds)))

    async def _guard(self, sending) -> None:
        try:
            await sending
        except BusUnavailable as error:
            raise self._unavailable() from error

    def _unavailable(self) -> WorkFailed:
        return WorkFailed(f"{self._job.stage}_unavailable", f"No {self._job.stage} worker answers; try again in a moment.")

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks with something in them. Raises WorkFailed."""
        lease = self._lease
        while True:
            try:
                chunk = await asyncio.wait_for(self._chunks.get(), CHECK_S)
            except TimeoutError:
                await self._check()
                continue
            verdict = lease.judge(chunk, time.monotonic())
            if verdict is Verdict.GAP:
                await self._again(self._unavailable())
            elif verdict is Verdict.TAKE and chunk.kind is ChunkKind.FAILED:
                failure = WorkFailed(chunk.name or "engine_error", chunk.text or "The engine failed.")
                if not chunk.meta.get("retryable"):
                    self._over = True
                    raise failure
                await self._again(failure)
            elif verdict is Verdict.TAKE and chunk.kind is ChunkKind.DONE:
                self._over, self.done = True, chunk.meta
                return
            elif verdict is Verdict.TAKE and chunk.kind is not ChunkKind.STARTED:
                self._yielded = True
                yield chunk

    async def _check(self) -> None:
        now, lease = time.monotonic(), self._lease
        if now > lease.deadline:
            raise WorkFailed("deadline_exceeded", f"No {self._job.stage} result within {self._job.deadline_ms // 1000} s.")
        if lease.lost(now):
            await self._again(self._unavailable())
        elif lease.unclaimed(now):
            await self._open()

    async def _again(self, failure: WorkFailed) -> None:
        """Another attempt, as long as nothing of this one has been given away."""
        now = time.monotonic()
        again = None if self._yielded else self._lease.reopen(now, config.START_DEADLINE_MS / 1000, config.WAIT_DEADLINE_MS / 1000)
        if again is None:
            raise failure
        await self._open()
