"""Sessions in Redis, so that any gateway can go on with one. All keys of a session share its hash tag:

`{sess_…}:owner`    token of the one process that may write (a gateway that slept writes nothing any more)
`{sess_…}:state`    hash: `about` (tenant, key, times), `config`, `head`, `i:<item>`, `p:<job>`, and the counters `ver`, `seq`, `jbase`
`{sess_…}:ring`     list of the newest outgoing frames; the last one is number `seq` - 1
`{sess_…}:journal`  list of what PostgreSQL is still owed; the first one is number `jbase`
`{sess_…}:gone`     who owned a session that is over
`voice:sessions`    sorted set of all: until when each can be resumed if nobody holds it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from voice.bus.post import Post
from voice.bus.redis import Connect, _feed
from voice.core.jobs import Feed, Job

KEEP_S = 6 * 3600  # when no gateway is left to care
GONE_S = 86400
ALL = "voice:sessions"
REFUSED = "usage:refused"  # as in apps/usage/journal.py
OK, FENCED, LOST = 1, 0, -1  # what a write answers: done, somebody else holds the session, Redis does not have it any more

_EXPIRE = """
local function alive(ttl) for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end end
"""
# KEYS: owner, state, ring, journal. ARGV: token, mode, ver, ttl, keep, jdone, frames…, fields and values…, fields to drop…, journal entries…, keys of the
# session that are not needed any more…, each list behind its length. mode "seed" writes everything anew.
_WRITE = _EXPIRE + """
local owner = redis.call('GET', KEYS[1])
local ver = tonumber(redis.call('HGET', KEYS[2], 'ver') or '-1')
local before = tonumber(ARGV[3])
if owner and owner ~= ARGV[1] then return 0 end
if ARGV[2] == 'seed' then
  redis.call('SET', KEYS[1], ARGV[1])
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
else
  if not owner or ver < before then return -1 end
  if ver > before then return 1 end
end
local at = 7
local function each(step, call)
  local n = tonumber(ARGV[at])
  for i = at + 1, at + n, step do call(i) end
  at = at + n + 1
end
each(1, function(i) redis.call('RPUSH', KEYS[3], ARGV[i]) end)
redis.call('LTRIM', KEYS[3], -tonumber(ARGV[5]), -1)
each(2, function(i) redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end)
each(1, function(i) redis.call('HDEL', KEYS[2], ARGV[i]) end)
each(1, function(i) redis.call('RPUSH', KEYS[4], ARGV[i]) end)
each(1, function(i) redis.call('UNLINK', ARGV[i]) end)
local done = tonumber(ARGV[6])
local base = tonumber(redis.call('HGET', KEYS[2], 'jbase') or '0')
if done > base then
  if ARGV[2] ~= 'seed' then redis.call('LTRIM', KEYS[4], done - base, -1) end
  redis.call('HSET', KEYS[2], 'jbase', done)
end
redis.call('HSET', KEYS[2], 'ver', before + 1)
alive(ARGV[4])
return 1
"""
_HOLD = _EXPIRE + """
local owner = redis.call('GET', KEYS[1])
if not owner then return -1 end
if owner ~= ARGV[1] then return 0 end
alive(ARGV[2])
redis.call('ZADD', ARGV[3], ARGV[4], ARGV[5])
return 1
"""
_DROP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[5], ARGV[2], 'EX', ARGV[3])
return 1
"""


@dataclass(slots=True)
class Batch:
    """What changed in one session since its last write."""

    session_id: str
    token: str
    ver: int
    keep: int = 1000  # frames left in the ring
    jdone: int = 0  # journal entries PostgreSQL has
    frames: Sequence[str] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    drop: Sequence[str] = ()
    journal: Sequence[bytes] = ()
    spent: Sequence[str] = ()  # keys with the session's hash tag that its state, with this, does not need any more
    seed: bool = False
    until: float = 0.0  # with `seed`: until when it can be resumed if we are not heard of again


@dataclass(slots=True)
class Saved:
    """A session as another process left it. `fields` of the state as bytes."""

    fields: dict[str, bytes]
    ring: list[str]
    journal: list[bytes]

    def json(self, name: str) -> Any:
        return msgspec.json.decode(self.fields[name])

    def under(self, prefix: str) -> dict[str, Any]:
        return {k[len(prefix) :]: msgspec.json.decode(v) for k, v in self.fields.items() if k.startswith(prefix)}

    @property
    def seq(self) -> int:
        return int(self.fields["seq"])


def _keys(session_id: str) -> list[str]:
    return [f"{{{session_id}}}:{name}" for name in ("owner", "state", "ring", "journal")]


class SessionRecords:
    """Raises the errors of CONNECTION_ERRORS and redis.RedisError."""

    def __init__(self, connect: Connect):
        retry = Retry(ExponentialBackoff(cap=0.1, base=0.02), 1)
        self._post = Post(connect, timeout_s=1.5)
        self._redis = connect(max_connections=8, timeout=1, socket_timeout=1.5, socket_connect_timeout=1, retry=retry)
        self._write, self._hold, self._drop = (self._redis.register_script(text) for text in (_WRITE, _HOLD, _DROP))

    async def close(self) -> None:
        await self._redis.aclose()
        await self._post.close()

    async def ping(self) -> None:
        await self._redis.ping()

    async def write(self, batches: Sequence[Batch]) -> list[int]:
        """Each batch whole or not at all, in one round trip: OK, FENCED or LOST for each."""
        if new := {b.session_id: b.until for b in batches if b.seed}:
            await self._redis.zadd(ALL, new)
        return await self._scripts(self._write, [(_keys(b.session_id), _arguments(b)) for b in batches])

    async def hold(self, held: Sequence[tuple[str, str, float]]) -> list[int]:
        """(session, token, unix time until which it can be resumed without us): that we are here."""
        return await self._scripts(self._hold, [(_keys(s), [token, KEEP_S, ALL, until, s]) for s, token, until in held])

    async def _scripts(self, script, calls) -> list[int]:
        for _ in range(2):
            try:
                return await self._post.ask(*(("EVALSHA", script.sha, len(keys), *keys, *arguments) for keys, arguments in calls))
            except redis.exceptions.NoScriptError:  # Redis is a new one
                await self._redis.script_load(script.script)
        raise redis.RedisError("scripts do not stay loaded")

    async def about(self, session_id: str) -> tuple[dict[str, Any] | None, str | None, float]:
        """(what is known of the session, the owner of one that is over, until when it can be resumed)."""
        state, gone = _keys(session_id)[1], f"{{{session_id}}}:gone"
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(state, "about")
            pipe.get(gone)
            pipe.zscore(ALL, session_id)
            about, owner, until = await pipe.execute()
        return msgspec.json.decode(about) if about else None, owner.decode() if owner else None, until or 0.0

    async def take(self, session_id: str, token: str) -> Saved | None:
        """From now on only `token` writes. None when there is nothing."""
        owner, state, ring, journal = _keys(session_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(owner, token, ex=KEEP_S)
            pipe.hgetall(state)
            pipe.lrange(ring, 0, -1)
            pipe.lrange(journal, 0, -1)
            _, fields, frames, entries = await pipe.execute()
        if not fields:
            await self._redis.delete(owner)
            return None
        return Saved({k.decode(): v for k, v in fields.items()}, [f.decode() for f in frames], entries)

    async def ring(self, session_id: str) -> tuple[list[str], int]:
        """(the frames kept, the number after the last one)."""
        _, state, ring, _ = _keys(session_id)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.lrange(ring, 0, -1)
            pipe.hget(state, "seq")
            frames, seq = await pipe.execute()
        return [f.decode() for f in frames], int(seq or 0)

    async def heard(self, job: Job) -> tuple[Feed, ...]:
        """All a speech recognition job had been fed, over its attempts the newest."""
        for attempt in range(job.attempt, 0, -1):
            rows = await self._redis.xrange(f"{{{job.session}}}:{job.id}:in:{attempt}")
            if feeds := tuple(_feed.decode(fields[b"f"]) for _, fields in rows if b"f" in fields):
                return feeds
        return ()

    async def leave(self, session_id: str, until: float) -> None:
        """Nobody holds it now; it can be resumed until then."""
        await self._redis.zadd(ALL, {session_id: until})

    async def abandoned(self, now: float, count: int = 20) -> list[str]:
        """Sessions nobody came back for."""
        return [s.decode() for s in await self._redis.zrangebyscore(ALL, "-inf", now, start=0, num=count)]

    async def claim_abandoned(self, session_id: str, seconds: int) -> bool:
        """One gateway at a time clears a session away."""
        return bool(await self._redis.set(f"{{{session_id}}}:sweep", "1", nx=True, ex=seconds))

    async def set_aside(self, name: str, entry: bytes) -> None:
        """What PostgreSQL will never take, for an operator to look at."""
        await self._redis.hset(REFUSED, name, entry)

    async def forget(self, session_id: str, token: str, owner: str) -> None:
        """The session is over and written: only who it belonged to is kept, for those who ask for it."""
        await self._drop(keys=[*_keys(session_id), f"{{{session_id}}}:gone"], args=[token, owner, GONE_S])
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zrem(ALL, session_id)
            pipe.delete(f"{{{session_id}}}:sweep", f"{{{session_id}}}:tape")
            await pipe.execute()


def _arguments(batch: Batch) -> list[Any]:
    pairs = [part for name, value in batch.fields.items() for part in (name, value)]
    return [batch.token, "seed" if batch.seed else "write", batch.ver, KEEP_S, batch.keep, batch.jdone, len(batch.frames), *batch.frames, len(pairs), *pairs,
            len(batch.drop), *batch.drop, len(batch.journal), *batch.journal, len(batch.spent), *batch.spent]  # fmt: skip
