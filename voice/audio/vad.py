"""Is this window speech? Silero VAD v6 (ONNX, shipped inside faster-whisper), with an energy gate before it.

One model per process; each session keeps its own state. Windows of 512 samples at 16 kHz (32 ms), with the 64 samples before.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from threading import get_ident

import numpy as np

RATE_HZ = 16000
WINDOW = 512
WINDOW_MS = 32
CONTEXT = 64
OPEN_WINDOWS = 6  # after the gate opened it stays open this long (192 ms), so that soft word ends reach the model


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


class _Call:
    """A model call for `count` windows on buffers bound once: a plain `run` spends a tenth of its time on checks and copies."""

    def __init__(self, count: int):
        import onnxruntime

        self.rows, self.chances = np.zeros((count, CONTEXT + WINDOW), np.float32), np.zeros(count, np.float32)
        self.h, self.c, self.hn, self.cn = (np.zeros((1, 1, 128), np.float32) for _ in range(4))
        self._binding = _model().io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy  # on the CPU it shares the array's memory
        for name, array in (("input", self.rows), ("h", self.h), ("c", self.c)):
            self._binding.bind_ortvalue_input(name, value(array))
        for name, array in (("speech_probs", self.chances), ("hn", self.hn), ("cn", self.cn)):
            self._binding.bind_ortvalue_output(name, value(array))

    def run(self) -> None:
        _model().run_with_iobinding(self._binding)


@functools.lru_cache(64)
def _call(thread: int, count: int) -> _Call:
    return _Call(count)


class Vad:
    """`gate_db`: windows quieter than this (dBFS, RMS) are silence without asking the model; 0 switches the gate off."""

    def __init__(self, gate_db: float = -55.0):
        _model()  # loaded now, not with the first word
        self._gate = 10 ** (gate_db / 10) * WINDOW if gate_db else 0.0  # energy of a window
        self.asked = 0  # windows the model saw
        self.reset()

    def reset(self) -> None:
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._tail = np.zeros(CONTEXT, np.float32)
        self._open = 0

    def chances(self, windows: np.ndarray) -> list[float]:
        """Probabilities that windows (n, 512) of float32 samples at 16 kHz are speech; one model call for all of them."""
        found = [0.0] * len(windows)
        if loud := [i for i, window in enumerate(windows) if self._passes(window)]:
            for i, chance in zip(loud, self._ask(windows, loud), strict=True):
                found[i] = chance
        self._tail[:] = windows[-1, WINDOW - CONTEXT :]
        return found

    def _passes(self, window: np.ndarray) -> bool:
        if not self._gate or window.dot(window) >= self._gate:
            self._open = OPEN_WINDOWS
            return True
        self._open -= self._open > 0
        return self._open > 0

    def _ask(self, windows: np.ndarray, which: list[int]) -> list[float]:
        self.asked += len(which)
        call = _call(get_ident(), len(which))
        for row, i in zip(call.rows, which, strict=True):
            row[:CONTEXT] = windows[i - 1, WINDOW - CONTEXT :] if i else self._tail
            row[CONTEXT:] = windows[i]
        call.h[:], call.c[:] = self._h, self._c
        call.run()
        self._h[:], self._c[:] = call.hn, call.cn
        return call.chances.tolist()


class Loudness:
    """Speech by level alone, for when the model cannot be used: what is SPEECH_DB above the gate. Any loud noise counts as speech."""

    SPEECH_DB = 15.0

    def __init__(self, gate_db: float = -55.0):
        self._gate = 10 ** (((gate_db or -55.0) + self.SPEECH_DB) / 20)

    def reset(self) -> None:
        """It remembers nothing."""

    def chances(self, windows: np.ndarray) -> list[float]:
        """As Vad's: 1.0 or 0.0."""
        return (np.sqrt((windows**2).mean(axis=1)) >= self._gate).astype(float).tolist()
