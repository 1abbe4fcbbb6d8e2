"""The only file of the gateway that writes to the database: a bounded queue per session, emptied in the background.

A turn never waits for the database. What cannot be written is tried again with back-off until the session's end and then for
CLOSE_S more. Turns and the session's end lie in the journal until they are written, so that what this process cannot write, or does
not live to, another one does; of the rest what is lost is logged by name and id (never its text). A write that the database refuses
for what it holds is set aside at once, so that it does not hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import DataError, IntegrityError, transaction
from django.db import Error as DatabaseError

from apps.common.errors import VivavoceError
from apps.conversations.services import item_save
from apps.tenants.context import Bound, in_tenant
from apps.usage.services import session_end, session_open, turn_record
from voice.core.effects import RecordTurn, SaveItem
from voice.gateway.journal import journal

log = logging.getLogger("voice.store")

QUEUE = 5000
BATCH = 50
CLOSE_S = 10.0
MAX_DELAY_S = 2.0


@dataclass(frozen=True, slots=True)
class Write:
    call: Callable[..., None]  # a service of the noun apps, safe to repeat
    values: dict[str, Any]
    name: str = ""  # for logs
    field: str = ""  # where it lies in the journal


class Store:
    def __init__(self, tenant: Bound, session_id: str):
        self._tenant, self._session_id = tenant, session_id
        self._opened: dict[str, Any] = {}  # what the session's row says
        self._who: dict[str, str] = {}  # agent and key, for the ledger
        self._waiting: deque[Write] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._batch = BATCH
        self._puts: set[asyncio.Task] = set()
        self._task = asyncio.create_task(self._write(), name=f"store {session_id}")

    def open(self, **fields: Any) -> None:
        self._opened = {"session_id": self._session_id, **fields}
        self._who = {"agent_id": fields["agent_id"], "key_id": fields["key_id"]}
        self._put(Write(session_open, self._opened, "session"))

    def save_item(self, effect: SaveItem) -> None:
        values = {"session_id": self._session_id, "item": effect.item, "previous_item_id": effect.previous_item_id, "deleted": effect.deleted}
        self._put(Write(item_save, values, f"item {effect.item['id']}"))

    def record_turn(self, effect: RecordTurn, session_ms: int) -> asyncio.Future:
        """Done when the turn is safe from this process' end. `session_ms`: how long the session has lasted."""
        values = {"turn": asdict(effect), "session_ms": session_ms}
        return self._put_safely(turn_record, values, values, effect.turn_id)

    def end(self, reason: str, session_ms: int) -> asyncio.Future:
        values = {"reason": reason, "session_ms": session_ms}
        return self._put_safely(session_end, values, {"end": values}, "end")

    def about(self, session_ms: int) -> dict[str, Any]:
        """What ends the session if nobody holds it any more; see Journal.seen."""
        return {**self._origin(), "session_ms": session_ms}

    def _origin(self) -> dict[str, Any]:
        tenant = self._tenant
        return {"tenant": [tenant.tenant_id, tenant.schema, tenant.slug], "open": self._opened}

    def _put_safely(self, call: Callable[..., None], values: dict[str, Any], record: dict[str, Any], name: str) -> asyncio.Future:
        """Queue it, and lay it into the journal until it is written."""
        field = f"{self._session_id}/{name}"
        self._put(Write(call, {"session_id": self._session_id, "at": datetime.now(UTC), **values, **self._who}, name, field))
        task = asyncio.create_task(journal().put(field, {**self._origin(), **record}), name="journal")
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)
        return task

    def _put(self, write: Write) -> None:
        if len(self._waiting) >= QUEUE:
            log.error("store: %s has %d writes waiting; dropped %s", self._session_id, QUEUE, self._waiting.popleft().name)
        self._waiting.append(write)
        self._wake.set()

    async def seen(self, session_ms: int) -> None:
        """Tell the journal that the session is live; the patrol says it again and again."""
        await journal().seen({self._session_id: self.about(session_ms)})

    async def close(self) -> None:
        """Write what is left."""
        self._closing = True
        self._wake.set()
        try:
            await asyncio.wait_for(self._task, CLOSE_S)
        except TimeoutError:
            for write in self._waiting:
                log.error("store: %s: not written: %s%s", self._session_id, write.name, " (it lies in the journal)" if write.field else "")
        await journal().gone(self._session_id)

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
                await self._written(batch)
            except (DataError, IntegrityError, VivavoceError) as error:
                if len(batch) == 1:
                    log.error("store: %s: the database refuses %s: %s", self._session_id, batch[0].name, type(error).__name__)
                else:  # one of them is bad: find it by writing them one at a time
                    self._waiting.extendleft(reversed(batch))
                    self._batch = 1
            except (DatabaseError, OSError) as error:
                log.warning("store: %s: %s; trying again in %.2f s", self._session_id, type(error).__name__, delay)
                self._waiting.extendleft(reversed(batch))
                await asyncio.sleep(delay)
                delay = min(MAX_DELAY_S, delay * 2)

    async def _written(self, batch: list[Write]) -> None:
        if fields := [write.field for write in batch if write.field]:
            await asyncio.gather(*self._puts)  # else one that comes late would stay
            await journal().drop(fields)


def _apply(batch: list[Write]) -> None:
    with transaction.atomic():
        for write in batch:
            write.call(**write.values)
