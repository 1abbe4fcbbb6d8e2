"""Sound goes straight into its session while the loop has time, is gathered while it has not, and never changes places with what is said after it."""

from __future__ import annotations

import asyncio

from voice.gateway.intake import PIECE_BYTES, Intake
from voice.gateway.turnstile import Turnstile

FRAME = bytes(1920)


class Listener:
    """Keeps what it hears."""

    def __init__(self, ears: Turnstile, room: int = 10**9):
        self.heard: list[tuple[int, str | None]] = []
        self.failures = 0
        self.intake = Intake(self.hear, lambda: room, self.fail, ears)

    def hear(self, pcm: bytes, event_id: str | None) -> None:
        if event_id == "bad":
            raise ValueError("bad")
        self.heard.append((len(pcm), event_id))

    def fail(self) -> None:
        self.failures += 1


async def test_what_comes_while_others_have_their_turn_is_heard_in_one_go():
    ears = Turnstile(1)
    first, second = Listener(ears), Listener(ears)
    first.intake.push(FRAME, "a")
    for n in range(3):
        second.intake.push(FRAME, str(n))
    assert first.heard == [(1920, "a")] and second.heard == []
    await asyncio.sleep(0.01)
    assert second.heard == [(3 * 1920, "2")]


async def test_a_flush_hears_it_before_what_is_said_next_and_once():
    ears = Turnstile(1)
    first, second = Listener(ears), Listener(ears)
    first.intake.push(FRAME, None)
    second.intake.push(FRAME, "before")
    second.intake.flush()
    second.intake.push(FRAME, "after")
    assert second.heard == [(1920, "before")]
    await asyncio.sleep(0.01)
    assert second.heard == [(1920, "before"), (1920, "after")]


async def test_who_sends_faster_than_it_is_heard_waits():
    ears = Turnstile(1)
    first, second = Listener(ears), Listener(ears)
    first.intake.push(FRAME, None)
    second.intake.push(bytes(PIECE_BYTES), None)
    assert second.intake.full
    await asyncio.wait_for(second.intake.emptied(), 5)
    assert second.heard == [(PIECE_BYTES, None)] and not second.intake.full


async def test_where_there_is_no_room_for_all_each_is_heard_by_itself():
    ears = Turnstile(1)
    first, second = Listener(ears), Listener(ears, room=3000)
    first.intake.push(FRAME, None)
    second.intake.push(FRAME, "fits")
    second.intake.push(FRAME, "is refused")
    await asyncio.sleep(0.01)
    assert second.heard == [(1920, "fits"), (1920, "is refused")]


async def test_a_session_that_fails_does_not_stop_the_turns_of_others():
    ears = Turnstile(1)
    first, bad, last = Listener(ears), Listener(ears), Listener(ears)
    first.intake.push(FRAME, None)
    bad.intake.push(bytes(PIECE_BYTES), "bad")
    last.intake.push(FRAME, "well")
    await asyncio.wait_for(bad.intake.emptied(), 5)
    await asyncio.sleep(0.01)
    assert bad.failures == 1 and last.heard == [(1920, "well")]
