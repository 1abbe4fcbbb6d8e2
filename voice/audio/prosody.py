"""Did the voice sound like the end of a sentence? Pitch and loudness of the last half second before a pause."""

from __future__ import annotations

import numpy as np

HZ = 16000
STEP = 160  # 10 ms
FRAME = 640  # 40 ms
LOW_HZ, HIGH_HZ = 60, 420
VOICED = 0.5  # normalised autocorrelation of a frame with a pitch


def pitch(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 at 16 kHz -> (semitones over 55 Hz, NaN where unvoiced; dB) every 10 ms. By autocorrelation of 40 ms frames (FFT)."""
    count = max(0, (len(samples) - FRAME) // STEP + 1)
    if not count:
        return np.zeros(0), np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::STEP][:count]
    frames = frames - frames.mean(1, keepdims=True)
    energy = (frames**2).mean(1)
    spectrum = np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32), 2048)
    auto = np.fft.irfft(np.abs(spectrum) ** 2)[:, : HZ // LOW_HZ + 1]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(FRAME), 2048)) ** 2)[: HZ // LOW_HZ + 1]
    auto = auto / (auto[:, :1] + 1e-9) / (window / window[0])
    first = HZ // HIGH_HZ
    lags = auto[:, first:].argmax(1) + first
    strength = auto[np.arange(count), lags]
    # the shortest lag nearly as good, against octave errors
    for divisor in (2, 3):
        shorter = np.maximum(first, np.round(lags / divisor).astype(int))
        better = auto[np.arange(count), shorter] > 0.85 * strength
        lags = np.where(better & (lags / divisor >= first), shorter, lags)
    level = 10 * np.log10(energy + 1e-10)
    voiced = (strength > VOICED) & (level > level.max() - 30)
    return np.where(voiced, 12 * np.log2(HZ / lags / 55), np.nan), level
