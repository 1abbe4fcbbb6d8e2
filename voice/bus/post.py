"""Commands of many tasks to Redis over one connection that is kept, one round trip at a time: while one is under way, the next gather.

A pipeline from a pool costs 110-137 µs of CPU, a round trip here 40, however many share it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import redis
import redis.asyncio
from hiredis import pack_command
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff

TOGETHER = 64  # askers of one round trip
CONNECT_S = 2.0
MUTE_S = 1.0  # a trip that has no answer for so long: Redis hangs, or the line to it does
CONNECTION_ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)  # TimeoutError is an OSError
_backoff = ExponentialBackoff(cap=0.5, base=0.02)


class Post:
    """`connect`: config.redis.connect_async with its address. A round trip may take `timeout_s`; what fails for the connection's sake is sent again
    `retries` times, so it must be safe to repeat."""

    def __init__(self, connect: Callable[..., redis.asyncio.Redis], timeout_s: float, retries: int = 1):
        once = Retry(NoBackoff(), 0)
        self._client = connect(max_connections=1, socket_connect_timeout=min(CONNECT_S, timeout_s), retry=once)  # only makes the connection
        self._timeout_s, self._retries = timeout_s, retries
        self._connection: Any = None
        self._waiting: deque[tuple[list[bytes], asyncio.Future]] = deque()  # one an asker, who waits for it: no longer than there are tasks
        self._under_way = self._closed = False
        self._left = 0.0  # when the trip under way began (monotonic); 0: there is none
        self._mute_at = float("-inf")  # when the last one that took MUTE_S ended
        self._task: asyncio.Task | None = None

    async def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The replies in order. Raises the errors of CONNECTION_ERRORS; redis.ResponseError when Redis refuses one of them (the others are done)."""
        packed = [pack_command(command) for command in commands]
        if self._under_way:
            asked = asyncio.get_running_loop().create_future()
            self._waiting.append((packed, asked))
            replies = await asked
        else:  # it goes there itself: two turns of the event loop less
            self._under_way = True
            try:
                replies = await self._trip(packed)
            finally:
                self._go_on()
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return replies

    def mute(self, lately_s: float = 0.0) -> bool:
        """Is the trip under way without an answer for MUTE_S, or was one within the last `lately_s` seconds?"""
        now = time.monotonic()
        return 0 < self._left < now - MUTE_S or now - self._mute_at < lately_s

    async def close(self) -> None:
        """Who waits is cancelled."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        for _, asked in self._waiting:
            asked.cancel()
        self._waiting.clear()
        await self._hang_up()
        await self._client.aclose()

    def _go_on(self) -> None:
        """With those who came meanwhile."""
        self._under_way = bool(self._waiting)
        if self._under_way:
            self._task = asyncio.create_task(self._carry(), name="post")

    async def _carry(self) -> None:
        try:
            while self._waiting:
                taken = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
                await self._carry_these(taken)
        finally:
            self._task = None
            self._go_on()

    async def _carry_these(self, taken: list[tuple[list[bytes], asyncio.Future]]) -> None:
        try:
            replies = await self._trip([packed for commands, _ in taken for packed in commands])
        except Exception as error:
            for _, asked in taken:
                if not asked.done():
                    asked.set_exception(error)
            return
        except asyncio.CancelledError:  # this end is closed
            for _, asked in taken:
                asked.cancel()
            raise
        at = 0
        for commands, asked in taken:
            if not asked.done():
                asked.set_result(replies[at : at + len(commands)])
            at += len(commands)

    async def _trip(self, packed: list[bytes]) -> list[Any]:
        self._left = time.monotonic()
        try:
            return await self._try(packed)
        finally:
            if self.mute():
                self._mute_at = time.monotonic()
            self._left = 0.0

    async def _try(self, packed: list[bytes]) -> list[Any]:
        for failures in count(1):
            if self._closed:
                raise asyncio.CancelledError
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._there_and_back(packed)
            except CONNECTION_ERRORS:
                await self._hang_up()
                if failures > self._retries and not self._closed:
                    raise
            except (Exception, asyncio.CancelledError):  # what was asked for is still on its way
                await self._hang_up()
                raise
            await asyncio.sleep(_backoff.compute(failures))

    async def _there_and_back(self, packed: list[bytes]) -> list[Any]:
        if self._connection is None:
            self._connection = self._client.connection_pool.make_connection()
            await self._connection.connect()
        connection, replies = self._connection, []
        await connection.send_packed_command(packed, check_health=False)
        for _ in packed:
            try:
                replies.append(await connection.read_response())
            except redis.ResponseError as error:
                replies.append(error)
        return replies

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
