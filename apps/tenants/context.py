"""The bound tenant: one context variable that the database backend, cache keys, log lines and Celery headers read.

With nothing bound the backend refuses every query (NoTenantBound); public work says `with bound_public():`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

PUBLIC_SCHEMA = "public"
# Its own threads: those of asyncio count limits and encode sound, and must not wait for a database that does not answer
_threads = ThreadPoolExecutor(8, thread_name_prefix="database")
T = TypeVar("T")


class NoTenantBound(RuntimeError):
    """The database or a tenant's cache was asked for with no tenant bound: say `with bound(tenant):` or `bound_public()`."""


@dataclass(frozen=True, slots=True)
class Bound:
    tenant_id: str
    schema: str
    slug: str


PUBLIC = Bound("", PUBLIC_SCHEMA, "")
# Only while migrations run: the schema is what django-tenants' own commands set.
MIGRATING = Bound("", "", "")

_bound: ContextVar[Bound | None] = ContextVar("bound_tenant", default=None)


def bound_or_none() -> Bound | None:
    return _bound.get()


def current() -> Bound:
    """The bound tenant. Raises NoTenantBound when none is (the public schema is not a tenant)."""
    found = _bound.get()
    if found is None or not found.tenant_id:
        raise NoTenantBound("no tenant is bound; wrap the call in `with bound(tenant):`")
    return found


@contextmanager
def _binding(value: Bound) -> Iterator[Bound]:
    token = _bound.set(value)
    try:
        yield value
    finally:
        _bound.reset(token)


def bound(tenant: Any):
    """Bind a tenant: a `Bound`, or a Tenant row."""
    if not isinstance(tenant, Bound):
        tenant = Bound(tenant.id, tenant.schema_name, tenant.slug)
    return _binding(tenant)


def bound_public():
    return _binding(PUBLIC)


def migrating():
    return _binding(MIGRATING)


def label() -> str:
    """What log lines and cache keys carry: the tenant's id, "public" or "-" """
    found = _bound.get()
    return "-" if found is None else found.tenant_id or PUBLIC_SCHEMA


async def in_tenant(tenant: Any, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a database function for a tenant in one thread hop. It returns plain values, never lazy querysets."""
    with bound(tenant):
        return await _hop(functools.partial(function, *args, **kwargs))


async def in_public(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    with bound_public():
        return await _hop(functools.partial(function, *args, **kwargs))


async def _hop(function: Callable[[], T]) -> T:
    from channels.db import database_sync_to_async  # closes the connection (gives it back to the pool) after the call

    return await database_sync_to_async(function, thread_sensitive=False, executor=_threads)()


def rebind(tenant: Any) -> None:
    """Bind a tenant until the binding around this one ends: for a request whose tenant is known only after its key was read."""
    _bound.set(tenant if isinstance(tenant, Bound) else Bound(tenant.id, tenant.schema_name, tenant.slug))
