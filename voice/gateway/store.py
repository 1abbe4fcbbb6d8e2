"""The only file of the gateway that writes to the database: a bounded queue per session, emptied in the background.

Sound never waits for the database; that a turn is over is told when it has the turn (recorder.py). What cannot be written is tried again with back-off
until the session's end and on until the session's journal in Redis has it, from which another process writes it later (resume.py, apps/usage/journal.py).
A write that the database refuses for what it holds is set aside at once, so that it does not hold up the others.
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
from apps.usage.services import turns_written

log = logging.getLogger("voice.store")

QUEUE = 5000
BATCH = 50
CLOSE_S = 10.0
HAND_OVER_S = 60.0
FIRST_DELAY_S, MAX_DELAY_S = 0.05, 1.0
PATIENCE_S = 2.0  # a write that takes longer: the database does not answer
REFUSALS = (DataError, IntegrityError, VivavoceError, TypeError, ValueError, KeyError)
WITHOUT_ORDER = ("open", "turn")  # kinds that may be written late: what is newer stays


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
    """`settled(upto)` is told when the database has all entries before that number, or will never take them; `ours()` says whether the session
    is still this process's to write; `refused(owed)` gets what the database will never take; `troubled()` is told when it does not answer."""

    def __init__(self, tenant: Bound, session_id: str, ours: Callable[[], bool], *, settled: Callable[[int], None], troubled: Callable[[], None],
                 refused: Callable[[Owed], None]):  # fmt: skip
        self._tenant, self._session_id, self._ours = tenant, session_id, ours
        self._settled, self._troubled, self._refused = settled, troubled, refused
        self.failing = False  # the database does not answer
        self._waiting: deque[Owed] = deque()
        self._wake = asyncio.Event()
        self._closing = self._handed_over = False
        self._batch = BATCH
        self._delay = FIRST_DELAY_S
        self._task = asyncio.create_task(self._write(), name=f"store {session_id}")
        self._task.add_done_callback(self._let_go)

    def put(self, number: int, kind: str, fields: dict[str, Any]) -> None:
        if len(self._waiting) >= QUEUE:  # a conversation's text before what is billed
            oldest = next((owed for owed in self._waiting if owed.kind not in WITHOUT_ORDER), self._waiting[0])
            self._waiting.remove(oldest)
            log.error("store: %s has %d writes waiting; dropped %s", self._session_id, QUEUE, oldest)
        self._waiting.append(Owed(number, kind, fields))
        self._wake.set()

    async def close(self) -> bool:
        """Write what is left. False when something is after CLOSE_S; it is tried on until `stop`."""
        self._closing = True
        self._wake.set()
        done, _ = await asyncio.wait({self._task}, timeout=CLOSE_S)
        return bool(done) and not self._waiting

    def stop(self) -> None:
        for owed in self._waiting:
            log.error("store: %s: not written: %s", self._session_id, owed)
        self._task.cancel()

    def _let_go(self, _: asyncio.Task) -> None:
        """Nothing is written any more: nobody is told, and nobody kept."""
        self._ours = self._settled = self._troubled = self._refused = lambda *told: False

    def hand_over(self) -> None:
        """Another process writes from now on. Turns that wait are written here too, for a client may have been told of them: twice counts once."""
        self._handed_over = self._closing = True
        self._wake.set()
        asyncio.get_running_loop().call_later(HAND_OVER_S, self._task.cancel)

    async def _write(self) -> None:
        while True:
            if self._handed_over:
                self._waiting = deque(owed for owed in self._waiting if owed.kind in WITHOUT_ORDER)
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
            elif not (self._handed_over or self._ours()):
                await asyncio.sleep(0.5)
            else:
                await self._try([self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))])

    async def _try(self, batch: list[Owed]) -> None:
        slow = asyncio.get_running_loop().call_later(PATIENCE_S, self._is_failing)
        try:
            await in_tenant(self._tenant, _apply, self._session_id, batch)
        except REFUSALS as error:
            if len(batch) == 1:
                log.error("store: %s: the database refuses %s: %s", self._session_id, batch[0], type(error).__name__)
                self._refused(batch[0])
                self._settled(batch[0].number + 1)
            else:  # one of them is bad: find it by writing them one at a time
                self._waiting.extendleft(reversed(batch))
                self._batch = 1
        except Exception as error:  # whatever it is, the writes must not end with it
            log.warning("store: %s: %s; trying again in %.2f s", self._session_id, type(error).__name__, self._delay)
            self._waiting.extendleft(reversed(batch))
            self._is_failing()
            await asyncio.sleep(self._delay)
            self._delay = min(MAX_DELAY_S, self._delay * 2)
        else:
            self.failing, self._delay, self._batch = False, FIRST_DELAY_S, BATCH
            self._settled(batch[-1].number + 1)
        finally:
            slow.cancel()

    def _is_failing(self) -> None:
        self.failing = True
        self._troubled()


async def turns_known(tenant: Bound, session_id: str, turn_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Those that are in the ledger already, with status, reason and usage, though the session's state knows nothing of it: Redis lost its
    last moments, and the gateway went with them."""
    try:
        return await asyncio.wait_for(in_tenant(tenant, turns_written, session_id, turn_ids), PATIENCE_S) if turn_ids else {}
    except (DatabaseError, OSError, TimeoutError) as error:  # then it ends a second time, which is not billed
        log.warning("store: %s: the ledger cannot be asked (%s)", session_id, type(error).__name__)
        return {}


def _apply(session_id: str, batch: list[Owed]) -> None:
    with transaction.atomic():
        for owed in batch:
            entry_write(session_id=session_id, kind=owed.kind, fields=owed.fields)
