"""Speech synthesis by espeak-ng inside this process, through espeakng-loader and ctypes. About 500 times real time.

The library keeps global state and one callback, so one thread of the process talks to it; sentences queue there for
milliseconds. A sentence is stopped by answering 1 in the callback (espeak-ng speak_lib.h).
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import soxr

from voice.engines.base import EngineError, Speech, TTSEngine

ESPEAK_HZ = 22050
RATE_HZ = 24000
PIECE = RATE_HZ // 10  # samples in one piece: 100 ms
NORMAL_WPM = 165
# name -> espeak-ng voice; the first ten are the names OpenAI clients send
VOICES = {
    "alloy": "en-us+f2", "ash": "en-us+m3", "ballad": "en-gb-x-rp+m2", "coral": "en-us+f4", "echo": "en-us+m1",
    "sage": "en-gb-x-rp+f3", "shimmer": "en-us+f5", "verse": "en-us+m7", "marin": "en+f2", "cedar": "en+m4",
    "linda": "en-us+linda", "andy": "en+Andy", "steph": "en-us+steph2", "scott": "en-gb-scotland+m2",
}  # fmt: skip
_SYNCHRONOUS, _UTF8, _RATE = 2, 1, 1
_END, _WORD = 0, 1


class _Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("identifier", ctypes.c_uint), ("text_position", ctypes.c_int), ("length", ctypes.c_int),
                ("audio_position", ctypes.c_int), ("sample", ctypes.c_int), ("user_data", ctypes.c_void_p), ("id", ctypes.c_char * 8)]  # fmt: skip


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class _Request:
    text: str
    voice: str
    wpm: int
    pieces: queue.Queue = field(default_factory=lambda: queue.Queue(2000))  # (samples, marks) ... None
    stopped: threading.Event = field(default_factory=threading.Event)


class _Speaker(threading.Thread):
    """The one thread that calls espeak-ng."""

    def __init__(self) -> None:
        super().__init__(name="espeak", daemon=True)
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        if self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0) != ESPEAK_HZ:
            raise EngineError("espeak-ng did not start at 22,050 Hz", code="model_broken")
        self._callback = _Callback(self._take)  # kept: C holds a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)
        self._requests: queue.Queue[_Request] = queue.Queue(256)
        self._current: _Request | None = None
        self.start()

    def submit(self, request: _Request) -> None:
        """Raises EngineError when 256 sentences wait already."""
        try:
            self._requests.put(request, timeout=5)
        except queue.Full:
            raise EngineError("speech synthesis is overloaded", code="overloaded", retryable=True) from None

    def run(self) -> None:
        while True:
            request = self._requests.get()
            if not request.stopped.is_set():
                self._current = request
                self._library.espeak_SetVoiceByName(request.voice.encode())
                self._library.espeak_SetParameter(_RATE, request.wpm, 0)
                raw = request.text.encode()
                self._library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _UTF8, None, None)
            self._put(request, None)

    def _take(self, samples, count, events) -> int:
        request = self._current
        if request.stopped.is_set():
            return 1
        marks, i = [], 0
        while events and events[i].type != _END:
            if events[i].type == _WORD:
                marks.append((max(0, events[i].text_position - 1), events[i].audio_position))
            i += 1
        pcm = np.ctypeslib.as_array(samples, (count,)).copy() if samples and count > 0 else None
        if pcm is not None or marks:
            self._put(request, (pcm, marks))
        return 1 if request.stopped.is_set() else 0

    @staticmethod
    def _put(request: _Request, piece) -> None:
        while not request.stopped.is_set():
            try:
                return request.pieces.put(piece, timeout=0.2)
            except queue.Full:
                continue


_speaker: _Speaker | None = None
_lock = threading.Lock()


class Engine(TTSEngine):
    rate_hz = RATE_HZ

    def load(self) -> None:
        global _speaker
        with _lock:
            _speaker = _speaker or _Speaker()
        for _ in self.synthesize("Ready."):
            pass

    def voices(self) -> list[str]:
        return list(VOICES)

    def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0, language: str = "en") -> Iterator[Speech]:
        name = VOICES.get(voice or "alloy")
        if name is None:
            raise EngineError(f"espeak has no voice {voice!r}; there are: {', '.join(VOICES)}", code="unknown_voice")
        request = _Request(text.replace("\0", " "), name, max(80, min(450, round(NORMAL_WPM * speed))))
        _speaker.submit(request)
        try:
            yield from self._pieces(request)
        finally:
            request.stopped.set()

    @staticmethod
    def _pieces(request: _Request) -> Iterator[Speech]:
        resampler = soxr.ResampleStream(ESPEAK_HZ, RATE_HZ, 1, dtype="int16")
        held, marks = np.zeros(0, np.int16), []
        first = True
        while True:
            try:
                piece = request.pieces.get(timeout=10)
            except queue.Empty:
                raise EngineError("espeak-ng gave nothing for 10 s", code="deadline_exceeded", retryable=True) from None
            if piece is not None:
                marks += piece[1]
            samples = np.zeros(0, np.int16) if piece is None or piece[0] is None else piece[0]
            held = np.concatenate([held, resampler.resample_chunk(samples, last=piece is None)])
            while len(held) >= PIECE or len(held) and (first or piece is None):
                yield Speech(held[:PIECE].tobytes(), tuple(marks))
                held, marks, first = held[PIECE:], [], False
            if piece is None:
                return
