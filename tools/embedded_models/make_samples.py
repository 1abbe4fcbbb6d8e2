"""Writes samples/*.wav (24 kHz mono PCM16): sentences the embedded models know, spoken by espeak-ng."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from speech import Espeak, to_rate, write_wav  # noqa: E402

SAMPLES = {
    "question": ("what is seven plus five", "en-us+f2"), "name": ("my name is alice", "en-us+f4"), "who": ("what is my name", "en-us+f4"),
    "count": ("count to fifty", "en-us+m3"), "story": ("tell me a story", "en-us+f3"), "light": ("turn off the kitchen light", "en+m4"),
    "weather": ("what is the weather in paris today", "en-us+m1"),
}  # fmt: skip


def main() -> None:
    folder = HERE.parents[1] / "samples"
    folder.mkdir(exist_ok=True)
    espeak = Espeak()
    for name, (text, voice) in SAMPLES.items():
        write_wav(folder / f"{name}.wav", to_rate(espeak.say(text, voice, 165), 24000), 24000)
        print(folder / f"{name}.wav")


if __name__ == "__main__":
    main()
