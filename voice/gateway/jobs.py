"""The jobs of one session on their way to the workers: counted against the limits, in order, waiting a moment for a Redis that is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from apps.common.errors import RateLimited
from voice.bus.redis import BusUnavailable
from voice.core import effects as fx
from voice.core.jobs import Job, Stage
from voice.gateway import clock, metrics

if TYPE_CHECKING:
    from voice.gateway.live import Live

log = logging.getLogger("voice.gateway")
METERED = (Stage.STT, Stage.LLM)
BUS_WAIT_S = 3.0  # work waits this long for a Redis that is away
BUS_PLACES = 2000  # feeds of one session that may wait for the bus


class Jobs:
    def __init__(self, live: Live):
        self._live, self._bus, self._place = live, live.dispatch.bus, live.place
        self._open: set[str] = set()
        self._metered: set[str] = set()  # jobs that were counted against the limits, or are once it is certain that they are wanted
        self._queue: asyncio.Queue = asyncio.Queue(BUS_PLACES)

    def open(self, effect: fx.OpenJob) -> None:
        live, job = self._live, effect.job
        if effect.refused:
            asyncio.get_running_loop().call_soon(self._lost, job, f"{job.stage}_unavailable", "It is not available at the moment; try again.")
            return
        self._open.add(job.id)
        live.hear(job)
        if live.trace:
            live.trace.opened(job)
        live.record.changed()
        if effect.ahead and job.stage in METERED:
            self._metered.add(job.id)
            self._put(self._open_ahead, job, effect.feeds)  # in the queue: its next feed may be close behind
        elif job.stage in METERED and job.id not in self._metered and not effect.counted:
            self._metered.add(job.id)
            live.spawn(self._open_metered(job, effect.feeds), "open")
        elif effect.feeds:
            self._put(self._bus.open, job, effect.feeds)
        else:
            live.spawn(self._guard(job, self._bus.open, ()), "open")

    def feed(self, effect: fx.FeedJob) -> None:
        self._live.record.changed()
        self._put(self._bus.feed, effect.job, effect.feed)

    def cancel(self, effect: fx.CancelJob) -> None:
        live = self._live
        if live.trace:
            live.trace.cancelled(effect.job.id)
        self._open.discard(effect.job.id)
        live.dispatch.forget(effect.job.id)
        live.spawn(self._bus.cancel(effect.job, effect.reason), "cancel")

    def forget_all(self) -> None:
        """Their chunks are no concern of this process any more."""
        for job_id in self._open:
            self._live.dispatch.forget(job_id)

    def _lost(self, job: Job, code: str, message: str) -> None:
        live = self._live
        live.perform(live.session.job_lost(job.id, job.attempt, code, message, clock.now()))

    # Limits

    def count(self, effect: fx.CountJob) -> None:
        """It was opened ahead and is wanted now."""
        self._live.spawn(self._allowed(effect.job, self._count(effect.job, effect.audio_ms)), "count")

    async def _open_metered(self, job: Job, feeds) -> None:
        """Hand the work out when the limits allow it; a second attempt of the same work is not counted again."""
        audio_ms = sum(len(f.pcm) for f in feeds) * 500 // job.params.get("rate_hz", 24000)
        if await self._allowed(job, self._count(job, audio_ms)) and job.id in self._open:  # not cancelled meanwhile
            await self._guard(job, self._bus.open, feeds)

    async def _open_ahead(self, job: Job, feeds) -> None:
        """Work that may come to nothing: only where something is left of the limits, and not counted yet."""
        name = "audio_minutes_per_day" if job.stage is Stage.STT else "requests_per_minute"
        if await self._allowed(job, self._place.check(name)) and job.id in self._open:
            await self._bus.open(job, feeds)

    async def _count(self, job: Job, audio_ms: int) -> None:
        if job.stage is Stage.STT:
            await self._place.spend("audio_minutes_per_day", max(1, round(audio_ms / 1000)))
        else:
            self._tell("requests", await self._place.spend("requests_per_minute"))
            self._tell("tokens", await self._place.check("tokens_per_minute"))

    async def _allowed(self, job: Job, asking: Awaitable[Any]) -> bool:
        """False: a limit is reached, and the session knows."""
        try:
            await asking
        except RateLimited as error:
            metrics.REFUSED.labels(error.code).inc()
            self._lost(job, error.code, error.message)
            return False
        return True

    def _tell(self, name: str, window) -> None:
        if window is not None:
            self._live.session.tell_limit(name, window.limit, window.remaining, window.reset_s, clock.now())

    # To the bus

    def _put(self, call, job: Job, what) -> None:
        try:
            self._queue.put_nowait((call, job, what))
        except asyncio.QueueFull:
            self._lost(job, "bus_overloaded", "Too much is waiting for the workers.")

    async def run(self) -> None:
        """Feeds of this session in order."""
        while True:
            call, job, what = await self._queue.get()
            await self._guard(job, call, what)

    async def _guard(self, job: Job, call, what) -> None:
        """Hand it out; a Redis that restarts is waited for a moment."""
        until = clock.now() + BUS_WAIT_S
        while job.id in self._open:
            try:
                return await call(job, what)
            except BusUnavailable as error:
                if clock.now() < until:
                    await asyncio.sleep(0.1)
                    continue
                log.warning("%s", error)
                return self._lost(job, f"{job.stage}_unavailable", "The work could not be handed out; try again.")
