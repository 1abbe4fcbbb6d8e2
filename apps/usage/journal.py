"""Turns that were heard and may not be in the ledger yet, in Redis: what a killed gateway leaves behind, any process writes.

A gateway puts a turn here before its client is told that the turn is done, and takes it away once the database has it
(voice/gateway/journal.py). All writes are idempotent, so that a turn written by both counts once.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DataError, IntegrityError, ProgrammingError
from redis import Redis

from apps.common.errors import BadRequest
from apps.tenants.context import Bound, bound
from apps.usage.services import session_end, session_open, turn_record

log = logging.getLogger("vivavoce.usage")
JOURNAL = "usage:journal"  # hash: "<session>/<turn>" -> {"tenant": [id, schema, slug], "open": {…}, "turn": {…} | "end": {…}, "at": seconds}
SEEN = "usage:seen"  # hash: session -> {"tenant": …, "open": …, "session_ms": …, "at": seconds}; each live session, every few seconds
REFUSED = "usage:refused"  # hash: what the database will never take, for an operator to look at
REPLAY_AFTER_S = 15.0  # a gateway that lives has written by then, or tries still
LOST_AFTER_S = 180.0  # a session nobody was seen to hold for so long is over: beyond the time in which it could be resumed
PAGE = 200


def connection() -> Redis:
    return Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=2)


def replay(redis: Redis, older_than_s: float = REPLAY_AFTER_S) -> int:
    """Write the turns and session ends that their gateway did not; how many. Raises database and Redis errors: try again later."""
    return _each(redis, JOURNAL, older_than_s, _write)


def close_lost(redis: Redis, older_than_s: float = LOST_AFTER_S) -> int:
    """End the sessions that no gateway holds any more, with the time they were last seen to have lasted."""
    def end(record: dict[str, Any]) -> None:
        _write({**record, "end": {"reason": "lost", "session_ms": record["session_ms"]}})

    return _each(redis, SEEN, older_than_s, end)


def _each(redis: Redis, name: str, older_than_s: float, act) -> int:
    done = 0
    for field, value in redis.hscan_iter(name, count=PAGE):
        record = json.loads(value)
        if time.time() - record["at"] < older_than_s:
            continue
        try:
            with bound(Bound(*record["tenant"])):
                act(record)
        except (DataError, IntegrityError, ProgrammingError, BadRequest) as error:  # ProgrammingError: its workspace was erased
            log.error("usage: %s is refused by the database: %s", field.decode(), type(error).__name__)
            redis.hset(REFUSED, field, value)
        redis.hdel(name, field)
        done += 1
    return done


def _write(record: dict[str, Any]) -> None:
    opened = record["open"]
    who = {"session_id": opened["session_id"], "agent_id": opened["agent_id"], "key_id": opened["key_id"], "at": datetime.fromtimestamp(record["at"], UTC)}
    session_open(**opened)
    if "turn" in record:
        turn_record(turn=record["turn"], session_ms=record["session_ms"], **who)
    else:
        session_end(**record["end"], **who)
