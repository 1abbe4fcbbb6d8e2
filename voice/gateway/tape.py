"""Speech under way is kept in Redis (voice/bus/tapes.py), so that a killed gateway costs no more of it than its last quarter of a second.

One task per process looks at all its sessions; the audio path knows nothing of it. Silence is not kept, only how much of it there was.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import redis
from django.conf import settings

from voice.bus.redis import CONNECTION_ERRORS
from voice.bus.tapes import NOT_OURS, WRITTEN, Piece, Tapes
from voice.gateway import clock

if TYPE_CHECKING:
    from voice.gateway.live import Live

log = logging.getLogger("voice.tape")
LOOK_S = 0.25
CLOCK_LOOKS = 4  # in silence the clock alone is written once a second
PIECE = 480_000  # bytes (10 s) a session at a time
ONSET = 24000  # bytes (0.5 s): speech may have begun there that was not noticed yet
AT_ONCE = 16  # sessions a round trip: others get their turn between
SLICE = 48000  # bytes of audio (1 s) heard again before others get their turn
ERRORS = (*CONNECTION_ERRORS, redis.RedisError)


class Mark:
    """How far the tape of one session is."""

    def __init__(self, live: Live):
        self.live = live
        self.heard = self.upto = 0  # bytes since the session's start: seen; kept
        self.start: int | None = None  # where the tape begins; None: there is none

    def piece(self, tell_clock: bool) -> Piece | None:
        """What is to be written now."""
        turns = self.live.session.turns
        buffer, wanted = turns.buffer, turns.wanted_from
        stale = wanted is None and self.start is not None  # it was committed or cleared: gone from Redis, too
        if self.live.over or self.live.record.seed or not stale and (buffer.end == self.heard or wanted is None and not tell_clock):
            return None
        self.heard = buffer.end
        piece = Piece(self.live.id, self.live.record.token, buffer.end)
        if wanted is None:
            piece.heard, piece.anew = max(0, buffer.end - ONSET), stale
        else:
            piece.anew = self.start != wanted  # another utterance, or what is left after a commit
            piece.start, pcm = buffer.since(wanted if piece.anew else self.upto)
            piece.pcm = pcm[:PIECE]
            piece.heard = piece.start + len(piece.pcm)
            self.heard = piece.heard  # the rest is due at the next look
        return piece

    def written(self, piece: Piece) -> None:
        if piece.anew:
            self.start = piece.start if piece.pcm else None
        if piece.pcm:
            self.upto = piece.start + len(piece.pcm)

    def lost(self) -> None:
        self.heard, self.start = -1, None


class Recording:
    """Of all sessions of this process."""

    def __init__(self) -> None:
        self.tapes = Tapes(settings.CONNECT_REDIS_ASYNC)
        self._marks: dict[Live, Mark] = {}
        self._writing = asyncio.Lock()  # pieces of a session go out in their order
        self._task = asyncio.create_task(self._walk(), name="tape")

    def add(self, live: Live) -> None:
        self._marks[live] = Mark(live)

    def remove(self, live: Live) -> None:
        self._marks.pop(live, None)

    async def flush(self, live: Live) -> None:
        """Another process goes on with it now."""
        if mark := self._marks.get(live):
            await self._write([mark], tell_clock=True)

    async def _walk(self) -> None:
        look = 0
        while True:
            await asyncio.sleep(LOOK_S)
            look += 1
            marks = list(self._marks.values())
            try:
                for at in range(0, len(marks), AT_ONCE):
                    await self._write(marks[at : at + AT_ONCE], look % CLOCK_LOOKS == 0)
            except Exception:  # one session's fault must not stop the keeping of all
                log.exception("tape")

    async def _write(self, marks: list[Mark], tell_clock: bool) -> None:
        async with self._writing:
            await self._write_now(marks, tell_clock)

    async def _write_now(self, marks: list[Mark], tell_clock: bool) -> None:
        found = [(mark, piece) for mark in marks if (piece := mark.piece(tell_clock))]
        if not found:
            return
        try:
            answers = await self.tapes.write([piece for _, piece in found])
        except ERRORS as error:
            log.warning("redis is away (%s): speech under way is not kept", type(error).__name__)
            answers = [NOT_OURS] * len(found)
        for (mark, piece), answer in zip(found, answers, strict=True):
            if answer == WRITTEN:
                mark.written(piece)
            else:
                mark.lost()


_recording: Recording | None = None


def recording() -> Recording:
    """Of this process."""
    global _recording
    if _recording is None:
        _recording = Recording()
    return _recording


async def play_again(live: Live, pcm: bytes) -> None:
    """Speech another process heard, into this one's session."""
    if live.session.turns.speaking:
        live.ear.detector.assume_speech()
    for at in range(0, len(pcm), SLICE):
        piece = pcm[at : at + SLICE]
        live.perform(live.session.audio(piece, live.ear.push(piece), clock.now()))
        await asyncio.sleep(0)
