"""The only file of the gateway that writes to the database: a bounded queue per session, emptied in the background.

A turn never waits for the database. What cannot be written is tried again with back-off until the session's end and then for CLOSE_S more; after that it
stays in the session's journal in Redis, from which another process writes it later (resume.py, apps/usage/journal.py). A write that the database refuses for what it holds
is set aside at once, so that it does not hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import DataError, IntegrityError, transaction
from django.db import Error as DatabaseError

from apps.common.errors import VivavoceError
from apps.tenants.context import Bound, in_tenant
from apps.usage.journal import entry_write

log = logging.getLogger("voice.store")

QUEUE = 5000
BATCH = 50
CLOSE_S = 10.0
MAX_DELAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Owed:
    """One entry of a session's journal (apps/usage/journal.py)."""

    number: int
    kind: str
    fields: dict[str, Any]

    def __str__(self) -> str:
        """Which write it is, without its content."""
        about = self.fields.get("item") or self.fields.get("turn") or {}
        return f"{self.kind} {about.get('id') or about.get('turn_id') or ''}"


class Store:
    """`settled(upto)` is told when the database has all entries before that number; `ours()` says whether the session is still this process's to write."""

    def __init__(self, tenant: Bound, session_id: str, settled: Callable[[int], None], ours: Callable[[], bool]):
        self._tenant, self._session_id, self._settled, self._ours = tenant, session_id, settled, ours
        self._waiting: deque[Owed] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._batch = BATCH
        self._task = asyncio.create_task(self._write(), name=f"store {session_id}")

    def put(self, number: int, kind: str, fields: dict[str, Any]) -> None:
        if len(self._waiting) >= QUEUE:
            log.error("store: %s has %d writes waiting; dropped %s", self._session_id, QUEUE, self._waiting.popleft())
        self._waiting.append(Owed(number, kind, fields))
        self._wake.set()

    async def close(self) -> bool:
        """Write what is left. False when something is."""
        self._closing = True
        self._wake.set()
        try:
            await asyncio.wait_for(self._task, CLOSE_S)
        except TimeoutError:
            for owed in self._waiting:
                log.error("store: %s: not written: %s", self._session_id, owed)
        return not self._waiting

    def abandon(self) -> None:
        """Another process writes from now on."""
        self._waiting.clear()
        self._task.cancel()

    async def _write(self) -> None:
        delay = 0.05
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            if not self._ours():
                await asyncio.sleep(0.5)
                continue
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                await in_tenant(self._tenant, _apply, self._session_id, batch)
                delay, self._batch = 0.05, BATCH
                self._settled(batch[-1].number + 1)
            except (DataError, IntegrityError, VivavoceError) as error:
                if len(batch) == 1:
                    log.error("store: %s: the database refuses %s: %s", self._session_id, batch[0], type(error).__name__)
                    self._settled(batch[0].number + 1)
                else:  # one of them is bad: find it by writing them one at a time
                    self._waiting.extendleft(reversed(batch))
                    self._batch = 1
            except (DatabaseError, OSError) as error:
                log.warning("store: %s: %s; trying again in %.2f s", self._session_id, type(error).__name__, delay)
                self._waiting.extendleft(reversed(batch))
                await asyncio.sleep(delay)
                delay = min(MAX_DELAY_S, delay * 2)


def _apply(session_id: str, batch: list[Owed]) -> None:
    with transaction.atomic():
        for owed in batch:
            entry_write(session_id=session_id, kind=owed.kind, fields=owed.fields)
