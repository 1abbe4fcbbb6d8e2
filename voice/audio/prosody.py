"""How the voice sounded before a pause: pitch, voicing, loudness and brightness of its last moments. About a millisecond a call."""

from __future__ import annotations

import numpy as np

SPAN_MS = 1500  # of speech that is looked at
TAIL = 30  # frames of it that are looked at closely
SIZE = 4 * TAIL + 4
HZ = 8000
STEP = 160  # 20 ms
FRAME = 320  # 40 ms
LOW_HZ, HIGH_HZ = 65, 420
VOICED = 0.45  # normalised autocorrelation of a frame that has a pitch
QUIET_DB = 30.0  # below the loudest frame: not the voice
_WINDOW = np.hanning(FRAME).astype(np.float32)
_LAGS = HZ // LOW_HZ + 1
_BIAS = np.fft.irfft(np.abs(np.fft.rfft(_WINDOW, 1024)) ** 2)[:_LAGS]
_BIAS /= _BIAS[0]


def contour(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int16 at 16 kHz -> (semitones, NaN where unvoiced; dB; share of the power above 1 kHz), a value every 20 ms."""
    halved = samples[: len(samples) // 2 * 2].astype(np.float32).reshape(-1, 2).mean(1)
    count = (len(halved) - FRAME) // STEP + 1
    if count < 1:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(halved, FRAME)[::STEP][:count]
    frames = frames - frames.mean(1, keepdims=True)
    level = 10 * np.log10((frames**2).mean(1) + 1.0)
    power = np.abs(np.fft.rfft(frames * _WINDOW, 1024)) ** 2
    auto = np.fft.irfft(power)[:, :_LAGS]
    auto = auto / (auto[:, :1] + 1e-9) / _BIAS
    first = HZ // HIGH_HZ
    lags = auto[:, first:].argmax(1) + first
    row = np.arange(count)
    strength = auto[row, lags]
    half = np.maximum(first, np.round(lags / 2).astype(int))  # the shorter lag if it is nearly as good: octave errors
    lags = np.where(auto[row, half] > 0.85 * strength, half, lags)
    voiced = (strength > VOICED) & (level > level.max() - QUIET_DB)
    bright = power[:, 128:].sum(1) / (power.sum(1) + 1e-9)
    return np.where(voiced, 12 * np.log2(HZ / lags), np.nan), level, bright


def speech_end(samples: np.ndarray) -> tuple[int, int]:
    """int16 at 16 kHz -> (sample after the last one that is loud, ms of it that are loud; gaps under 0.12 s count as speech)."""
    blocks = samples[: len(samples) // 160 * 160].astype(np.float32).reshape(-1, 160)
    loud = (blocks**2).mean(1)
    found = np.flatnonzero(loud > max(loud.max() * 10**-3.6, 1000.0)) if len(loud) else loud
    if len(found) < 2:
        return len(samples), 10
    gaps = np.diff(found)
    return int(found[-1] + 1) * 160, int(len(found) + (gaps[gaps < 12] - 1).sum()) * 10


def features(samples: np.ndarray) -> np.ndarray | None:
    """int16 at 16 kHz up to the end of speech -> what a model may weigh (SIZE numbers); None where there is too little voice."""
    pitch, level, bright = contour(samples[-SPAN_MS * 16 :])
    voiced = ~np.isnan(pitch)
    if voiced.sum() < 6:
        return None
    loud = np.flatnonzero(level > level.max() - QUIET_DB)
    end = loud[-1] + 1
    tones = pitch[voiced]
    middle, spread = np.median(tones), np.percentile(tones, (8, 92))
    parts = [np.where(voiced, pitch - middle, 0.0) / 6, voiced.astype(float), (level - level.max()) / 20, bright]
    tails = [np.concatenate((np.zeros(max(0, TAIL - end)), part[max(0, end - TAIL) : end])) for part in parts]
    last = tones[-3:].mean()
    return np.concatenate([*tails, [(last - middle) / 6, (last - spread[0]) / 6, (spread[1] - last) / 6, min(1.0, end * STEP / HZ / 1.5)]]).astype(np.float32)
