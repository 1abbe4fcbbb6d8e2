"""Limits: requests and tokens a minute, audio minutes a day, sessions at once; for the installation, a tenant and a key.
Events a second and the size of a message are counted by the gateways alone (voice/gateway/pace.py).

Sliding windows live in Redis (`limits`), sessions in one sorted set a level whose members expire unless their gateway says every
few seconds that it still holds them. A number counts at most what the limit says, whoever races; with Redis away each process counts
for itself and says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import limits
import redis
from django.conf import settings
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from apps.apikeys.models import LIMIT_NAMES, ApiKey, ClientSecret
from apps.common.errors import InsufficientQuota, RateLimited, SessionLimitReached
from apps.tenants.models import Tenant

log = logging.getLogger("vivavoce.limits")
SLOT_TTL_S = 12.0  # a gateway that was killed frees its sessions after this
REST = "rest"


@dataclass(frozen=True, slots=True)
class Level:
    """One holder of limits: the installation ("all"), a tenant, a key. A missing name is no limit, 0 is nothing at all."""

    id: str
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """What counts for a key right now. `refused`: error code when it may not go on, else ""."""

    levels: tuple[Level, ...]  # key, tenant, installation
    refused: str = ""
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """The tightest level of one limit after a hit."""

    limit: int
    remaining: int
    reset_s: float


def tenant_values(tenant: Tenant) -> dict[str, int]:
    """Its limits. The resume window is the workspace's to choose, within what plan and operator allow."""
    values = {**settings.LIMITS, **tenant.entitlements, **tenant.override}
    if tenant.resume_seconds is not None:
        values["resume_seconds"] = min(tenant.resume_seconds, values.get("resume_seconds", tenant.resume_seconds))
    return values


def levels_of(tenant: Tenant, key: ApiKey | None) -> tuple[Level, ...]:
    own = (Level(key.id, key.limits),) if key and key.limits else ()
    return (*own, Level(tenant.id, tenant_values(tenant)), Level("all", settings.GLOBAL_LIMITS))


def standings(ids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Standing]:
    """(tenant id, key or client secret id) -> Standing, read in three queries. Call with the public schema bound."""
    tenants = Tenant.objects.in_bulk({t for t, _ in ids})
    keys = ApiKey.objects.in_bulk({k for _, k in ids})
    minted = ClientSecret.objects.in_bulk({k for _, k in ids} - set(keys))
    found = {}
    for tenant_id, key_id in ids:
        tenant, key = tenants.get(tenant_id), keys.get(key_id)
        if tenant is None or tenant.status != Tenant.Status.ACTIVE:
            found[tenant_id, key_id] = Standing((), "account_deactivated")
        elif key is None and key_id not in minted or key is not None and not key.usable:
            found[tenant_id, key_id] = Standing((), "invalid_api_key")
        else:
            found[tenant_id, key_id] = Standing(levels_of(tenant, key), capped=tenant.capped)
    return found


# Windows

MINUTE, DAY = limits.RateLimitItemPerMinute, limits.RateLimitItemPerDay
# name -> (kind of item, units of the counter per unit of the limit, error)
WINDOWS: dict[str, tuple[Any, int, type[RateLimited]]] = {
    "requests_per_minute": (MINUTE, 1, RateLimited),
    "tokens_per_minute": (MINUTE, 1, RateLimited),
    "audio_minutes_per_day": (DAY, 60, InsufficientQuota),  # counted in seconds
}
WORDS = {"requests_per_minute": "requests a minute", "tokens_per_minute": "tokens a minute", "audio_minutes_per_day": "minutes of audio a day",
         "concurrent_sessions": "sessions at once", "events_per_second": "events a second", "frame_kib": "KiB in one message"}  # fmt: skip
assert set(WORDS) == set(LIMIT_NAMES)


class Limiter:
    """Counts in Redis; thread-safe. Calls block for one round trip a level: on an event loop use a thread.

    `url`: for the library `limits`; `connect`: makes a redis-py client of the same server.
    """

    def __init__(self, url: str, connect: Callable[..., redis.Redis]):
        timeouts = {"socket_timeout": 1, "socket_connect_timeout": 1}
        self._redis = connect(**timeouts)
        self._take = self._redis.register_script(_TAKE)
        # the library's own Sentinel client takes no connections of others
        shared = storage_from_string(url, **(timeouts if url.startswith("redis+sentinel") else {"connection_pool": self._redis.connection_pool}))
        self._shared = (MovingWindowRateLimiter(shared), SlidingWindowCounterRateLimiter(shared))
        alone = MemoryStorage()
        self._alone = (MovingWindowRateLimiter(alone), SlidingWindowCounterRateLimiter(alone))
        self._slots: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._said = 0.0

    def spend(self, levels: tuple[Level, ...], name: str, cost: int = 1, scope: str = "") -> Window | None:
        """Count `cost` at every level, the key first. The tightest window; None = no limit. Raises RateLimited or InsufficientQuota."""
        return self._each(levels, name, scope, lambda strategy, item, key: strategy.hit(item, key, cost=cost))

    def check(self, levels: tuple[Level, ...], name: str, scope: str = "") -> Window | None:
        """Is anything left? What is counted afterwards (tokens) is refused when there is not."""
        return self._each(levels, name, scope, None)

    def count(self, levels: tuple[Level, ...], name: str, cost: int, scope: str = "") -> None:
        """Count what was used already, as far as the window takes it: the rest fills it."""
        for level, item, _ in self._items(levels, name):
            def fill(strategy, item=item, level=level):
                key = f"{scope}/{level.id}/{name}"
                left = strategy.get_window_stats(item, key).remaining if item.amount else 0
                return strategy.hit(item, key, cost=min(cost, left)) if left > 0 else True
            self._with(name, fill)

    def _each(self, levels, name, scope, hit) -> Window | None:
        """`hit` counts at one level; None: only look."""
        tightest = None
        for level, item, unit in self._items(levels, name):
            key = f"{scope}/{level.id}/{name}"
            good = bool(item.amount) and (hit is None or self._with(name, lambda s, item=item, key=key: hit(s, item, key)))
            stats = self._with(name, lambda s, item=item, key=key: s.get_window_stats(item, key)) if item.amount else None
            reset_s = max(0.0, stats.reset_time - time.time()) if stats else 60.0
            if not good or hit is None and stats.remaining < 1:
                error = WINDOWS[name][2]
                raise error(f"The limit of {item.amount // unit} {WORDS[name]} is reached; try again in {int(reset_s) + 1} s.", retry_after_s=int(reset_s) + 1)
            window = Window(item.amount // unit, stats.remaining // unit, reset_s)
            if tightest is None or window.remaining < tightest.remaining:
                tightest = window
        return tightest

    @staticmethod
    def _items(levels, name):
        kind, unit, _ = WINDOWS[name]
        for level in levels:
            if (value := level.values.get(name)) is not None:
                yield level, kind(value * unit), unit

    def _with(self, name: str, call):
        which = 0 if name == "requests_per_minute" else 1  # exact for single hits, a counter where the cost is large
        try:
            return call(self._shared[which])
        except redis.RedisError as error:
            self._say(error)
            return call(self._alone[which])

    def _say(self, error: Exception) -> None:
        if time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            log.warning("limits: redis is away (%s); this process counts for itself", type(error).__name__)

    # Sessions at once

    def enter(self, levels: tuple[Level, ...], session_id: str) -> None:
        """Take a place at every level, or at none. Raises SessionLimitReached."""
        wanted = [(f"limits:sessions:{lv.id}", lv.values["concurrent_sessions"], lv) for lv in levels if lv.values.get("concurrent_sessions") is not None]
        if not wanted:
            return
        try:
            full = int(self._take(keys=[k for k, _, _ in wanted], args=[time.time(), SLOT_TTL_S, session_id, *(n for _, n, _ in wanted)]))
        except redis.RedisError as error:
            self._say(error)
            full = self._enter_alone(wanted, session_id)
        if full:
            limit = wanted[full - 1][1]
            raise SessionLimitReached(f"The limit of {limit} {WORDS['concurrent_sessions']} is reached; end one, or try again.", retry_after_s=5)

    def _enter_alone(self, wanted, session_id: str) -> int:
        with self._lock:
            for i, (key, limit, _) in enumerate(wanted, 1):
                if session_id not in self._slots.get(key, {}) and len(self._slots.get(key, {})) >= limit:
                    return i
            for key, _, _ in wanted:
                self._slots.setdefault(key, {})[session_id] = time.time()
        return 0

    def hold(self, held: dict[str, tuple[Level, ...]]) -> None:
        """Say that these sessions live on; a place lost with Redis is taken again."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for session_id, levels in held.items():
                    for level in levels:
                        if level.values.get("concurrent_sessions") is not None:
                            pipe.zadd(f"limits:sessions:{level.id}", {session_id: time.time() + SLOT_TTL_S})
                            pipe.expire(f"limits:sessions:{level.id}", 60)
                pipe.execute()
        except redis.RedisError as error:
            self._say(error)

    def leave(self, levels: tuple[Level, ...], session_id: str) -> None:
        with self._lock:
            for members in self._slots.values():
                members.pop(session_id, None)
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for level in levels:
                    pipe.zrem(f"limits:sessions:{level.id}", session_id)
                pipe.execute()
        except redis.RedisError as error:
            self._say(error)

    def live(self, level_id: str) -> int:
        """How many sessions are held at a level now."""
        try:
            return self._redis.zcount(f"limits:sessions:{level_id}", time.time(), "+inf")
        except redis.RedisError:
            return len(self._slots.get(f"limits:sessions:{level_id}", {}))

    def live_ids(self, level_id: str) -> set[str]:
        """Which ones."""
        try:
            return {member.decode() for member in self._redis.zrangebyscore(f"limits:sessions:{level_id}", time.time(), "+inf")}
        except redis.RedisError:
            return set(self._slots.get(f"limits:sessions:{level_id}", {}))


# KEYS: one set a level. ARGV: now, ttl, session, the limit of each. Returns the first full level from 1, or 0.
_TAKE = """
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', ARGV[1])
  if not redis.call('ZSCORE', key, ARGV[3]) and redis.call('ZCARD', key) >= tonumber(ARGV[3 + i]) then return i end
end
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, ARGV[1] + ARGV[2], ARGV[3])
  redis.call('EXPIRE', key, 60)
end
return 0
"""

_limiter: Limiter | None = None


def limiter() -> Limiter:
    """That of this process."""
    global _limiter
    if _limiter is None:
        _limiter = Limiter(settings.COUNTERS_URL, settings.CONNECT_REDIS)
    return _limiter
