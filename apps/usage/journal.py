"""What PostgreSQL is owed of live sessions lies in Redis, beside each session's state: what a killed gateway leaves behind, any process writes.

A gateway lays an entry there in the same step as the frame that tells its client of it (voice/gateway/recorder.py), and takes it away once the database has it.
All writes are idempotent, so that an entry written by two counts once. Keys: voice/bus/sessions.py.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import DataError, IntegrityError, ProgrammingError
from redis import Redis

from apps.common.errors import BadRequest
from apps.conversations.services import item_save, tracing_save
from apps.tenants.context import Bound, bound
from apps.usage.services import session_end, session_open, turn_record, usage_record

log = logging.getLogger("vivavoce.usage")
SESSIONS = "voice:sessions"  # sorted set: session -> until when it can be resumed if nobody holds it
REFUSED = "usage:refused"  # hash: what the database will never take, for an operator to look at
CALLS = "usage:calls"  # hash: req_… -> {"tenant": [id, schema, slug], "call": arguments of usage_record}: REST calls that are not in the ledger yet
GRACE_S = 15.0  # beyond a session's window, until a gateway that does not tell that it holds it counts as dead
REPLAY_AFTER_S = 15.0  # a gateway that lives has written by then, or tries still
LOST_AFTER_S = 60.0  # beyond the window: gateways clear such sessions away within seconds; this is for when there is none
PAGE = 200
REFUSALS = (DataError, IntegrityError, ProgrammingError, BadRequest)  # ProgrammingError: its workspace was erased

# kind of an entry -> what writes it
WRITES: dict[str, Callable[..., None]] = {"open": session_open, "tracing": tracing_save, "item": item_save, "turn": turn_record, "end": session_end}


def connection() -> Redis:
    return settings.CONNECT_REDIS(socket_timeout=5, socket_connect_timeout=2)


def entry_write(*, session_id: str, kind: str, fields: dict[str, Any]) -> None:
    """`fields`: JSON, the arguments of the kind's function; `at` in unix seconds."""
    at = {"at": datetime.fromtimestamp(fields["at"], UTC)} if "at" in fields else {}
    WRITES[kind](session_id=session_id, **{**fields, **at})


def replay(redis: Redis, older_than_s: float = REPLAY_AFTER_S) -> int:
    """Write what gateways owe that were not seen for so long; how many entries. Raises database and Redis errors: try again later."""
    of_sessions = sum(_pay(redis, session_id, about) for session_id, about, seen_at in _sessions(redis) if time.time() - seen_at >= older_than_s)
    return of_sessions + sum(_pay_call(redis, name, json.loads(kept), older_than_s) for name, kept in list(redis.hscan_iter(CALLS, count=PAGE)))


def close_lost(redis: Redis, older_than_s: float | None = None) -> int:
    """End the sessions that no gateway holds any more and whose window is over, with the time they were last seen to have lasted; how many."""
    done = 0
    for session_id, about, seen_at in list(_sessions(redis)):
        if time.time() - seen_at < (about["window_s"] + LOST_AFTER_S if older_than_s is None else older_than_s):
            continue
        _pay(redis, session_id, about)
        lasted = max(0, round((seen_at - about["began"]) * 1000))
        fields = {"reason": "lost", "session_ms": lasted, "agent_id": about["agent_id"], "key_id": about["key_id"], "at": seen_at}
        _write(redis, about, session_id, ["", "end", fields])
        redis.delete(*(f"{{{session_id}}}:{name}" for name in ("owner", "state", "ring", "journal")))
        redis.set(f"{{{session_id}}}:gone", about["tenant_id"], ex=86400)
        redis.zrem(SESSIONS, session_id)
        done += 1
    return done


def _sessions(redis: Redis):
    """(session, what is known of it, when its gateway was last seen)"""
    for name, until in redis.zscan_iter(SESSIONS, count=PAGE):
        session_id = name.decode()
        if about := redis.hget(f"{{{session_id}}}:state", "about"):
            about = json.loads(about)
            yield session_id, about, until - about["window_s"] - GRACE_S


def _pay(redis: Redis, session_id: str, about: dict[str, Any]) -> int:
    """Entries stay where they are, for the gateway that goes on with the session to count; those written here are noted."""
    state = f"{{{session_id}}}:state"
    base, known = (int(v or 0) for v in redis.hmget(state, "jbase", "jpaid"))
    entries = redis.lrange(f"{{{session_id}}}:journal", max(0, known - base), -1)
    for entry in entries:
        _write(redis, about, session_id, json.loads(entry))
    if entries:
        redis.hset(state, "jpaid", max(known, base) + len(entries))
    return len(entries)


def call_keep(redis: Redis, tenant: Bound, call: dict[str, Any]) -> None:
    """Before a REST call is written: whoever comes after this process writes it."""
    redis.hset(CALLS, call["session_id"], json.dumps({"tenant": [tenant.tenant_id, tenant.schema, tenant.slug], "call": call}))


def call_written(redis: Redis, call_id: str) -> None:
    redis.hdel(CALLS, call_id)


def _pay_call(redis: Redis, name: bytes, kept: dict[str, Any], older_than_s: float) -> int:
    call = kept["call"]
    if time.time() - call["at"] < older_than_s:
        return 0
    try:
        with bound(Bound(*kept["tenant"])):
            usage_record(**{**call, "at": datetime.fromtimestamp(call["at"], UTC)})
    except REFUSALS as error:
        log.error("usage: call %s is refused by the database: %s", call["session_id"], type(error).__name__)
        redis.hset(REFUSED, call["session_id"], json.dumps(kept))
    redis.hdel(CALLS, name)
    return 1


def _write(redis: Redis, about: dict[str, Any], session_id: str, entry: list[Any]) -> None:
    number, kind, fields = entry
    try:
        with bound(Bound(about["tenant_id"], about["schema"], about["slug"])):
            entry_write(session_id=session_id, kind=kind, fields=fields)
    except REFUSALS as error:
        log.error("usage: %s of %s is refused by the database: %s", kind, session_id, type(error).__name__)
        redis.hset(REFUSED, f"{session_id}/{number or kind}", json.dumps(entry))
