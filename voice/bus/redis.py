"""The bus over Redis: feeds in a stream per job, chunks in one stream per gateway process, cancels by pub/sub.

Streams keep what was sent while a reader was away; pub/sub does not, so a cancel also leaves a key that a worker reads
before it starts and after its listener had to reconnect. Redis 6.2 commands only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import redis

from voice.bus.post import CONNECTION_ERRORS, Post
from voice.core.jobs import Chunk, ChunkKind, Feed, Job

log = logging.getLogger("voice.bus")

Connect = Callable[..., Any]  # makes a client with these options: config.redis.connect or connect_async with its address
CANCEL_CHANNEL = "voice:cancel"
CHUNK, BEATS = b"c", b"b"  # names of what an entry of the stream of chunks holds
READ_S = 4  # a read waits so long for chunks
CHUNKS_MAXLEN = 20000
EXPIRE_S = 20 * 60  # of the keys of a job
FEED_MAXLEN = 4096
HEARD_S = 150  # of the input of a job that was read to its end

Beat = tuple[str, int, int]  # job, attempt, number of the last chunk

_encoder = msgspec.msgpack.Encoder()
_chunk = msgspec.msgpack.Decoder(Chunk)
_feed = msgspec.msgpack.Decoder(Feed)
_beats = msgspec.msgpack.Decoder(list[Beat])


class BusUnavailable(Exception):
    """Redis did not take it in time. Trying again may help."""


class FeedTimeout(Exception):
    """No input for a job within its deadline: the session is gone."""


def input_key(session_id: str, job_id: str, attempt: int) -> str:
    return f"{{{session_id}}}:{job_id}:in:{attempt}"


def feed_key(job: Job) -> str:
    return input_key(job.session, job.id, job.attempt)


def lease_key(job: Job) -> str:
    return f"{{{job.session}}}:{job.id}:lease"


def cancel_key(job: Job) -> str:
    return f"{{{job.session}}}:{job.id}:cancelled"


class RedisGatewayBus:
    """The asyncio side, one per gateway process. `message(job dict, reply_to)` gives the Celery queue and the message for it."""

    def __init__(self, connect: Connect, gateway_id: str, message: Callable[[dict, str], tuple[str, bytes]]):
        self._post = Post(connect, timeout_s=5, retries=3)
        self._reader = Post(connect, timeout_s=READ_S + 6, retries=0)
        self._redis = connect(max_connections=4, timeout=5, socket_timeout=5, socket_connect_timeout=2)
        self.stream = f"gw:{gateway_id}:chunks"
        self._message = message
        self._last: str | bytes = "0"
        self._deaf = False  # the last read failed

    def away(self, lately_s: float = 0.0) -> bool:
        """Redis does not answer, or did not within the last `lately_s` seconds: what workers say cannot be heard."""
        return self._deaf or self._post.mute(lately_s)

    async def start(self) -> None:
        await self._redis.delete(self.stream)

    async def close(self) -> None:
        try:
            await self._redis.delete(self.stream)
        except CONNECTION_ERRORS:
            log.warning("bus: the chunk stream stays until it expires")
        await self._redis.aclose()
        await self._post.close()
        await self._reader.close()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Every chunk, in stream order. Goes on where it was after Redis was away."""
        delay = 0.05
        while True:
            try:
                (answer,) = await self._reader.ask(("XREAD", "COUNT", 500, "BLOCK", READ_S * 1000, "STREAMS", self.stream, self._last))
                delay, self._deaf = 0.05, False
            except CONNECTION_ERRORS as error:
                self._deaf = True
                log.warning("bus: redis is away (%s), next try in %.2f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(0.5, delay * 2)
                continue
            for self._last, (name, value) in _rows(answer):
                if name == CHUNK:
                    yield _chunk.decode(value)
                else:
                    for beat in _beats.decode(value):
                        yield Chunk(*beat, ChunkKind.BEAT)

    async def open(self, job: Job, feeds: tuple[Feed, ...] = ()) -> None:
        """Input first, then the task, in one round trip. Raises BusUnavailable."""
        queue, message = self._message(job.to_dict(), self.stream)
        try:
            await self._post.ask(*_feeding(job, feeds), ("LPUSH", queue, message))
        except (*CONNECTION_ERRORS, redis.RedisError) as error:
            raise BusUnavailable(f"job {job.id} was not submitted: {error}") from error

    async def feed(self, job: Job, feed: Feed) -> None:
        """Raises BusUnavailable."""
        try:
            await self._post.ask(*_feeding(job, (feed,)))
        except (*CONNECTION_ERRORS, redis.RedisError) as error:
            raise BusUnavailable(f"job {job.id} was not fed: {error}") from error

    async def kept(self, key: str) -> bytes | None:
        """Sound kept for all gateways. Raises the errors of CONNECTION_ERRORS, as `keep` does."""
        return await self._redis.get(key)

    async def keep(self, key: str, pcm: bytes, seconds: int) -> None:
        await self._redis.set(key, pcm, ex=seconds)

    async def cancel(self, job: Job, reason: str) -> None:
        """Best effort: the session has dropped the job already, this only frees the worker."""
        key = feed_key(job)
        wake = ("XADD", key, "*", "x", reason)  # a worker that waits for input
        try:
            await self._post.ask(("PUBLISH", CANCEL_CHANNEL, job.id), ("SET", cancel_key(job), reason, "EX", EXPIRE_S), wake, ("EXPIRE", key, 60))
        except (*CONNECTION_ERRORS, redis.RedisError) as error:
            log.warning("bus: cancel of %s not sent: %s", job.id, error)


def _feeding(job: Job, feeds: tuple[Feed, ...]) -> list[tuple[Any, ...]]:
    key = feed_key(job)
    added = [("XADD", key, "MAXLEN", "~", FEED_MAXLEN, "*", "f", _encoder.encode(feed)) for feed in feeds]
    return [*added, ("EXPIRE", key, EXPIRE_S)] if added else []


def _rows(answer: Any) -> list[tuple[bytes, list[bytes]]]:
    """(id, [name, value]) of the one stream of an XREAD; RESP2 and RESP3 wrap them differently."""
    streams = answer.items() if isinstance(answer, dict) else answer or ()
    return [row for _, rows in streams for row in rows]


_CLAIM = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local held = tonumber(redis.call('GET', KEYS[1]) or '0')
if held >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('XADD', ARGV[3], 'MAXLEN', '~', ARGV[4], '*', 'c', ARGV[5])
redis.call('EXPIRE', ARGV[3], ARGV[2])
return 1
"""


class RedisWorkerBus:
    """The threads side, one per worker process."""

    def __init__(self, connect: Connect):
        self._redis = connect(socket_timeout=10, socket_connect_timeout=2, max_connections=256)
        self._claim = self._redis.register_script(_CLAIM)
        self._cancelled: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="cancels", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def claim(self, job: Job, reply_to: str, started: Chunk) -> bool:
        """Take the lease and say so in one step. False when this attempt is not the newest (a second delivery) or was cancelled."""
        arguments = [job.attempt, EXPIRE_S, reply_to, CHUNKS_MAXLEN, _encoder.encode(started)]
        return bool(self._claim(keys=[lease_key(job), cancel_key(job)], args=arguments))

    def send(self, job: Job, reply_to: str, chunk: Chunk) -> None:
        self._redis.xadd(reply_to, {CHUNK: _encoder.encode(chunk)}, maxlen=CHUNKS_MAXLEN, approximate=True)

    def beat(self, reply_to: str, beats: list[Beat]) -> None:
        """All that live, at once: fifty utterances at a time would be five hundred messages a second."""
        self._redis.xadd(reply_to, {BEATS: _encoder.encode(beats)}, maxlen=CHUNKS_MAXLEN, approximate=True)

    def feeds(self, job: Job, timeout_s: float) -> Iterator[Feed]:
        """Feeds in order until one is `last`; ends early when the job is cancelled. Raises FeedTimeout."""
        key, last, until, given = feed_key(job), "0", time.monotonic() + timeout_s, -1
        while not self.cancelled(job):
            if time.monotonic() > until:
                raise FeedTimeout(f"no input for {job.id} within {timeout_s:.0f} s")
            answer = self._redis.xread({key: last}, count=64, block=1000)
            for _, rows in answer:
                for entry_id, fields in rows:
                    last, until = entry_id, time.monotonic() + timeout_s
                    if b"x" in fields:
                        return self._mark(job.id)
                    feed = _feed.decode(fields[b"f"])
                    if feed.index <= given:  # written again by a gateway that did not hear of its first writing
                        continue
                    given = feed.index
                    yield feed
                    if feed.last:
                        # kept a while: should its gateway die now, another one hears the utterance again
                        self._redis.expire(key, HEARD_S)
                        return

    def cancelled(self, job: Job) -> bool:
        return job.id in self._cancelled

    def finish(self, job: Job) -> None:
        """The job is over here: what was kept for it may go."""
        with self._lock:
            self._cancelled.pop(job.id, None)

    def waiting(self, stage: str) -> int:
        """Jobs nobody has fetched yet."""
        return self._redis.llen(stage)

    def heartbeat(self, stage: str, name: str, fields: dict) -> None:
        """Say that this worker lives: key voice:worker:<stage>:<name>, JSON, gone after 3 s of silence."""
        self._redis.set(f"voice:worker:{stage}:{name}", msgspec.json.encode(fields), ex=3)

    def _listen(self) -> None:
        delay = 0.05
        while not self._stop.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(CANCEL_CHANNEL)
                    self._catch_up()
                    delay = 0.05
                    while not self._stop.is_set():
                        if message := pubsub.get_message(timeout=1.0):
                            self._mark(message["data"].decode())
            except CONNECTION_ERRORS as error:
                log.warning("bus: cancel listener lost redis (%s)", error)
                self._stop.wait(delay)
                delay = min(0.5, delay * 2)

    active: Callable[[], list[Job]] = staticmethod(lambda: [])  # set by the worker: the jobs it holds

    def _catch_up(self) -> None:
        for job in self.active():
            if self._redis.exists(cancel_key(job)):
                self._mark(job.id)

    def _mark(self, job_id: str) -> None:
        with self._lock:
            self._cancelled[job_id] = now = time.monotonic()
            if len(self._cancelled) > 2000:  # jobs of other workers
                self._cancelled = {j: at for j, at in self._cancelled.items() if now - at < 30}
