"""What sessions send is in Redis before a client sees it, so that another gateway can go on exactly there.

One task per process writes for all its sessions, one round trip at a time (a group commit): while it waits, the next frames gather. With a batch go the
state they led to and what PostgreSQL is owed. Frames of input audio come nowhere near. With Redis away sessions go on from memory and are written anew
when it is back.

No client is told of a turn that could still be lost: what follows a turn's record waits until PostgreSQL has it; while PostgreSQL does not answer, Redis
is enough; while neither does, it waits. Nor is an answer heard in part that only this process knows of: without Redis its frames wait for the turn's end.
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
WRITE_BYTES = 2**17  # of frames in one round trip, and a record more: the others' frames wait so long
FEW_BYTES = 2**14  # a session with more frames than this to write comes after those with less
TOGETHER_S = 0.5  # what no frame tells of (work handed out, sound fed to it) goes with the next frame, or after so long
BACKLOG_BYTES = 2**19  # a session with more frames than this to write is not listened to for a moment
FLUSH_S = 3.0  # longer than a store is waited for (store.py: PATIENCE_S)
HOLD_S = 3.0  # between telling Redis that this process holds its sessions
GRACE_S = 15.0  # a gateway that does not tell it this long (beside a session's window) is dead
AGAIN_S = 0.5  # between tries while Redis is away
TURN = "turn"  # the kind of journal entry whose loss a client must never see (apps/usage/journal.py)
ERRORS = (*CONNECTION_ERRORS, redis.RedisError)


class Owner(Protocol):
    """The session a record is of."""

    session: Session

    def release(self, number: int, frames: list[str]) -> None:
        """These frames are kept; they may go out. `number`: of the first one."""

    def fenced(self) -> None:
        """Somebody else holds the session: stop, and write nothing more."""


class Debtor(Protocol):
    """Writes journal entries to PostgreSQL in their order (store.py)."""

    @property
    def failing(self) -> bool:
        """PostgreSQL does not answer."""

    def put(self, number: int, kind: str, fields: dict[str, Any]) -> None: ...


class Record:
    """The unwritten part of one session."""

    def __init__(self, session_id: str, owner: Owner, recorder: Recorder, store: Debtor):
        self.session_id, self._owner, self._recorder, self._store = session_id, owner, recorder, store
        self.token = secrets.token_hex(8)
        self.ver = self.seq = 0  # of the state; of the frames
        self.owed = self.paid = 0  # journal entries made; those PostgreSQL has
        self._handed = self._kept = 0  # of them: those the store was given; those Redis has, or need not have
        self.seed = True  # Redis has nothing of it
        self.held_at = clock.now()  # last heard that it is ours
        self.about: dict[str, Any] = {}
        self.over = False
        self.backlog = 0  # bytes of frames that were not let go
        self._frames: list[str] = []
        self._told = 0  # number of the next frame to let go
        self._turn = 0  # the frame put now may go once the entries before this number are safe: the last turn is among them
        self._turns: deque[int] = deque([0])  # such numbers, from the last one PostgreSQL has
        self._gates: deque[int] = deque()  # of every frame not yet let go
        self._ready: deque[str] = deque()  # frames taken, and not let go
        self._unkept = 0  # how many of the newest of them Redis does not have
        self._journal: dict[int, tuple[str, dict]] = {}  # made and not yet in PostgreSQL
        self._unwritten: list[int] = []  # of the journal: not yet in Redis
        self._items: set[str] = set()
        self._spent: list[str] = []
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
        self.owed = self._handed = self.paid
        self._told = self.seq
        for entry in saved.journal:
            number, kind, fields = orjson.loads(entry)
            self._journal[number] = (kind, fields)
            self.owed = self._kept = max(self.owed, number + 1)
            if kind == TURN:
                self._turn = self.owed
                self._turns.append(self._turn)
        self._hand(self.owed)

    # What the session did

    def put(self, frame: str) -> None:
        self._frames.append(frame)
        self.backlog += len(frame)
        self._gates.append(self._turn)
        self._recorder.wake(self)

    def changed(self, *items: str) -> None:
        """The state, and these items of the conversation."""
        self._dirty = True
        self._items.update(items)
        self._recorder.soon(self)

    def spent(self, key: str) -> None:
        """This key of the session goes with the next state, which does not need it: two megabytes a second of a hundred callers' sound, which Redis would
        hold for minutes and copy each time it tidies its log."""
        self._spent.append(key)
        self.changed()

    def moved(self) -> None:
        """Only more sound was sent."""
        self._progress = True

    def owe(self, kind: str, fields: dict[str, Any]) -> None:
        """A write to PostgreSQL (voice/gateway/store.py)."""
        self._journal[self.owed] = (kind, fields)
        self._unwritten.append(self.owed)
        self.owed += 1
        if kind == TURN:
            self._turn = self.owed
            self._turns.append(self._turn)
        self._recorder.wake(self)

    def settled(self, upto: int) -> None:
        """PostgreSQL has all entries before `upto`."""
        for number in range(self.paid, upto):
            self._journal.pop(number, None)
        self.paid = max(self.paid, upto)
        while len(self._turns) > 1 and self._turns[1] <= self.paid:
            self._turns.popleft()
        self._recorder.soon(self)
        self.open()

    # What may be told

    @property
    def safe(self) -> int:
        """Entries before this number outlive this process."""
        return max(self.paid, self._kept) if self._store.failing else self.paid

    @property
    def waiting(self) -> bool:
        """A client is not told yet what was written, or of a turn that was taken over."""
        return bool(self._ready) or self._turn > self.safe

    def open(self) -> None:
        """Let go what may be told by now."""
        safe, frames = self.safe, []
        nothing_open = self._turn <= self.paid and not self._owner.session.responses()
        while self._ready and self._gates[0] <= safe:
            if len(self._ready) <= self._unkept:
                if not (nothing_open or self._gates[0] < self._turns[0] <= self.paid):
                    break
                self._unkept -= 1
            self._gates.popleft()
            frames.append(self._ready.popleft())
        if frames and not self.over:
            self._told += len(frames)
            self.backlog -= sum(map(len, frames))
            self._owner.release(self._told - len(frames), frames)
        self._recorder.moved()

    @property
    def kept(self) -> bool:
        """Redis has all that PostgreSQL has not."""
        return self._kept >= self.owed

    @property
    def told(self) -> int:
        """Number of the first frame that no connection may see yet."""
        return self._told

    def hand_all(self) -> None:
        """Nothing more comes: PostgreSQL is to have it, whatever Redis says."""
        self._hand(self.owed)

    # Writing

    def take(self) -> Batch:
        """Everything since the last batch; it is ours again when it could not be written (`back`)."""
        if self.seed:
            self._dirty, self._progress = True, False
            self._items = {e.item["id"] for e in self._owner.session.context.conversation.entries()}
            self._params, self._unwritten = set(), sorted(self._journal)
            self._sizes.clear()
            self._size = 0
            self._unready()
        fields, drop = self._fields()
        journal = [orjson.dumps([n, *self._journal[n]]) for n in self._unwritten if n in self._journal]
        frames, self._frames, self._unwritten = self._frames, [], []
        spent, self._spent = self._spent, []
        for frame in frames:
            self._sizes.append(len(frame))
            self._size += len(frame)
        while len(self._sizes) > RING_EVENTS or self._size > RING_BYTES:
            self._size -= self._sizes.popleft()
        self.seq += len(frames)
        fields["seq"] = self.seq
        batch = Batch(self.session_id, self.token, self.ver, max(1, len(self._sizes)), self.paid, frames, fields, drop, journal, spent, self.seed,
                      clock.now() + self.about["window_s"] + GRACE_S)  # fmt: skip
        self._waiting = (batch, self.owed)
        return batch

    def _fields(self) -> tuple[dict[str, Any], list[str]]:
        session, fields, drop = self._owner.session, {}, []
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
        if self.over:
            return
        batch, owed = self._waiting
        if answer == FENCED:
            self.over = True
            return self._owner.fenced()
        if answer == LOST and not batch.seed:
            self._begin_anew()
            self._take_in(batch, False)
            return self._recorder.wake(self)
        self.ver, self.seed, self.held_at, self._kept = batch.ver + 1, False, clock.now(), owed
        self._take_in(batch, True)
        self._hand(owed)
        self.open()

    def heard(self, answer: int) -> None:
        """Whether it is still ours."""
        if self.over:
            return
        if answer == FENCED:
            self.over = True
            self._owner.fenced()
        elif answer == LOST:
            self._begin_anew()
            self._recorder.wake(self)
        else:
            self.held_at = clock.now()

    def unwritten(self) -> None:
        """Redis did not take the batch: the session goes on without."""
        if self.over:
            return
        batch, owed = self._waiting
        self._begin_anew()
        self._take_in(batch, False)
        self._hand(owed)
        self.open()

    def _begin_anew(self) -> None:
        """Redis has nothing of it, or is not to be trusted with it."""
        self.seed, self._kept = True, 0

    def _unready(self) -> None:
        """What nobody was told yet is written anew, too."""
        self._frames[:0] = self._ready
        self.seq -= len(self._ready)
        self._unkept = 0
        self._ready.clear()

    def _take_in(self, batch: Batch, kept: bool) -> None:
        self._ready += batch.frames
        self._unkept = 0 if kept else self._unkept + len(batch.frames)

    def _hand(self, upto: int) -> None:
        """To the store, each once: it writes them in their order."""
        for number in range(self._handed, upto):
            if number in self._journal:
                self._store.put(number, *self._journal[number])
        self._handed = max(self._handed, upto)


class Recorder:
    def __init__(self, records: SessionRecords):
        self.records = records
        self.away_since = 0.0  # Redis; 0: it is there
        self.all: dict[str, Record] = {}
        self.listeners: list[Callable[[bool], None]] = []  # told when Redis goes and comes
        self._due: dict[Record, None] = {}
        self._soon: set[Record] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run(), name="recorder"), asyncio.create_task(self._hold(), name="recorder hold")]

    def add(self, record: Record) -> None:
        self.all[record.session_id] = record

    def remove(self, record: Record) -> None:
        if self.all.get(record.session_id) is record:
            del self.all[record.session_id]
        self._due.pop(record, None)
        self._soon.discard(record)

    def wake(self, record: Record) -> None:
        if not record.over:
            self._due[record] = None
            self._wake.set()

    def soon(self, record: Record) -> None:
        """Within TOGETHER_S: the writes of a moment become one."""
        if not self._soon:
            asyncio.get_running_loop().call_later(TOGETHER_S, self._wake_all)
        self._soon.add(record)

    def _wake_all(self) -> None:
        for record in self._soon:
            self.wake(record)
        self._soon.clear()

    def moved(self) -> None:
        """A record got on: who waits for it looks again."""
        self._idle.set()

    async def flush(self, record: Record, seconds: float = FLUSH_S) -> None:
        """Until all of it is written, or Redis is away; and told, or PostgreSQL too."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if record in self._soon:
            self.wake(record)
        while (record in self._due or self._writing or record.waiting) and loop.time() < until:
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
            if not (records := self._next()):
                continue
            self._writing = True
            try:
                await self._write(records)
            except Exception:  # one session's fault must not stop the writing of all
                log.exception("recorder")
            self._writing = False
            self._idle.set()

    def _next(self) -> list[Record]:
        """Those due, as many as fit into one round trip: the one that waits longest, those with little to write, then the others."""
        records, size = [], 0
        first = next(iter(self._due), None)
        for record in sorted(self._due, key=lambda r: r is not first and r.backlog > FEW_BYTES):
            records.append(record)
            size += record.backlog
            if size > WRITE_BYTES:
                self._wake.set()
                break
        for record in records:
            del self._due[record]
            self._soon.discard(record)
        return records

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

