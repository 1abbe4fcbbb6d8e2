"""Recorded speech cut where nobody speaks: what is transcribed at once, and the times in its subtitles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from voice.audio.detector import Detector

BYTES_PER_MS = 48
LONGEST_MS = 25_000
PADDING_MS = 200
PUSHED = BYTES_PER_MS * 320
RULE = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500, "prefix_padding_ms": PADDING_MS}


@dataclass(frozen=True, slots=True)
class Segment:
    start_ms: int
    end_ms: int
    pcm: bytes  # PCM16 mono 24 kHz


class TooLong(Exception):
    """The recording has more than `max_ms`."""


def segments(pieces: Iterable[bytes], max_ms: int) -> Iterator[Segment | int]:
    """Segments in order, then the length in ms of all. A recording in which no speech is found and that is short comes as one.

    Computes: call it in a thread. Raises TooLong, and what `pieces` raises.
    """
    detector, held, dropped, began, found = Detector(RULE), bytearray(), 0, None, False

    def cut(start: int, end: int) -> Segment:
        nonlocal dropped
        start, end = max(dropped // BYTES_PER_MS, start), min(end, (dropped + len(held)) // BYTES_PER_MS)
        pcm = bytes(held[start * BYTES_PER_MS - dropped : end * BYTES_PER_MS - dropped])
        del held[: end * BYTES_PER_MS - dropped]
        dropped = end * BYTES_PER_MS
        return Segment(start, end, pcm)

    for piece in _even(pieces):
        held += piece
        total_ms = (dropped + len(held)) // BYTES_PER_MS
        if total_ms > max_ms:
            raise TooLong
        for edge in detector.push(piece):
            if edge.kind == "started":
                began, found = max(0, edge.at_ms - PADDING_MS), True
            elif began is not None:
                yield cut(began, edge.at_ms + PADDING_MS)
                began = None
        if began is not None and total_ms - began >= LONGEST_MS:
            yield cut(began, total_ms)
            began = total_ms
        elif began is None and found and len(held) > 2 * LONGEST_MS * BYTES_PER_MS:
            size = len(held) - LONGEST_MS * BYTES_PER_MS
            size -= size % BYTES_PER_MS
            del held[:size]
            dropped += size
        elif not found and total_ms > LONGEST_MS:  # long and still silent
            found = True
    total_ms = (dropped + len(held)) // BYTES_PER_MS
    if began is not None or not found and total_ms > 0:
        last = cut(began or 0, total_ms)
        if last.pcm:
            yield last
    yield total_ms


def _even(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same audio in pieces of one size."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= PUSHED:
            yield bytes(held[:PUSHED])
            del held[:PUSHED]
    if held:
        yield bytes(held)
