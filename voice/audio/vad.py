"""Is this window speech? Silero VAD v6 (ONNX, shipped inside faster-whisper), with an energy gate before it.

One model per process; each session keeps its own state. Windows of 768 samples at 24 kHz (32 ms). The model wants them as 512 samples at 16 kHz with
the 64 before: they are resampled on the way into it, one product with a small matrix that all sessions share, and only where the gate is open.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from threading import get_ident

import numpy as np

RATE_HZ = 24000
WINDOW = 768
WINDOW_MS = 32
OPEN_WINDOWS = 6  # after the gate opened it stays open this long (192 ms), so that soft word ends reach the model
SPEECH_DB = 15.0  # speech is about so far above the gate
FULL_SCALE = 32768.0
# 96 samples at 24 kHz become 64 at 16 kHz. One model row has nine such blocks: the context, and the window's eight.
BLOCK_IN, BLOCK_OUT, BLOCKS = 96, 64, 9
TAPS = 48  # of the filter; it delays by half of them: 1 ms
PASS_HZ = 7400
HISTORY = TAPS + BLOCK_IN  # samples before a window that its row is made of, too


@functools.cache
def _model():
    import onnxruntime

    spec = importlib.util.find_spec("faster_whisper")
    path = Path(next(iter(spec.submodule_search_locations))) / "assets" / "silero_vad_v6.onnx"
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@functools.cache
def _resampling() -> np.ndarray:
    """(HISTORY, BLOCK_OUT): what each of a block's outputs takes of the block and the TAPS samples before it, scaled to -1..1. A sinc under a Kaiser
    window (Oppenheim & Schafer, Discrete-Time Signal Processing, 7.6): -1.4 dB at 7 kHz, below -60 dB from 8.5 kHz on."""
    at = np.arange(HISTORY)[:, None] - (TAPS / 2 + 1.5 * np.arange(BLOCK_OUT))
    window = np.i0(6 * np.sqrt(np.clip(1 - (at / (TAPS / 2)) ** 2, 0, None))) / np.i0(6.0) * (np.abs(at) <= TAPS / 2)
    kernel = np.sinc(2 * PASS_HZ / RATE_HZ * at) * window
    return (kernel / kernel.sum(axis=0) / FULL_SCALE).astype(np.float32)


class _Call:
    """A model call for `count` windows on buffers bound once: a plain `run` spends a tenth of its time on checks and copies."""

    def __init__(self, count: int):
        import onnxruntime

        self.sounds = np.zeros((count, HISTORY + WINDOW), np.float32)
        strides = (self.sounds.strides[0], BLOCK_IN * 4, 4)
        self._blocks = np.lib.stride_tricks.as_strided(self.sounds, (count, BLOCKS, HISTORY), strides, writeable=False)
        self.rows, self.chances = np.zeros((count, BLOCKS * BLOCK_OUT), np.float32), np.zeros(count, np.float32)
        self._resampled, self._matrix = self.rows.reshape(count, BLOCKS, BLOCK_OUT), _resampling()
        self.h, self.c, self.hn, self.cn = (np.zeros((1, 1, 128), np.float32) for _ in range(4))
        self._binding = _model().io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy  # on the CPU it shares the array's memory
        for name, array in (("input", self.rows), ("h", self.h), ("c", self.c)):
            self._binding.bind_ortvalue_input(name, value(array))
        for name, array in (("speech_probs", self.chances), ("hn", self.hn), ("cn", self.cn)):
            self._binding.bind_ortvalue_output(name, value(array))

    def run(self) -> None:
        np.matmul(self._blocks, self._matrix, out=self._resampled)
        _model().run_with_iobinding(self._binding)


@functools.lru_cache(64)
def _call(thread: int, count: int) -> _Call:
    return _Call(count)


def _energy(window: np.ndarray) -> float:
    samples = window.astype(np.float32)
    return samples.dot(samples)


def _energy_of(db: float) -> float:
    """Of a window this loud (dBFS, RMS)."""
    return 10 ** (db / 10) * WINDOW * FULL_SCALE**2


class Vad:
    """`gate_db`: windows quieter than this (dBFS, RMS) are silence without asking the model; 0 switches the gate off."""

    def __init__(self, gate_db: float = -55.0):
        _model()  # loaded now, not with the first word
        self._gate = _energy_of(gate_db) if gate_db else 0.0
        self._loud = _energy_of(gate_db + SPEECH_DB) if gate_db else float("inf")
        self.asked = 0  # windows the model saw
        self.reset()

    def reset(self) -> None:
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._open = 0

    def loud(self, window: np.ndarray) -> bool:
        """As loud as speech."""
        return _energy(window) >= self._loud

    def chances(self, held: np.ndarray, count: int) -> list[float]:
        """Probabilities that the first `count` windows of `held` are speech; one model call for all of them.

        `held`: int16 at 24 kHz, HISTORY samples and then the windows."""
        found = [0.0] * count
        which = [i for i in range(count) if self._passes(held[HISTORY + i * WINDOW : HISTORY + (i + 1) * WINDOW])]
        if which:
            for i, chance in zip(which, self._ask(held, which), strict=True):
                found[i] = chance
        return found

    def _passes(self, window: np.ndarray) -> bool:
        if not self._gate or _energy(window) >= self._gate:
            self._open = OPEN_WINDOWS
            return True
        self._open -= self._open > 0
        return self._open > 0

    def _ask(self, held: np.ndarray, which: list[int]) -> list[float]:
        self.asked += len(which)
        call = _call(get_ident(), len(which))
        for row, i in zip(call.sounds, which, strict=True):
            row[:] = held[i * WINDOW : HISTORY + (i + 1) * WINDOW]
        call.h[:], call.c[:] = self._h, self._c
        call.run()
        self._h[:], self._c[:] = call.hn, call.cn
        return call.chances.tolist()


class Loudness:
    """Speech by level alone, for when the model cannot be used: what is SPEECH_DB above the gate. Any loud noise counts as speech."""

    def __init__(self, gate_db: float = -55.0):
        self._loud = _energy_of((gate_db or -55.0) + SPEECH_DB)

    def reset(self) -> None:
        """It remembers nothing."""

    def loud(self, window: np.ndarray) -> bool:
        return _energy(window) >= self._loud

    def chances(self, held: np.ndarray, count: int) -> list[float]:
        """As Vad's: 1.0 or 0.0."""
        return [float(self.loud(held[HISTORY + i * WINDOW : HISTORY + (i + 1) * WINDOW])) for i in range(count)]
