"""Is this window speech? Silero VAD v6 (ONNX, shipped inside faster-whisper), with an energy gate before it.

One model per process; each session keeps its own state. Windows of 512 samples at 16 kHz (32 ms), with the 64 samples before.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path

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


class Vad:
    """`gate_db`: windows quieter than this (dBFS, RMS) are silence without asking the model; 0 switches the gate off."""

    def __init__(self, gate_db: float = -55.0):
        self._model = _model()
        self._gate = 10 ** (gate_db / 20) if gate_db else 0.0
        self._input = np.zeros((1, CONTEXT + WINDOW), np.float32)
        self.asked = 0  # windows the model saw
        self.reset()

    def reset(self) -> None:
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._input[:] = 0
        self._open = 0

    def speech(self, window: np.ndarray) -> float:
        """Probability that 512 float32 samples at 16 kHz are speech."""
        held = self._input
        held[0, :CONTEXT] = held[0, WINDOW:]
        held[0, CONTEXT:] = window
        if self._gate:
            if math.sqrt(float(window @ window) / WINDOW) >= self._gate:
                self._open = OPEN_WINDOWS
            elif self._open:
                self._open -= 1
            else:
                return 0.0
        self.asked += 1
        chance, self._h, self._c = self._model.run(None, {"input": held, "h": self._h, "c": self._c})
        return float(chance.ravel()[0])
