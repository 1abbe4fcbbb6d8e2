"""Made utterances with pauses inside: what the end of a turn is learnt from and measured on. Drawn from a seed, never stored.

A sentence of the embedded vocabulary is spoken by espeak-ng; at one or two word boundaries (any of them, or where a comma was put, so that
the voice does what it does before a comma) the speaker stops for 0.3-1.5 s.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np

from tools.embedded_models import grammar
from voice.engines.tts import espeak

HZ = 24000
NOISE_DBFS = -62


@dataclass(frozen=True)
class Made:
    """`pauses`: (from_ms, to_ms) inside; `end_ms`: where speech is really over. `pcm`: PCM16 mono 24 kHz, ends with 5 s of quiet room."""

    text: str
    voice: str
    pcm: bytes
    pauses: tuple[tuple[int, int], ...]
    end_ms: int


def sentence(rng: random.Random) -> str:
    """As one writes it: capital, full stop or question mark."""
    while True:
        maker = rng.choice((*grammar.PLAIN, *grammar.SKILLS))
        text = re.sub(r"#(\d+)", lambda m: grammar.words(int(m[1]), " "), maker(rng).user).replace("@", "").strip()
        if len(text.split()) >= 4:
            return text if text[-1] in ".?!" else text + "."


def make(rng: random.Random, engine: espeak.Engine, voices: list[str]) -> Made:
    words = sentence(rng).split()
    cuts = sorted(rng.sample(range(1, len(words)), min(rng.randint(1, 2), len(words) - 1)))
    spoken = [w + "," if i + 1 in cuts and w[-1].isalnum() and rng.random() < 0.5 else w for i, w in enumerate(words)]
    voice, speed = rng.choice(voices), rng.uniform(0.85, 1.25)
    pcm, marks = b"", []
    for piece in engine.synthesize(" ".join(spoken), voice=voice, speed=speed):
        pcm += piece.pcm
        marks += piece.marks
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    samples *= 10 ** (rng.uniform(-14, -3) / 20) * 32767 / max(1.0, np.abs(samples).max())
    starts = [at for _, at in sorted(marks)]
    if len(starts) != len(words):  # espeak joined or split words: without word times no pause can be placed
        return make(rng, engine, voices)
    parts, pauses, done, at_ms = [np.zeros(HZ // 2, np.float32)], [], 0, 500
    for cut in cuts:
        here = _quietest(samples, starts[cut] * HZ // 1000)
        before = _trimmed(samples[done:here])
        parts.append(before)
        at_ms += len(before) * 1000 // HZ
        length = rng.randint(300, 1500)
        pauses.append((at_ms, at_ms + length))
        parts.append(np.zeros(length * HZ // 1000, np.float32))
        at_ms += length
        done = here
    last = _trimmed(samples[done:])
    end_ms = at_ms + len(last) * 1000 // HZ
    whole = np.concatenate([*parts, last, np.zeros(5 * HZ, np.float32)])
    noise = np.random.default_rng(rng.randrange(2**31)).normal(0, 10 ** (NOISE_DBFS / 20) * 32767, len(whole))
    return Made(" ".join(spoken), voice, np.clip(whole + noise, -32768, 32767).astype("<i2").tobytes(), tuple(pauses), end_ms)


def _quietest(samples: np.ndarray, near: int) -> int:
    """The quietest 5 ms within 30 ms of a word's beginning."""
    step, reach = HZ // 200, HZ * 30 // 1000
    low = max(0, near - reach)
    window = samples[low : near + reach]
    count = len(window) // step
    if not count:
        return near
    loud = (window[: count * step].reshape(count, step) ** 2).sum(1)
    return low + int(loud.argmin()) * step


def _trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence at its ends."""
    loud = np.flatnonzero(np.abs(samples) > 150)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def made(count: int, seed: int, voices: list[str] | None = None):
    """`count` utterances, every second one without a pause."""
    rng, engine = random.Random(seed), espeak.Engine()
    engine.load()
    for _ in range(count):
        yield make(rng, engine, voices or list(espeak.VOICES))
