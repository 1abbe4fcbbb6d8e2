"""The one loop of every engine job: start check, chunks, cancelled?, deadline, end. And the beats of jobs with nothing to say."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from voice.bus.redis import CONNECTION_ERRORS, Beat, FeedTimeout, RedisWorkerBus
from voice.core.jobs import BEAT_MS, Chunk, ChunkKind, Job
from voice.engines import EngineCache
from voice.engines.base import EngineError

log = logging.getLogger("voice.workers")
DEAF_S = 3.5

Pieces = Iterator[Chunk]
Work = Callable[["Lease"], Pieces]


@dataclass
class Lease:
    """A job this process holds. One lock keeps its chunks in the order of their numbers."""

    job: Job
    reply_to: str
    bus: RedisWorkerBus
    cache: EngineCache
    began: float
    seq: int = -1
    said_at: float = 0.0

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def engine(self) -> Any:
        return self.cache.get(str(self.job.stage), self.job.engine, self.job.model)

    def say(self, chunk: Chunk) -> None:
        with self.lock:
            self.seq += 1
            self.said_at = time.monotonic()
            self.bus.send(self.job, self.reply_to, replace(chunk, job=self.job.id, attempt=self.job.attempt, seq=self.seq))

    def beat(self, now: float) -> Beat | None:
        """What there is to say of it when it has said nothing for a while: up to that number it has been sent."""
        with self.lock:
            if self.seq < 0 or now - self.said_at < BEAT_MS / 1000:
                return None
            self.said_at = now
            return self.job.id, self.job.attempt, self.seq


def piece(kind: ChunkKind, **fields: Any) -> Chunk:
    """A chunk whose job, attempt and number are filled in when it is said."""
    return Chunk("", 0, 0, kind, **fields)


class Runner:
    """Holds the jobs of one worker process."""

    def __init__(self, bus: RedisWorkerBus, cache: EngineCache, name: str, slots: int, restart: Callable[[], None] = lambda: None):
        """`restart` is called when work waits, this process has room, and nothing reaches it: its consumer is dead."""
        self.bus, self.cache, self.name, self.slots, self._restart = bus, cache, name, slots, restart
        self._taken, self._deaf_since = 0, 0.0
        self._active: dict[tuple[str, int], Lease] = {}
        self._stop = threading.Event()
        self._stages: set[str] = set()
        self.done = 0
        bus.active = lambda: [lease.job for lease in list(self._active.values())]
        self._thread = threading.Thread(target=self._beats, name="beats", daemon=True)
        self._thread.start()

    def serve(self, stage: str) -> None:
        self._stages.add(stage)

    def close(self) -> None:
        self._stop.set()
        self.cache.close()
        self.bus.close()

    def run(self, job: Job, reply_to: str, work: Work) -> None:
        """Do the job unless another attempt of it is newer, or it was cancelled. Never raises."""
        self._taken += 1
        try:
            if not self.bus.claim(job, reply_to, Chunk(job.id, job.attempt, 0, ChunkKind.STARTED)):
                return
            now = time.monotonic()
            lease = Lease(job, reply_to, self.bus, self.cache, now, seq=0, said_at=now)
            self._active[job.id, job.attempt] = lease
            try:
                self._hold(lease, work)
            finally:
                del self._active[job.id, job.attempt]
                self.bus.finish(job)
                self.done += 1
        except CONNECTION_ERRORS as error:
            log.warning("job %s: redis is away (%s); its session will open it again", job.id, error)

    def _hold(self, lease: Lease, work: Work) -> None:
        until = lease.began + lease.job.deadline_ms / 1000
        pieces = work(lease)
        try:
            for chunk in pieces:
                if self.bus.cancelled(lease.job):
                    break
                if time.monotonic() > until:
                    raise EngineError(f"not done within {lease.job.deadline_ms} ms", code="deadline_exceeded")
                lease.say(chunk)
        except EngineError as error:
            lease.say(piece(ChunkKind.FAILED, name=error.code, text=str(error), meta={"retryable": error.retryable}))
        except FeedTimeout as error:
            log.warning("job %s: %s", lease.job.id, error)
            lease.say(piece(ChunkKind.FAILED, name="feed_timeout", text=str(error)))
        except CONNECTION_ERRORS:
            raise
        except Exception:  # the edge of the process: an engine's own fault must not take the worker down
            log.exception("job %s of %s failed", lease.job.id, lease.job.engine)
            lease.say(piece(ChunkKind.FAILED, name="engine_error", text=f"The {lease.job.stage} engine failed.", meta={"retryable": True}))
        finally:
            pieces.close()
        if self.bus.cancelled(lease.job):  # nobody listens any more; said so that what the job held is known to be free
            lease.say(piece(ChunkKind.FAILED, name="cancelled"))

    def _beats(self) -> None:
        next_report = 0.0
        while not self._stop.wait(BEAT_MS / 1000 / 2):
            now = time.monotonic()
            try:
                self._beat(now)
                if now >= next_report:
                    next_report = now + 1.0
                    for stage in self._stages:
                        state = {"stage": stage, "busy": len(self._active), "slots": self.slots, "done": self.done, "at": time.time()}
                        self.bus.heartbeat(stage, self.name, state)
                    self._listen_for_work(now)
            except CONNECTION_ERRORS as error:
                log.warning("beats: redis is away (%s)", error)

    def _beat(self, now: float) -> None:
        due: dict[str, list[Beat]] = {}
        for lease in list(self._active.values()):
            if beat := lease.beat(now):
                due.setdefault(lease.reply_to, []).append(beat)
        for reply_to, beats in due.items():
            self.bus.beat(reply_to, beats)

    def _listen_for_work(self, now: float) -> None:
        """Celery's consumer was seen to stay deaf for good after Redis had been restarted under load (celery 5.6, kombu's Redis transport)."""
        taken, self._taken = self._taken, 0
        if taken or len(self._active) >= self.slots or not any(self.bus.waiting(stage) for stage in self._stages):
            self._deaf_since = 0.0
        elif not self._deaf_since:
            self._deaf_since = now
        elif now - self._deaf_since > DEAF_S:
            log.error("work waits and none of it arrives here: starting this worker anew")
            self._restart()
