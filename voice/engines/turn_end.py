"""Has the user finished? The chance, from what was said so far and how: for the pause after it.

An average of small networks over the voice (voice/audio/prosody.py), the words and how surely they were recognised. Learnt from made speech
(tools/embedded_models/train_turn_end.py; model card beside the weights).
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path

import numpy as np

from voice.audio import prosody

WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "turn" / "weights.npz"
# English words that a finished sentence hardly ever ends with
OPEN_WORDS = frozenset(
    "a an the my your our his her its this these those of to in on at for from with by about into over under after before between and or but so "
    "because if when while as than then is are was were am be been being do does did can could will would shall should may might must have has "
    "had i you he she we they what which who whom whose where why how please want like need tell give turn plus minus times um uh er".split()
)


def by_words(text: str, endings: dict[str, float]) -> float:
    """The chance by words alone: by a table of a closed vocabulary, else by the punctuation the recogniser wrote and by the last word."""
    words = text.lower().split()
    if not words:
        return 0.05
    if endings:
        tail = ["^", *words]
        found = (endings.get(" ".join(tail[-n:])) for n in range(min(4, len(tail)), 0, -1))
        return next((chance for chance in found if chance is not None), 0.3)
    if text.rstrip().endswith(("...", "…", ",", "-", "–", ":", ";")) or words[-1].strip(".,?!'\"") in OPEN_WORDS:
        return 0.05
    return 0.9 if text.rstrip()[-1] in ".?!" else 0.5


def features(samples: np.ndarray, text: str, confidence: float, endings: dict[str, float]) -> np.ndarray:
    """int16 at 16 kHz from the utterance's beginning to some silence after it."""
    end, speech_ms = prosody.speech_end(samples)
    voice = prosody.features(samples[:end])
    syllables = sum(max(1, len(re.findall("[aeiouyäöüáéíóúàèìòùâêîôû]+", word))) for word in text.lower().split()) or 1
    chance = min(0.97, max(0.03, by_words(text, endings)))
    told = [math.log(chance / (1 - chance)), max(-1.5, math.log(max(confidence, 1e-3))), float(len(text.split()) < 2),
            min(1.0, max(-1.0, math.log(speech_ms / syllables / 180))), math.log(speech_ms / 1000), math.log(syllables)]  # fmt: skip
    return np.concatenate((np.zeros(prosody.SIZE, np.float32) if voice is None else voice, told)).astype(np.float32)


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    with np.load(WEIGHTS) as stored:
        return dict(stored)


def chance(samples: np.ndarray, text: str, confidence: float, endings: dict[str, float]) -> float:
    """0..1."""
    w = _weights()
    found = (features(samples, text, confidence, endings) - w["mean"]) / w["scale"]
    hidden = np.maximum(0, np.einsum("i,nih->nh", found, w["w1"]) + w["b1"])
    return float((1 / (1 + np.exp(-((hidden * w["w2"]).sum(1) + w["b2"])))).mean())
