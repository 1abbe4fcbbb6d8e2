"""The only file of the gateway that writes to the database: a bounded queue per session, emptied in the background.

A turn never waits for the database. What cannot be written is tried again with back-off until the session's end and then for
CLOSE_S more; what is lost even then is logged by name and id (never its text). A write that the database refuses for what it
holds is set aside at once, so that it does not hold up the others.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from django.db import DataError, IntegrityError, transaction
from django.db import Error as DatabaseError

from apps.conversations.services import item_save
from apps.tenants.context import Bound, in_tenant
from apps.usage.services import session_end, session_open, turn_record
from voice.core.effects import RecordTurn, SaveItem

log = logging.getLogger("voice.store")

QUEUE = 5000
BATCH = 50
CLOSE_S = 10.0
MAX_DELAY_S = 2.0


class Store:
    def __init__(self, tenant: Bound, session_id: str):
        self._tenant, self._session_id = tenant, session_id
        self._who: dict[str, str] = {}  # agent and key, for the ledger
        self._waiting: deque[Callable[[], None]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._batch = BATCH
        self._task = asyncio.create_task(self._write(), name=f"store {session_id}")

    def open(self, **fields: Any) -> None:
        self._who = {"agent_id": fields["agent_id"], "key_id": fields["key_id"]}
        self._put(functools.partial(session_open, session_id=self._session_id, **fields))

    def save_item(self, effect: SaveItem) -> None:
        self._put(functools.partial(item_save, session_id=self._session_id, item=effect.item, previous_item_id=effect.previous_item_id,
                                    deleted=effect.deleted))  # fmt: skip

    def record_turn(self, effect: RecordTurn) -> None:
        self._put(functools.partial(turn_record, session_id=self._session_id, turn=asdict(effect), **self._who))

    def end(self, reason: str, session_ms: int) -> None:
        self._put(functools.partial(session_end, session_id=self._session_id, reason=reason, session_ms=session_ms, **self._who))

    def _put(self, write: Callable[[], None]) -> None:
        if len(self._waiting) >= QUEUE:
            log.error("store: %s has %d writes waiting; dropped %s", self._session_id, QUEUE, _name(self._waiting.popleft()))
        self._waiting.append(write)
        self._wake.set()

    async def close(self) -> None:
        """Write what is left."""
        self._closing = True
        self._wake.set()
        try:
            await asyncio.wait_for(self._task, CLOSE_S)
        except TimeoutError:
            for write in self._waiting:
                log.error("store: %s: not written: %s", self._session_id, _name(write))

    async def _write(self) -> None:
        delay = 0.05
        while True:
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                await in_tenant(self._tenant, _apply, batch)
                delay, self._batch = 0.05, BATCH
            except (DataError, IntegrityError) as error:
                if len(batch) == 1:
                    log.error("store: %s: the database refuses %s: %s", self._session_id, _name(batch[0]), type(error).__name__)
                else:  # one of them is bad: find it by writing them one at a time
                    self._waiting.extendleft(reversed(batch))
                    self._batch = 1
            except (DatabaseError, OSError) as error:
                log.warning("store: %s: %s; trying again in %.2f s", self._session_id, type(error).__name__, delay)
                self._waiting.extendleft(reversed(batch))
                await asyncio.sleep(delay)
                delay = min(MAX_DELAY_S, delay * 2)


def _name(write: functools.partial) -> str:
    """Which write it is, without its content."""
    about = write.keywords.get("item") or write.keywords.get("turn") or {}
    return f"{write.func.__name__} {about.get('id') or about.get('turn_id') or ''}"


def _apply(batch: list[Callable[[], None]]) -> None:
    with transaction.atomic():
        for write in batch:
            write()
