"""Speech for training, evaluation and the samples: espeak-ng in this process, through espeakng-loader and ctypes."""

from __future__ import annotations

import ctypes
import random
import wave
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

from voice.audio.telephony import FromTelephone, ToTelephone
from voice.core.g711 import LAWS

ESPEAK_HZ = 22050
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
# Never trained on: the evaluation speaks with these.
HELD_OUT_VOICES = ("en-us+f4", "en+m5", "en-us+linda", "en-gb-x-rp+steph2", "en-us+Michael")
VARIANTS = (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Mike Mr Nguyen Reed "
    "Tweaky adam anika antonio aunty belinda benjamin boris caleb david ed edward edward2 f1 f2 f3 f5 grandma "
    "grandpa gustave ian iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 m1 m2 m3 m4 m6 m7 m8 "
    "marcelo max michel miguel mike2 norbert pablo paul pedro quincy rob robert sandro steph steph3 travis victor zac"
).split()

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """One per process: the library keeps global state."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        if self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0) != ESPEAK_HZ:
            raise RuntimeError("espeak-ng did not start at 22,050 Hz")
        self._pieces: list[np.ndarray] = []
        self._callback = _Callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples, count, _events) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50, spread: int = 50) -> np.ndarray:
        """int16 at 22,050 Hz. `rate` words a minute, `pitch` and `spread` 0-100."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, spread)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces = []
        raw = text.encode()
        self._library.espeak_Synth(raw, len(raw) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)


def to_rate(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """int16 at 22,050 Hz in, float32 in -1..1 at `rate_hz` out."""
    return soxr.resample(samples.astype(np.float32) / 32768, ESPEAK_HZ, rate_hz)


def over_telephone(audio: np.ndarray, rng: random.Random) -> np.ndarray:
    """float32 at 16 kHz in and out, as the gateway hears a caller: G.711 at 8 kHz, half of the time behind a handset that carries nothing low."""
    if rng.random() < 0.5:
        audio = _without_lows(audio, rng.uniform(200, 350))
    law = rng.choice(LAWS)
    pcm = (np.clip(soxr.resample(audio, 16000, 24000), -1, 1) * 32767).astype("<i2").tobytes()
    back = FromTelephone(law).push(ToTelephone(law).push(pcm))
    return soxr.resample(np.frombuffer(back, "<i2").astype(np.float32) / 32768, 24000, 16000)


def _without_lows(audio: np.ndarray, below_hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(audio)
    hz = np.fft.rfftfreq(len(audio), 1 / 16000)
    return np.fft.irfft(spectrum * (1 / (1 + (below_hz / np.maximum(hz, 1)) ** 4)), len(audio)).astype(np.float32)


def write_wav(path: Path, audio: np.ndarray, rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
