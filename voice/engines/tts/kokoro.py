"""Speech synthesis by Kokoro-82M (Apache-2.0) through kokoro-onnx; `pip install -r requirements/kokoro.txt` and
`manage.py models pull kokoro`. The model folder holds kokoro-v1.0.onnx and voices-v1.0.bin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from voice.engines.base import EngineError, ModelNotFound, Speech, TTSEngine

WEIGHTS, VOICES = "kokoro-v1.0.onnx", "voices-v1.0.bin"
PIECE = 2400  # samples: 100 ms at 24 kHz
# OpenAI's names -> Kokoro's
ALIASES = {
    "alloy": "af_alloy", "ash": "am_adam", "ballad": "bm_fable", "coral": "af_bella", "echo": "am_echo", "sage": "bf_emma",
    "shimmer": "af_sky", "verse": "am_michael", "marin": "af_heart", "cedar": "bm_george",
}  # fmt: skip


class Engine(TTSEngine):
    rate_hz = 24000

    def load(self) -> None:
        path = self.settings.find("tts", self.model or "kokoro")
        for file in (WEIGHTS, VOICES):
            if not (path / file).is_file():
                raise ModelNotFound(f"{path / file} is missing; `manage.py models pull kokoro` downloads it", code="model_not_found")
        try:
            from kokoro_onnx import Kokoro
        except ImportError as error:
            raise EngineError("kokoro-onnx is not installed: pip install -r requirements/kokoro.txt", code="not_installed") from error
        self._kokoro = Kokoro(str(path / WEIGHTS), str(path / VOICES))

    def voices(self) -> list[str]:
        return [*ALIASES, *self._kokoro.get_voices()]

    def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0, language: str = "en") -> Iterator[Speech]:
        name = ALIASES.get(voice or "marin", voice)
        if name not in self._kokoro.get_voices():
            raise EngineError(f"kokoro has no voice {voice!r}", code="unknown_voice")
        region = "en-gb" if name.startswith("b") else "en-us"
        for clause in re.split(r"(?<=[,;:.!?])\s+", text.strip()):  # a clause at a time: the first is heard sooner
            if not clause:
                continue
            samples, _ = self._kokoro.create(clause, voice=name, speed=min(2.0, max(0.5, speed)), lang=region)
            pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
            for at in range(0, len(pcm), PIECE):
                yield Speech(pcm[at : at + PIECE].tobytes())
