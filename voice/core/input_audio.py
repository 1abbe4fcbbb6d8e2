"""The input audio buffer: PCM16 mono 24 kHz, addressed in ms since the session's start."""

from __future__ import annotations

from voice.core.errors import ProtocolError

BYTES_PER_MS = 48
IDLE_BYTES = 5500 * BYTES_PER_MS  # kept while nobody speaks: the longest prefix padding and what deciding takes


class InputAudio:
    def __init__(self, max_ms: int):
        self._max_bytes = max_ms * BYTES_PER_MS
        self._bytes = bytearray()
        self.keeps_all = True  # False while a detector listens and nobody speaks: old audio may go
        self._start = 0  # bytes since session start at which the buffer begins

    @property
    def total_ms(self) -> int:
        """Audio written since the session's start."""
        return self.end // BYTES_PER_MS

    @property
    def held_ms(self) -> int:
        return len(self._bytes) // BYTES_PER_MS

    @property
    def room(self) -> int:
        """Bytes that it takes yet."""
        return self._max_bytes - len(self._bytes)

    @property
    def start(self) -> int:
        """Bytes since the session's start; the audio before them is not here any more."""
        return self._start

    @property
    def end(self) -> int:
        """Bytes since the session's start."""
        return self._start + len(self._bytes)

    def begin_at(self, start: int) -> None:
        """Audio before byte `start` was written elsewhere and is gone."""
        self._bytes.clear()
        self._start = start

    def since(self, start: int) -> tuple[int, bytes]:
        """(where it begins, the audio from byte `start` on, as far as it is here)."""
        start = max(start, self._start)
        return start, bytes(self._bytes[start - self._start :])

    def append(self, pcm: bytes) -> None:
        """Raises ProtocolError when the buffer is full; then nothing of `pcm` is taken."""
        if not self.keeps_all and len(self._bytes) > IDLE_BYTES * 2:
            self._drop(len(self._bytes) - IDLE_BYTES)
        if len(self._bytes) + len(pcm) > self._max_bytes:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"The input audio buffer holds at most {self._max_bytes // BYTES_PER_MS} ms; commit or clear it.", param="audio",
            )  # fmt: skip
        self._bytes += pcm

    def take(self, from_ms: int | None = None, to_ms: int | None = None) -> bytes:
        """Remove and return the audio up to `to_ms` (default: all); what lies before `from_ms` is dropped."""
        end = len(self._bytes) if to_ms is None else self._offset(to_ms)
        begin = 0 if from_ms is None else min(end, self._offset(from_ms))
        audio = bytes(self._bytes[begin:end])
        self._drop(end)
        return audio

    def peek(self, from_ms: int, to_ms: int) -> bytes:
        """The audio between, left where it is."""
        return bytes(self._bytes[self._offset(from_ms) : self._offset(to_ms)])

    def clear(self) -> None:
        self._drop(len(self._bytes))

    def _offset(self, ms: int) -> int:
        return max(0, min(len(self._bytes), ms * BYTES_PER_MS - self._start))

    def _drop(self, count: int) -> None:
        del self._bytes[:count]
        self._start += count
