"""Cache keys that name their tenant, and a serializer without pickle."""

from __future__ import annotations

import functools

import msgspec
from django.conf import settings
from django.core.cache.backends.redis import RedisCache, RedisCacheClient

from apps.tenants.context import NoTenantBound, bound_or_none

KEY = "vivavoce:{schema}:{prefix}:{version}:{key}"


def make_key(key: str, key_prefix: str, version: int) -> str:
    """Raises NoTenantBound with nothing bound: a value must belong to somebody."""
    found = bound_or_none()
    if found is None or not found.schema:
        raise NoTenantBound(f"cache key {key!r} with no tenant bound; wrap the call in `with bound(tenant):`")
    return KEY.format(schema=found.schema, prefix=key_prefix, version=version, key=key)


class JsonSerializer:
    """For Django's Redis cache: JSON in place of pickle (integers stay bare so that incr works)."""

    def dumps(self, value):
        return value if type(value) is int else msgspec.json.encode(value)

    def loads(self, data):
        try:
            return int(data)
        except ValueError:
            return msgspec.json.decode(data)


class _Client(RedisCacheClient):
    """Django's, connected like every other client of the project."""

    def get_client(self, key=None, *, write=False):
        return _connection()


@functools.cache
def _connection():
    return settings.CONNECT_REDIS(socket_timeout=2, socket_connect_timeout=2)


class Cache(RedisCache):
    def __init__(self, server, params):
        super().__init__(server, params)
        self._class = _Client
