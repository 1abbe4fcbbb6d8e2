"""Between a session and its connection of the moment: frames go out when they are kept, and come again to a connection that returns."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

import orjson

from voice.bus.sessions import SessionRecords
from voice.gateway.outbox import Outbox
from voice.gateway.recorder import RING_BYTES, RING_EVENTS

_POSITION = re.compile(r"event_resumed_(\d{1,15})_")


class Line:
    def __init__(self, session_id: str, records: SessionRecords):
        self._session_id, self._records = session_id, records
        self.outbox: Outbox | None = None
        self._held: list[tuple[int, str]] | None = None  # kept while the ring is read
        self._missed = self._missed_bytes = 0
        self._next = 0  # frames before this number were sent again to the connection of now

    @property
    def full(self) -> bool:
        """Nobody listens, and more would push out of the ring what was not heard."""
        return self.outbox is None and (self._missed >= RING_EVENTS * 9 // 10 or self._missed_bytes >= RING_BYTES * 9 // 10)

    def release(self, number: int, frames: list[str]) -> None:
        frames, number = frames[max(0, self._next - number) :], max(number, self._next)
        if self._held is not None:
            self._held += [(number + i, frame) for i, frame in enumerate(frames)]
        elif self.outbox is not None:
            for frame in frames:
                self.outbox.put(frame)
        else:
            self._missed += len(frames)
            self._missed_bytes += sum(map(len, frames))

    def detach(self) -> None:
        """What the connection did not take lies in the ring."""
        if self.outbox is not None:
            self.outbox.stop()
        self.outbox, self._held, self._missed, self._missed_bytes = None, None, 0, 0

    def attach(self, outbox: Outbox) -> None:
        """The first connection."""
        self.outbox = outbox

    async def resume(self, outbox: Outbox, created: dict[str, Any], last_event_id: str | None, told: Callable[[], int]) -> None:
        """`created` (a session.created without its replay), what came after `last_event_id`, then live frames. `told`: number of the first frame
        that may not be seen yet. Raises the errors of SessionRecords."""
        self._held, self._next = [], 0
        try:
            frames, end = await self._records.ring(self._session_id)
        except BaseException:
            self._held = None
            raise
        base = end - len(frames)
        end = min(end, told())
        frames = frames[: max(0, end - base)]
        base = min(base, end)
        start, gap = find(frames, base, last_event_id)
        created["event_id"] = f"event_resumed_{base + start}_{secrets.token_hex(5)}"  # says where the replay began, should it be the last event a client got
        created["resumption"] |= {"resumed": True, "replayed": len(frames) - start, "gap": gap}
        outbox.grant(sum(map(len, frames[start:])))
        outbox.put(orjson.dumps(created).decode())
        for frame in frames[start:]:
            outbox.put(frame)
        for number, frame in self._held:
            if number >= end:
                outbox.put(frame)
        self._held, self.outbox, self._missed, self._missed_bytes, self._next = None, outbox, 0, 0, end


def find(frames: list[str], base: int, last_event_id: str | None) -> tuple[int, bool]:
    """(index of the first frame to send again, are some lost?). `base`: number of the first frame."""
    if not last_event_id:
        return len(frames), False
    if told := _POSITION.match(last_event_id):
        index = int(told.group(1)) - base
        return max(0, min(len(frames), index)), index < 0
    mark = f'"event_id":{orjson.dumps(last_event_id[:64]).decode()}'
    for index in range(len(frames) - 1, -1, -1):
        if mark in frames[index]:
            return index + 1, False
    return 0, True
