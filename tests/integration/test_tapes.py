"""voice/bus/tapes.py on a real Redis: what is read is what was written, without a hole, by the one who holds the session."""

from __future__ import annotations

import secrets

import pytest
from django.conf import settings

from voice.bus.sessions import OK, Batch, SessionRecords
from voice.bus.tapes import NOT_OURS, WRITTEN, Piece, Tapes


@pytest.fixture
async def session(servers) -> str:
    """One whose owner's token is `mine`."""
    session_id = f"sess_{secrets.token_hex(8)}"
    records = SessionRecords(settings.CONNECT_REDIS_ASYNC)
    assert await records.write([Batch(session_id, "mine", 0, fields={"seq": 0}, seed=True)]) == [OK]
    yield session_id
    await records.forget(session_id, "mine", "t")
    assert await Tapes(settings.CONNECT_REDIS_ASYNC).read(session_id) == (0, b"")
    await records.close()


async def test_pieces_are_read_as_one(session):
    tapes = Tapes(settings.CONNECT_REDIS_ASYNC)
    pieces = [Piece(session, "mine", 104, 100, b"abcd", anew=True), Piece(session, "mine", 106, 104, b"ef"), Piece(session, "mine", 200)]
    assert await tapes.write(pieces) == [WRITTEN] * 3
    assert await tapes.read(session) == (100, b"abcdef")
    assert await tapes.write([Piece(session, "mine", 302, 300, b"gh")]) == [WRITTEN]  # something between was lost: what is before it is of no use
    assert await tapes.read(session) == (300, b"gh")
    assert await tapes.write([Piece(session, "mine", 402, 400, b"ij", anew=True)]) == [WRITTEN]
    assert await tapes.read(session) == (400, b"ij")
    assert await tapes.write([Piece(session, "mine", 402, anew=True)]) == [WRITTEN]
    assert await tapes.read(session) == (0, b"")


async def test_only_its_holder_writes(session):
    tapes = Tapes(settings.CONNECT_REDIS_ASYNC)
    assert await tapes.write([Piece(session, "stranger", 4, 0, b"abcd"), Piece(f"{session}x", "mine", 4, 0, b"abcd")]) == [NOT_OURS] * 2
    assert await tapes.read(session) == (0, b"")
