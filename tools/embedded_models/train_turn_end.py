"""Trains what tells the end of a turn (voice/models/turn/weights.npz) and counts how sentences of the embedded vocabulary end
(endings.json beside the embedded speech model). Numpy only; about a second a made utterance on a busy core, kept in parts.

    python -m tools.embedded_models.train_turn_end --utterances 3000
"""

from __future__ import annotations

import argparse
import collections
import json
import random
from pathlib import Path

import numpy as np
import soxr

from tools.embedded_models import grammar
from tools.embedded_models.hesitations import Made, made
from voice.audio.detector import Detector
from voice.core.hearing import RESUMED_PADDING_MS
from voice.core.setters import SEMANTIC_VAD
from voice.engines import turn_end

ROOT = Path(__file__).resolve().parents[2]
ENDINGS = ROOT / "voice" / "models" / "stt" / "embedded-closed-vocab" / "endings.json"
BUILD = ROOT / "var" / "build" / "turn_end"
PART = 250
HIDDEN, NETWORKS, EPOCHS = 24, 3, 80


def endings(count: int, seed: int) -> dict[str, float]:
    """Chance that a sentence of the vocabulary is over after these last one to four words ("^" = its beginning); rare ones are left out."""
    rng, seen, ended = random.Random(seed), collections.Counter(), collections.Counter()
    for _ in range(count):
        words = ["^", *grammar.heard(rng.choice((*grammar.PLAIN, *grammar.SKILLS))(rng).user).split()]
        for i in range(1, len(words)):
            for n in range(1, 5):
                if i - n + 1 >= 0:
                    tail = " ".join(words[i - n + 1 : i + 1])
                    seen[tail] += 1
                    ended[tail] += i == len(words) - 1
    table: dict[str, float] = {}
    for tail in sorted(seen, key=lambda t: t.count(" ")):
        shorter = tail.split(" ", 1)[1] if " " in tail else ""
        chance = (ended[tail] + 2 * table.get(shorter, 0.3)) / (seen[tail] + 2)
        if seen[tail] >= 20 and (not shorter or abs(chance - table.get(shorter, 0.3)) > 0.05):
            table[tail] = round(chance, 3)
    return table


def pauses(one: Made, engine, table: dict[str, float]):
    """(features, is it the end) of each pause the detector finds; the audio as recognition gets it, without most of the silence of earlier pauses."""
    detector, parts, begin = Detector(SEMANTIC_VAD), [], 0
    for at in range(0, len(one.pcm), 1920):
        for edge in detector.push(one.pcm[at : at + 1920]):
            if edge.kind == "started":
                begin = max(0, edge.at_ms - 300)
            elif edge.kind == "resumed":
                begin = max(begin, edge.at_ms - RESUMED_PADDING_MS)
            elif edge.kind == "paused":
                parts.append(one.pcm[begin * 48 : edge.decided_ms * 48])
                begin = edge.decided_ms
                samples = soxr.resample(np.frombuffer(b"".join(parts), "<i2"), 24000, 16000).astype("<i2")
                found = list(engine.transcribe(samples.tobytes()))[-1]
                yield turn_end.features(samples, found.text, found.confidence, table), edge.at_ms > one.end_ms - 150, found.text


def gather(utterances: int, seed: int, engine, table: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    BUILD.mkdir(parents=True, exist_ok=True)
    rows, labels = [], []
    for part in range(0, utterances, PART):
        path = BUILD / f"{seed}-{part}.npz"
        if not path.exists():
            found = [pair for one in made(PART, seed * 100_000 + part) for pair in pauses(one, engine, table)]
            np.savez(path, x=np.array([x for x, _, _ in found]), y=np.array([y for _, y, _ in found]))
            print(f"{part + PART} utterances", flush=True)
        with np.load(path) as stored:
            rows.append(stored["x"])
            labels.append(stored["y"])
    return np.concatenate(rows), np.concatenate(labels)


def train(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """One network: a hidden layer, dropout and noise on its input, Adam."""
    chance, y = np.random.default_rng(seed), y.astype(float)
    p = {"w1": chance.normal(0, 0.1, (x.shape[1], HIDDEN)), "b1": np.zeros(HIDDEN), "w2": chance.normal(0, 0.1, HIDDEN), "b2": np.zeros(1)}
    m, v = ({k: np.zeros_like(a) for k, a in p.items()} for _ in range(2))
    step = 0
    for epoch in range(EPOCHS):
        order = chance.permutation(len(x))
        for at in range(0, len(order), 64):
            pick = order[at : at + 64]
            a = x[pick] * (chance.random(x[pick].shape) > 0.15) + chance.normal(0, 0.1, x[pick].shape)
            h = np.maximum(0, a @ p["w1"] + p["b1"])
            d = (1 / (1 + np.exp(-(h @ p["w2"] + p["b2"]))) - y[pick]) / len(pick)
            dh = np.outer(d, p["w2"]) * (h > 0)
            grad = {"w1": a.T @ dh + 3e-3 * p["w1"], "b1": dh.sum(0), "w2": h.T @ d + 3e-3 * p["w2"], "b2": d.sum(keepdims=True)}
            step += 1
            for k, g in grad.items():
                m[k], v[k] = 0.9 * m[k] + 0.1 * g, 0.999 * v[k] + 0.001 * g * g
                p[k] -= 2e-3 * 0.98**epoch * (m[k] / (1 - 0.9**step)) / (np.sqrt(v[k] / (1 - 0.999**step)) + 1e-8)
    return p


def fit(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    mean, scale = x.mean(0), x.std(0) + 1e-3
    nets = [train((x - mean) / scale, y, seed) for seed in range(1, NETWORKS + 1)]
    stacked = {k: np.stack([n[k] for n in nets]) for k in ("w1", "b1", "w2")}
    return {"mean": mean, "scale": scale, **stacked, "b2": np.concatenate([n["b2"] for n in nets])}


def main() -> None:
    from config.workers import DEFAULTS, engine_settings
    from voice.engines import create

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    table = endings(60000, options.seed)
    ENDINGS.write_text(json.dumps(table, separators=(",", ":")))
    engine = create("stt", *DEFAULTS["stt"], engine_settings())
    engine.load()
    x, y = gather(options.utterances, options.seed, engine, table)
    turn_end.WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(turn_end.WEIGHTS, **{k: a.astype(np.float32) for k, a in fit(x, y).items()})
    print(f"{len(x)} pauses, {int(y.sum())} of them ends; {turn_end.WEIGHTS}: {turn_end.WEIGHTS.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
