"""Circuit breakers of engines, shared by all gateways over Redis (protocol section 9, degraded mode).

An engine that failed FAILURES times in a row is left alone for OPEN_S; then one gateway lets one piece of work through (half open), whose outcome closes the
breaker or leaves the engine alone again. Every process keeps a copy that is at most WATCH_S old, so that choosing an engine asks nobody. With Redis away each
process has breakers of its own.

`voice:breakers`            hash: "stage/engine/model" -> {"since", "retry_at"} of those that are open
`voice:breaker:<engine>:…`  failures in a row (expires), and who probes
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import redis.asyncio
from django.conf import settings

from voice.bus.redis import CONNECTION_ERRORS, Connect

log = logging.getLogger("voice.breakers")
FAILURES = 3
FORGET_S = 20  # failures further apart than this do not add up
OPEN_S = 5.0
WATCH_S = 1.0
OPEN = "voice:breakers"
ERRORS = (*CONNECTION_ERRORS, redis.RedisError)


@dataclass(frozen=True, slots=True)
class Open:
    since: float  # unix seconds
    retry_at: float


Engine = tuple[str, str, str]  # stage, engine, model


class Breakers:
    def __init__(self, connect: Connect):
        self._redis = connect(socket_timeout=1, socket_connect_timeout=1, max_connections=8)
        self.open: dict[Engine, Open] = {}
        self.listeners: list[Callable[[Engine, Open | None], None]] = []  # told when one opens, and (None) closes
        self._failures: dict[Engine, int] = {}
        self._probes: set[Engine] = set()
        self._tasks: set[asyncio.Task] = set()
        self._spawn(self._watch())

    def healthy(self, engine: Engine) -> bool:
        """May work go to it? A half-open breaker says so once."""
        if engine not in self.open:
            return True
        if engine in self._probes:
            self._probes.discard(engine)
            return True
        return False

    def worked(self, engine: Engine) -> None:
        if self._failures.pop(engine, 0) or engine in self.open:
            self._close(engine)
            self._spawn(self._share(lambda pipe: (pipe.hdel(OPEN, _name(engine)), pipe.delete(_key(engine, "failures"), _key(engine, "probe")))))

    def failed(self, engine: Engine) -> None:
        self._failures[engine] = self._failures.get(engine, 0) + 1
        self._spawn(self._count(engine))

    async def _count(self, engine: Engine) -> None:
        failures = self._failures.get(engine, 0)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.incr(_key(engine, "failures"))
                pipe.expire(_key(engine, "failures"), FORGET_S)
                failures = max(failures, (await pipe.execute())[0])
        except ERRORS:
            pass
        if failures >= FAILURES or engine in self.open:
            now = time.time()
            known = self.open.get(engine)
            state = Open(known.since if known else now, now + OPEN_S)
            self._note(engine, state)
            await self._share(lambda pipe: pipe.hset(OPEN, _name(engine), orjson.dumps({"since": state.since, "retry_at": state.retry_at})))

    async def _share(self, fill) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                fill(pipe)
                await pipe.execute()
        except ERRORS as error:
            log.warning("breakers: not shared (%s)", type(error).__name__)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                found = {tuple(k.decode().split("/", 2)): Open(**orjson.loads(v)) for k, v in (await self._redis.hgetall(OPEN)).items()}
                for engine in set(self.open) - set(found):
                    self._close(engine)
                for engine, state in found.items():
                    self._note(engine, state)
                    if time.time() >= state.retry_at and await self._redis.set(_key(engine, "probe"), "1", nx=True, px=round(OPEN_S * 1000)):
                        self._probes.add(engine)
            except ERRORS:
                for engine, state in self.open.items():
                    if time.time() >= state.retry_at:
                        self._probes.add(engine)

    def _note(self, engine: Engine, state: Open) -> None:
        new = engine not in self.open
        self.open[engine] = state
        if new:
            log.warning("%s is left alone: it failed %d times in a row", _name(engine), FAILURES)
            self._tell(engine, state)

    def _close(self, engine: Engine) -> None:
        self._failures.pop(engine, None)
        self._probes.discard(engine)
        if self.open.pop(engine, None):
            log.warning("%s works again", _name(engine))
            self._tell(engine, None)

    def _tell(self, engine: Engine, state: Open | None) -> None:
        for listener in self.listeners:
            listener(engine, state)

    def _spawn(self, coroutine) -> None:
        task = asyncio.create_task(coroutine, name="breakers")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _name(engine: Engine) -> str:
    return "/".join(engine)


def _key(engine: Engine, what: str) -> str:
    return f"voice:breaker:{_name(engine)}:{what}"


_breakers: Breakers | None = None


def breakers() -> Breakers:
    """Those of this process; its first session starts them."""
    global _breakers
    if _breakers is None:
        _breakers = Breakers(settings.CONNECT_REDIS_ASYNC)
    return _breakers
