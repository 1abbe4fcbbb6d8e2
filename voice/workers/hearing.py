"""Speech recognition of audio that is still growing. The models hear a whole utterance at a time, so what is known is heard anew:
at the speaker's pauses, and after each `interim_ms` of new audio while that costs little. What was said before a pause is settled once
it is long, so that neither the cost of a hearing nor its memory grows with the utterance.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import soxr

from voice.engines import turn_end
from voice.engines.base import STTEngine, Transcript

STT_HZ = 16000
SETTLE = 0.6  # of the model's window: what is longer than this at a pause is settled
SHARE = 0.25  # of a session's time that hearings in between may take: on a busy machine they take longer, so there are fewer


class Hearing:
    """`params`: {language, prompt, rate_hz, interim_ms, logprobs} of the job."""

    def __init__(self, engine: STTEngine, params: dict[str, Any]):
        self._engine, self._params = engine, params
        same = params["rate_hz"] == STT_HZ
        self._resampler = None if same else soxr.ResampleStream(params["rate_hz"], STT_HZ, 1, dtype="int16")
        self._audio = bytearray()  # PCM16 at 16 kHz, not settled
        self._settled: list[Transcript] = []
        self._heard: Transcript | None = None  # of all audio there is
        self._heard_bytes, self._heard_at, self._took_s = 0, time.monotonic(), 0.0
        self.audio_ms = self.decoded_ms = 0

    def add(self, pcm: bytes, last: bool = False) -> None:
        self.audio_ms += len(pcm) * 1000 // 2 // self._params["rate_hz"]
        if pcm:
            self._heard = None
        if self._resampler is not None:
            pcm = self._resampler.resample_chunk(np.frombuffer(pcm, "<i2"), last=last).tobytes()
        self._audio += pcm

    def due(self) -> bool:
        """Is it time for a hearing in between, and cheap enough?"""
        every_ms = self._params.get("interim_ms", 0)
        if not every_ms or (len(self._audio) - self._heard_bytes) * 1000 // 2 // STT_HZ < every_ms:
            return False
        return time.monotonic() - self._heard_at >= self._took_s / SHARE

    def hear(self, settle: bool = False) -> Transcript:
        """All that was said so far. `settle`: here is a pause."""
        if self._heard is None:
            self._heard = self._listen()
        found = self._heard
        if settle and self._params.get("turn_end") and found.ended is None:
            found = self._heard = replace(found, ended=turn_end.chance(np.frombuffer(self._audio, "<i2"), found.text, found.confidence, self._engine.endings))
        if settle and len(self._audio) > self._engine.window_s * SETTLE * STT_HZ * 2:
            self._settled = [found]
            self._audio.clear()
            self._heard_bytes = 0
        return found

    def _listen(self) -> Transcript:
        began = time.monotonic()
        found = None
        for found in self._engine.transcribe(bytes(self._audio), language=self._params.get("language", "en"), prompt=self._params.get("prompt", ""),
                                             task=self._params.get("task", "transcribe"), logprobs=self._params.get("logprobs", False)):  # fmt: skip
            pass
        self.decoded_ms += len(self._audio) * 1000 // 2 // STT_HZ
        self._heard_bytes, self._heard_at = len(self._audio), time.monotonic()
        self._took_s = self._heard_at - began
        if not self._settled or not self._settled[0].text:
            return found
        before = self._settled[0]
        if not found.text:
            return replace(found, text=before.text, logprobs=before.logprobs)
        more = tuple((f" {token}" if i == 0 else token, value) for i, (token, value) in enumerate(found.logprobs))
        return replace(found, text=f"{before.text} {found.text}", logprobs=(*before.logprobs, *more))
