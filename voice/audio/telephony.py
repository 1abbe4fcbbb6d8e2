"""Telephone audio at the socket: G.711 at 8 kHz in and out, PCM16 at 24 kHz inside. Exactly three samples here for one there.

A windowed-sinc low-pass at 3.6 kHz does both directions; its past samples are the only state. A delay of 1 ms, no flush at the end.
"""

from __future__ import annotations

import numpy as np

from voice.core.g711 import VALUES, decode

TAPS = 48
_n = np.arange(TAPS) - (TAPS - 1) / 2
LOW_PASS = (2 * 3600 / 24000 * np.sinc(2 * 3600 / 24000 * _n) * np.kaiser(TAPS, 6)).astype(np.float32)
LOW_PASS /= LOW_PASS.sum()
_PHASES = (LOW_PASS * 3).reshape(-1, 3).T.copy()  # the filter at each of the three positions between two telephone samples
_HISTORY = TAPS // 3 - 1


def _encoding(law: str) -> np.ndarray:
    """PCM16 (as uint16) -> code: the nearest of the law's values."""
    codes = np.argsort(VALUES[law], kind="stable")
    values = np.asarray(VALUES[law])[codes]
    middles = (values[1:] + values[:-1]) / 2
    table = codes[np.searchsorted(middles, np.arange(-32768, 32768))].astype(np.uint8)
    return np.roll(table, -32768)


_TABLES: dict[str, np.ndarray] = {}


class FromTelephone:
    """G.711 bytes to PCM16 24 kHz, chunk after chunk."""

    def __init__(self, law: str):
        self.law = law
        self._past = np.zeros(_HISTORY, np.float32)

    def push(self, data: bytes) -> bytes:
        if not data:
            return b""
        samples = np.concatenate((self._past, np.frombuffer(decode(data, self.law), "<i2").astype(np.float32)))
        self._past = samples[-_HISTORY:]
        out = np.empty((len(data), 3), np.float32)
        for phase in range(3):
            out[:, phase] = np.convolve(samples, _PHASES[phase], "valid")
        return np.clip(out, -32768, 32767).astype("<i2").tobytes()


class ToTelephone:
    """PCM16 24 kHz to G.711 bytes; up to two samples wait for the next chunk."""

    def __init__(self, law: str):
        if law not in _TABLES:
            _TABLES[law] = _encoding(law)
        self._table = _TABLES[law]
        self._held = np.zeros(TAPS - 1, np.float32)

    def push(self, pcm: bytes) -> bytes:
        samples = np.concatenate((self._held, np.frombuffer(pcm, "<i2").astype(np.float32)))
        count = (len(samples) - TAPS + 1) // 3
        if count < 1:
            self._held = samples
            return b""
        filtered = np.convolve(samples[: 3 * (count - 1) + TAPS], LOW_PASS, "valid")[::3]
        self._held = samples[3 * count :]
        return self._table[np.clip(filtered, -32768, 32767).astype(np.int16).view(np.uint16)].tobytes()
