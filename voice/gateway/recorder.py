"""What sessions send is in Redis before a client sees it, so that another gateway can go on exactly there.

One task per process writes for all its sessions, one round trip at a time (a group commit): while it waits, the next frames gather. With a batch go the
state they led to and what PostgreSQL is owed. Frames of input audio come nowhere near. With Redis away sessions go on from memory and are written anew
when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import orjson
import redis
from django.conf import settings

from voice.bus.redis import CONNECTION_ERRORS
from voice.bus.sessions import FENCED, LOST, Batch, Saved, SessionRecords
from voice.core import snapshot
from voice.core.jobs import Stage
from voice.core.session import Session
from voice.gateway import clock

log = logging.getLogger("voice.recorder")
RING_EVENTS, RING_BYTES = 1000, 4 * 2**20
HOLD_S = 3.0  # between telling Redis that this process holds its sessions
GRACE_S = 15.0  # a gateway that does not tell it this long (beside a session's window) is dead
AGAIN_S = 0.5  # between tries while Redis is away
ERRORS = (*CONNECTION_ERRORS, redis.RedisError)


class Owner(Protocol):
    """The session a record is of."""

    session: Session

    def release(self, number: int, frames: list[str]) -> None:
        """These frames are kept; they may go out. `number`: of the first one."""

    def fenced(self) -> None:
        """Somebody else holds the session: stop, and write nothing more."""


class Record:
    """The unwritten part of one session."""

    def __init__(self, session_id: str, owner: Owner, recorder: Recorder, pay: Callable[[int, str, dict], None]):
        self.session_id, self._owner, self._recorder, self._pay = session_id, owner, recorder, pay
        self.token = secrets.token_hex(8)
        self.ver = self.seq = 0  # of the state; of the frames
        self.owed = self.paid = 0  # journal entries made; those PostgreSQL has
        self.seed = True  # Redis has nothing of it
        self.held_at = clock.now()  # last heard that it is ours
        self.about: dict[str, Any] = {}
        self.over = False
        self._frames: list[str] = []
        self._journal: dict[int, tuple[str, dict]] = {}  # made and not yet in PostgreSQL
        self._unwritten: list[int] = []  # of the journal: not yet in Redis
        self._items: set[str] = set()
        self._params: set[str] = set()  # jobs whose parameters are kept
        self._dirty = self._progress = False
        self._sizes: deque[int] = deque()
        self._size = 0

    def adopt(self, saved: Saved, token: str) -> None:
        """Go on with what another process wrote; what it still owed PostgreSQL is paid by us."""
        self.token, self.seed = token, False
        self.ver, self.seq, self.paid = int(saved.fields["ver"]), saved.seq, int(saved.fields.get("jbase", 0))
        self._params = set(saved.under("p:"))
        self._sizes = deque(map(len, saved.ring))
        self._size = sum(self._sizes)
        self.owed = self.paid
        for entry in saved.journal:
            number, kind, fields = orjson.loads(entry)
            self._journal[number] = (kind, fields)
            self.owed = max(self.owed, number + 1)
            self._pay(number, kind, fields)

    # What the session did

    def put(self, frame: str) -> None:
        self._frames.append(frame)
        self._recorder.wake(self)

    def changed(self, *items: str) -> None:
        """The state, and these items of the conversation."""
        self._dirty = True
        self._items.update(items)
        self._recorder.wake(self)

    def moved(self) -> None:
        """Only more sound was sent."""
        self._progress = True

    def owe(self, kind: str, fields: dict[str, Any]) -> None:
        """A write to PostgreSQL (voice/gateway/store.py)."""
        self._journal[self.owed] = (kind, fields)
        self._unwritten.append(self.owed)
        self.owed += 1
        self._recorder.wake(self)

    def settled(self, upto: int) -> None:
        """PostgreSQL has all entries before `upto`."""
        for number in range(self.paid, upto):
            self._journal.pop(number, None)
        self.paid = max(self.paid, upto)
        self._recorder.wake(self)

    # Writing

    def take(self) -> Batch:
        """Everything since the last batch; it is ours again when it could not be written (`back`)."""
        if self.seed:
            self._dirty, self._progress = True, False
            self._items = {e.item["id"] for e in self._owner.session.context.conversation.entries()}
            self._params, self._unwritten = set(), sorted(self._journal)
            self._sizes.clear()
            self._size = 0
        frames, self._frames = self._frames, []
        numbers, self._unwritten = self._unwritten, []
        for frame in frames:
            self._sizes.append(len(frame))
            self._size += len(frame)
        while len(self._sizes) > RING_EVENTS or self._size > RING_BYTES:
            self._size -= self._sizes.popleft()
        self.seq += len(frames)
        fields, drop = self._fields()
        journal = [orjson.dumps([n, *self._journal[n]]) for n in numbers if n in self._journal]
        batch = Batch(self.session_id, self.token, self.ver, max(1, len(self._sizes)), self.paid, frames, fields, drop, journal, self.seed,
                      clock.now() + self.about["window_s"] + GRACE_S)  # fmt: skip
        self._waiting = (batch, numbers)
        return batch

    def _fields(self) -> tuple[dict[str, Any], list[str]]:
        session, fields, drop = self._owner.session, {"seq": self.seq}, []
        if self._dirty:
            context = session.context
            for item_id in self._items:
                entry = context.conversation.get(item_id)
                if entry is None:
                    drop.append(f"i:{item_id}")
                else:
                    fields[f"i:{item_id}"] = orjson.dumps(snapshot.entry_dict(entry))
            wanted = {i: lease.job.params for i, lease in context.leases.items() if lease.job.stage is Stage.LLM}
            fields |= {f"p:{i}": orjson.dumps(params) for i, params in wanted.items() if i not in self._params}
            drop += [f"p:{i}" for i in self._params - set(wanted)]
            self._params = set(wanted)
            fields["head"] = orjson.dumps(snapshot.head_dict(session))
            drop.append("progress")
        elif self._progress and (found := snapshot.progress_dict(session)):
            fields["progress"] = orjson.dumps(found)
        if self.seed:
            fields["config"] = orjson.dumps(snapshot.config_dict(session.context.config))
            fields["about"] = orjson.dumps(self.about)
        self._items, self._dirty, self._progress = set(), False, False
        return fields, drop

    def written(self, answer: int) -> None:
        batch, numbers = self._waiting
        if answer == FENCED:
            self.over = True
            return self._owner.fenced()
        if answer == LOST and not batch.seed:
            self._back(batch, numbers)
            return self._recorder.wake(self)
        self.ver, self.seed, self.held_at = batch.ver + 1, False, clock.now()
        self._let_go(batch, numbers)

    def heard(self, answer: int) -> None:
        """Whether it is still ours."""
        if answer == FENCED:
            self.over = True
            self._owner.fenced()
        elif answer == LOST:
            self.seed = True
            self._recorder.wake(self)
        else:
            self.held_at = clock.now()

    def unwritten(self) -> None:
        """Redis did not take the batch: the session goes on without."""
        batch, numbers = self._waiting
        self.seed = True
        self._let_go(batch, numbers)

    def _back(self, batch: Batch, numbers: list[int]) -> None:
        self.seed = True
        self._frames[:0] = batch.frames
        self.seq -= len(batch.frames)

    def _let_go(self, batch: Batch, numbers: list[int]) -> None:
        if batch.frames:
            self._owner.release(self.seq - len(batch.frames), list(batch.frames))
        for number in numbers:
            if number in self._journal:
                self._pay(number, *self._journal[number])


class Recorder:
    def __init__(self, records: SessionRecords):
        self.records = records
        self.away_since = 0.0  # Redis; 0: it is there
        self.all: dict[str, Record] = {}
        self.listeners: list[Callable[[bool], None]] = []  # told when Redis goes and comes
        self._due: dict[Record, None] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(), name="recorder"), asyncio.create_task(self._hold(), name="recorder hold")]

    def add(self, record: Record) -> None:
        self.all[record.session_id] = record

    def remove(self, record: Record) -> None:
        if self.all.get(record.session_id) is record:
            del self.all[record.session_id]
        self._due.pop(record, None)

    def wake(self, record: Record) -> None:
        if not record.over:
            self._due[record] = None
            self._wake.set()

    async def flush(self, record: Record, seconds: float = 2.0) -> None:
        """Until all of it is written, or Redis is away."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (record in self._due or self._writing) and loop.time() < until:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.01, until - loop.time()))
            except TimeoutError:
                return

    _writing = False

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            records, self._due = list(self._due), {}
            if not records:
                continue
            self._writing = True
            try:
                await self._write(records)
            except Exception:  # one session's fault must not stop the writing of all
                log.exception("recorder")
            self._writing = False
            self._idle.set()

    async def _write(self, records: list[Record]) -> None:
        batches = []
        for record in list(records):
            try:
                batches.append(record.take())
            except Exception:
                log.exception("session %s cannot be written", record.session_id)
                records.remove(record)
        if self.away_since:
            for record in records:
                record.unwritten()
            return
        try:
            answers = await self.records.write(batches)
        except ERRORS as error:
            self._went_away(error)
            for record in records:
                record.unwritten()
            return
        for record, answer in zip(records, answers, strict=True):
            record.written(answer)

    async def _hold(self) -> None:
        """Say every few seconds that we are here; hear whether somebody took a session meanwhile."""
        while True:
            await asyncio.sleep(HOLD_S)
            held = [r for r in self.all.values() if not r.seed and not r.over]
            if not held or self.away_since:
                continue
            try:
                answers = await self.records.hold([(r.session_id, r.token, clock.now() + r.about["window_s"] + GRACE_S) for r in held])
            except ERRORS as error:
                self._went_away(error)
                continue
            for record, answer in zip(held, answers, strict=True):
                record.heard(answer)

    def _went_away(self, error: Exception) -> None:
        if not self.away_since:
            log.warning("redis is away (%s): sessions go on from memory and cannot be resumed", type(error).__name__)
            self.away_since = asyncio.get_running_loop().time()
            self._mending = asyncio.create_task(self._mend(), name="recorder mend")
            self._tell(True)

    async def _mend(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            try:
                await self.records.ping()
            except ERRORS:
                continue
            log.warning("redis is back")
            self.away_since = 0.0
            for record in self.all.values():
                record.seed = True
                self.wake(record)
            return self._tell(False)

    def _tell(self, away: bool) -> None:
        for listener in self.listeners:
            listener(away)


_recorder: Recorder | None = None


def shared_recorder() -> Recorder:
    """The recorder of this process."""
    global _recorder
    if _recorder is None:
        _recorder = Recorder(SessionRecords(settings.CONNECT_REDIS_ASYNC))
    return _recorder

