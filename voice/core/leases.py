"""The session's side of a job: which attempt counts, what it has been fed, when it was last heard of.

A worker holds a job as a lease. Silence for SILENT_LEASE_MS makes the session open the next attempt, at most
MAX_ATTEMPTS in all, each of which may be silent for twice as long as the one before (the machine may have too much to
do); lower attempts are dropped from then on. A job nobody took is not lost but waits, or went down with a worker that
had fetched it: the same attempt is handed out again (taken once, whoever comes first) until its wait is over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from voice.core.jobs import SILENT_LEASE_MS, Chunk, ChunkKind, Feed, Job
from voice.core.states import LEASE, LeaseState, advance

MAX_ATTEMPTS = 3  # two: on a starved machine a healthy worker was seen to fall silent twice in one answer
STUCK_S = 3.5  # a language model that says nothing for so long is given up where another can take over
STALL_S = 0.05  # a timer this late is ordinary


class Verdict(Enum):
    DROP = "drop"  # of a lower attempt, doubled or late
    GAP = "gap"  # something between is missing
    TAKE = "take"


@dataclass
class Lease:
    job: Job
    owner: str  # response id, or the item id of an utterance
    opened_at: float
    deadline: float  # monotonic seconds; moved by progress where the stage says so
    start_by: float  # handed out again then
    wait_until: float  # not begun by then: failed
    state: LeaseState = LeaseState.OPENED
    next_seq: int = 0
    heard_at: float = 0.0
    started_at: float = 0.0  # when the first attempt that spoke was taken by a worker
    feeds: list[Feed] = field(default_factory=list)

    def judge(self, chunk: Chunk, now: float) -> Verdict:
        """Count the chunk. BEAT carries the last seq and only shows life."""
        if self.state is LeaseState.ENDED or chunk.attempt != self.job.attempt:
            return Verdict.DROP
        if chunk.kind is ChunkKind.BEAT:
            if chunk.seq >= self.next_seq:
                return Verdict.GAP
            self.heard_at = now
            return Verdict.DROP
        if chunk.seq < self.next_seq:
            return Verdict.DROP
        if chunk.seq > self.next_seq:
            return Verdict.GAP
        self.next_seq += 1
        self.heard_at = now
        if self.state is LeaseState.OPENED:
            self.state = advance(LEASE, self.state, LeaseState.HELD)
            self.started_at = self.started_at or now
        return Verdict.TAKE

    def forgive(self, stalled_s: float) -> None:
        """The session's own process slept: beats may lie unread, so that time does not count as the worker's silence."""
        if stalled_s > STALL_S:
            self.heard_at += stalled_s
            self.start_by += stalled_s
            self.wait_until += stalled_s

    def lost(self, now: float) -> bool:
        """Silent for too long, or never taken."""
        if self.state is LeaseState.HELD:
            return now - self.heard_at > SILENT_LEASE_MS / 1000 * 2 ** (self.job.attempt - 1)
        return now > self.wait_until

    def stuck(self, now: float) -> bool:
        """Held for long, and nothing came of it: the worker lives, its engine does not answer."""
        return self.state is LeaseState.HELD and self.next_seq <= 1 and now - self.started_at > STUCK_S

    def unclaimed(self, now: float) -> bool:
        """Time to hand the job out again; from now on half as often."""
        if self.state is LeaseState.HELD or now <= self.start_by:
            return False
        self.start_by = now + 2 * (now - self.opened_at)
        return True

    def reopen(self, now: float, start_s: float, wait_s: float, to: tuple[str, str] | None = None, **params) -> Job | None:
        """The same job as attempt + 1 with changed params, `to` another (engine, model); None when there is no attempt left."""
        if to is None and self.job.attempt >= MAX_ATTEMPTS:
            return None
        engine, model = to or (self.job.engine, self.job.model)
        self.job = replace(self.job, attempt=self.job.attempt + 1, engine=engine, model=model, params={**self.job.params, **params})
        self.state = advance(LEASE, self.state, LeaseState.OPENED)
        self.next_seq, self.heard_at, self.opened_at = 0, now, now
        self.start_by, self.wait_until = now + start_s, now + wait_s
        return self.job

    def end(self) -> None:
        self.state = advance(LEASE, self.state, LeaseState.ENDED)
