"""Redis by address: one server, or the master that Sentinels name.

    redis://:password@host:6379/0                             one server (rediss:// with TLS)
    redis+sentinel://:password@a:26379,b:26379/mymaster/0     the master `mymaster`, asked of the Sentinels anew after each loss

Every client of the project is made here, so that each of them follows a fail-over. A Redis Cluster is refused: Celery's
transport (kombu 5.7) cannot use one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import redis
import redis.asyncio

from config.env import BadSetting

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")
EXPECTED = "expected redis://…, rediss://… or redis+sentinel://:password@host:26379,host:26379/master/0"
SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Address:
    """One server when there are no `sentinels`."""

    url: str  # as it was given
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None

    @property
    def login(self) -> dict[str, str]:
        return {k: v for k, v in (("username", self.username), ("password", self.password)) if v}


def parse(url: str) -> Address:
    """Raises BadSetting, which says what is expected but not the value: it holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise BadSetting(f"REDIS_URL: {EXPECTED}; a Redis Cluster cannot be used, Celery's transport does not know it")
    if parts.scheme != "redis+sentinel":
        return Address(url)
    login, _, places = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    path = [part for part in parts.path.split("/") if part]
    try:
        sentinels = tuple(_host(place) for place in places.split(",") if place)
        db = int(path[1]) if len(path) > 1 else 0
    except ValueError:
        raise BadSetting(f"REDIS_URL: a port or database number is not a whole number; {EXPECTED}") from None
    if not sentinels or not path:
        raise BadSetting(f"REDIS_URL: no Sentinel or no master is named; {EXPECTED}")
    return Address(url, sentinels, path[0], db, unquote(username) or None, unquote(password) or None)


def _host(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    return (host, int(port)) if host else (port, SENTINEL_PORT)


def connect(url: str, **options: Any) -> redis.Redis:
    """A client for threads. `options` are redis-py's (socket_timeout, max_connections, …); clients with the same ones share their connections,
    which are as many as threads that ask at once."""
    return redis.Redis(connection_pool=_pool(url, **options))


@functools.cache
def _pool(url: str, **options: Any) -> redis.ConnectionPool:
    address = parse(url)
    if not address.sentinels:
        return redis.ConnectionPool.from_url(url, **options)
    sentinel = redis.Sentinel(address.sentinels, sentinel_kwargs=_timeouts(options))
    return sentinel.master_for(address.master, db=address.db, **address.login, **options).connection_pool


def connect_async(url: str, **options: Any) -> redis.asyncio.Redis:
    """A client for an event loop, used by many tasks at once: more than `max_connections` of them wait, at most `timeout` seconds.

    Behind Sentinels they do not wait but open more connections: redis-py's pool for them has no queue.
    """
    address, timeout = parse(url), options.pop("timeout", 5)
    if not address.sentinels:
        return redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool.from_url(url, timeout=timeout, **options))
    options.pop("max_connections", None)
    sentinel = redis.asyncio.Sentinel(address.sentinels, sentinel_kwargs=_timeouts(options))
    return sentinel.master_for(address.master, db=address.db, **address.login, **options)


def broker(url: str) -> tuple[str, dict[str, Any]]:
    """(Celery's broker URL, its transport options); from now on Celery's Redis is that of config/broker.py."""
    from config.broker import install  # Celery's: clients without it need not load it

    install()
    address = parse(url)
    if not address.sentinels:
        return url, {}
    login = f"{quote(address.username or '', safe='')}:{quote(address.password, safe='')}@" if address.password else ""
    url = ";".join(f"sentinel://{login}{host}:{port}/{address.db}" for host, port in address.sentinels)
    return url, {"master_name": address.master, "sentinel_kwargs": {"socket_timeout": 2, "socket_connect_timeout": 2}}


def counters_url(url: str) -> str:
    """For the library `limits`, which wants its Sentinels without a database number (and counts in database 0)."""
    address = parse(url)
    if not address.sentinels:
        return url
    login = f"{quote(address.username or '', safe='')}:{quote(address.password, safe='')}@" if address.password else ""
    return f"redis+sentinel://{login}{','.join(f'{host}:{port}' for host, port in address.sentinels)}/{address.master}"


def channel_hosts(url: str) -> list[Any]:
    """`hosts` of the channel layer."""
    address = parse(url)
    if not address.sentinels:
        return [url]
    return [{"sentinels": list(address.sentinels), "master_name": address.master, "db": address.db, **address.login}]


def _timeouts(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("socket_timeout", "socket_connect_timeout") if name in options}
