"""The gateway's side of apps/usage/journal.py: a turn is put there before its client learns that it is done."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import orjson
import redis.asyncio
from django.conf import settings

from apps.usage.journal import JOURNAL, SEEN

log = logging.getLogger("voice.journal")
PUT_S = 2.0


class Journal:
    def __init__(self, url: str):
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=8, timeout=2, socket_timeout=2, socket_connect_timeout=1)
        self._redis = redis.asyncio.Redis.from_pool(pool)

    async def put(self, field: str, record: dict[str, Any]) -> bool:
        """False when Redis did not take it: then only this process knows of it until the database does."""
        return await self._try(lambda: self._redis.hset(JOURNAL, field, orjson.dumps({**record, "at": time.time()})), field)

    async def drop(self, fields: list[str]) -> None:
        """The database has them."""
        await self._try(lambda: self._redis.hdel(JOURNAL, *fields), fields[0])

    async def seen(self, records: dict[str, dict[str, Any]]) -> None:
        """These sessions are live, and have lasted so long."""
        now = time.time()
        await self._try(lambda: self._redis.hset(SEEN, mapping={s: orjson.dumps({**r, "at": now}) for s, r in records.items()}), "sessions")

    async def gone(self, session_id: str) -> None:
        await self._try(lambda: self._redis.hdel(SEEN, session_id), session_id)

    async def _try(self, call, what: str) -> bool:
        try:
            await asyncio.wait_for(call(), PUT_S)
            return True
        except (redis.RedisError, OSError, TimeoutError) as error:
            log.warning("journal: %s: %s", what, type(error).__name__)
            return False


_journal: Journal | None = None


def journal() -> Journal:
    """That of this process."""
    global _journal
    if _journal is None:
        _journal = Journal(settings.VOICE.REDIS_URL)
    return _journal
