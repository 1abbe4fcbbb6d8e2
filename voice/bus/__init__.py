"""The bus contract: jobs out, feeds after them, chunks back, cancels. voice/bus/redis.py is the one implementation.

Keys (all with expiry): `{sess_...}:job_...:in` feeds of a job (stream), `gw:<gateway id>:chunks` chunks of all jobs
of one gateway process (stream, MAXLEN), `voice:cancel` cancels (pub/sub), `{sess_...}:job_...:lease` highest attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from voice.core.jobs import Chunk, Feed, Job


class GatewayBus(Protocol):
    """The asyncio side, one per gateway process."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def chunks(self) -> AsyncIterator[Chunk]:
        """Every chunk of every job this gateway opened, in stream order. Survives a Redis restart (reconnects)."""
        ...
    async def open(self, job: Job, feeds: tuple[Feed, ...] = ()) -> None:
        """Write feeds, then the Celery message, in one round trip. Raises BusUnavailable."""
        ...
    async def feed(self, job: Job, feed: Feed) -> None: ...
    async def cancel(self, job: Job, reason: str) -> None: ...


class WorkerBus(Protocol):
    """The threads side, one per worker process."""

    def claim(self, job: Job, reply_to: str, started: Chunk) -> bool:
        """True if this attempt is the newest one and not cancelled; the start check. Then `started` was sent, too."""
        ...
    def send(self, job: Job, reply_to: str, chunk: Chunk) -> None: ...
    def beat(self, reply_to: str, beats: list[tuple[str, int, int]]) -> None:
        """These (job, attempt, number of the last chunk) live, in one message; the gateway has a BEAT of each."""
        ...
    def feeds(self, job: Job, timeout_s: float) -> Iterator[Feed]:
        """Feeds in order until one is `last`. Ends early when the job is cancelled; raises FeedTimeout."""
        ...
    def cancelled(self, job: Job) -> bool: ...
