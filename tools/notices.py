"""`python -m tools.notices`: speak the shipped notices of voice/gateway/notices anew (espeak-ng, 12 kHz, English)."""

from __future__ import annotations

import os
import wave
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")

HZ = 12000


def main() -> None:
    import django

    django.setup()
    import numpy as np
    import soxr

    from voice.engines import create
    from voice.engines.base import EngineSettings
    from voice.gateway import notices

    engine = create("tts", "espeak", "espeak-ng", EngineSettings())
    engine.load()
    for kind, text in notices.TEXTS["en"].items():
        pcm = b"".join(part.pcm for part in engine.synthesize(text, voice="alloy"))
        samples = soxr.resample(np.frombuffer(pcm, "<i2"), engine.rate_hz, HZ).astype("<i2")
        with wave.open(str(Path(notices.__file__).parent / f"{kind}.wav"), "wb") as file:
            file.setparams((1, 2, HZ, 0, "NONE", ""))
            file.writeframes(samples.tobytes())


if __name__ == "__main__":
    main()
