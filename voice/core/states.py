"""States and their allowed changes, as tables. Nothing outside advance() changes a state."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class ResponseState(StrEnum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INCOMPLETE = "incomplete"


class LeaseState(StrEnum):
    OPENED = "opened"  # submitted, no worker has said anything
    HELD = "held"  # a worker is at it
    ENDED = "ended"  # done, failed, cancelled or given up: later chunks are dropped


class SessionState(StrEnum):
    LIVE = "live"
    CLOSED = "closed"


_FINAL = {ResponseState.COMPLETED, ResponseState.CANCELLED, ResponseState.FAILED, ResponseState.INCOMPLETE}
RESPONSE = {ResponseState.IN_PROGRESS: _FINAL, **{state: set() for state in _FINAL}}
LEASE = {
    LeaseState.OPENED: {LeaseState.HELD, LeaseState.OPENED, LeaseState.ENDED},
    LeaseState.HELD: {LeaseState.OPENED, LeaseState.ENDED},  # back to OPENED: attempt + 1
    LeaseState.ENDED: set(),
}
SESSION = {SessionState.LIVE: {SessionState.CLOSED}, SessionState.CLOSED: set()}

State = TypeVar("State", bound=StrEnum)


def advance(table: dict[State, set[State]], now: State, then: State) -> State:
    """`then`, if the table allows it. Raises ValueError naming both states otherwise."""
    if then not in table[now]:
        raise ValueError(f"{type(now).__name__} cannot go from {now} to {then}")
    return then
