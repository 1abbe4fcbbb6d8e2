"""Detection on real synthetic speech, silence, noise and clipping."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from tests.infrastructure import ROOT
from voice.audio.detector import Detector
from voice.audio.endpointing import PAUSE_MS, SEMANTIC_LIMIT_MS
from voice.audio.vad import HISTORY, WINDOW, _Call
from voice.core.setters import SEMANTIC_VAD, SERVER_VAD
from voice.gateway.talk import read_wav

SAMPLES = sorted((ROOT / "samples").glob("*.wav"))
SECOND = bytes(48000)


def detect(pcm: bytes, settings=SERVER_VAD, gate_db=-55.0, step=1920):
    detector = Detector(settings, gate_db)
    edges = []
    for at in range(0, len(pcm), step):
        edges += detector.push(pcm[at : at + step])
    return detector, edges


def scaled(pcm: bytes, db: float) -> bytes:
    return (np.frombuffer(pcm, "<i2") * 10 ** (db / 20)).astype("<i2").tobytes()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_each_sample_is_one_utterance(path):
    pcm = read_wav(path)
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2")) > 300)
    _, edges = detect(SECOND + pcm + SECOND)
    assert [e.kind for e in edges] == ["started", "paused", "stopped"]
    assert abs(edges[0].at_ms - (1000 + loud[0] / 24)) < 150
    assert edges[1].at_ms == edges[2].at_ms and abs(edges[2].at_ms - (1000 + loud[-1] / 24)) < 250
    assert 0 <= edges[1].decided_ms - edges[1].at_ms - PAUSE_MS < 32 and 480 <= edges[2].decided_ms - edges[2].at_ms <= 580


@pytest.mark.parametrize("db", [-6, -20, -30])
def test_quiet_speech_passes_the_gate(db):
    pcm = SECOND + scaled(read_wav(ROOT / "samples" / "question.wav"), db) + SECOND
    gated, ungated = detect(pcm)[1], detect(pcm, gate_db=0)[1]
    assert [e.kind for e in gated] == [e.kind for e in ungated] == ["started", "paused", "stopped"]
    assert abs(gated[0].at_ms - ungated[0].at_ms) <= 64 and abs(gated[2].at_ms - ungated[2].at_ms) <= 96


def test_the_gate_saves_the_model_the_silence():
    pcm = SECOND * 4 + read_wav(ROOT / "samples" / "question.wav") + SECOND * 4
    assert detect(pcm)[0]._vad.asked < 0.45 * detect(pcm, gate_db=0)[0]._vad.asked


@pytest.mark.parametrize("kind", ["silence", "white", "hum"])
def test_no_speech_no_edges(kind):
    rng = np.random.default_rng(1)
    samples = {"silence": np.zeros(72000), "white": rng.normal(0, 0.01, 72000), "hum": 0.05 * np.sin(np.arange(72000) / 76)}[kind]
    assert detect((samples * 32767).astype("<i2").tobytes())[1] == []


def test_the_size_of_chunks_does_not_matter():
    pcm = SECOND + read_wav(ROOT / "samples" / "story.wav") + SECOND
    wanted = detect(pcm)[1]
    for step in (480, 4800, len(pcm)):
        assert detect(pcm, step=step)[1] == wanted


@pytest.mark.parametrize("eagerness", SEMANTIC_LIMIT_MS)
def test_eagerness_sets_the_limit_of_the_wait(eagerness):
    pcm = read_wav(ROOT / "samples" / "question.wav") + SECOND * 9
    edge = detect(pcm, {**SEMANTIC_VAD, "eagerness": eagerness})[1][-1]
    assert 0 <= edge.decided_ms - edge.at_ms - SEMANTIC_LIMIT_MS[eagerness] <= 64


def test_a_pause_ends_the_turn_when_it_is_told_to_and_speech_goes_on_after_it():
    word = read_wav(ROOT / "samples" / "question.wav")
    detector, edges, asked = Detector(SEMANTIC_VAD), [], 0
    pcm = word + bytes(48 * 700) + word + bytes(48 * 700)
    for at in range(0, len(pcm), 1920):
        found = detector.push(pcm[at : at + 1920])
        edges += found
        if any(e.kind == "paused" for e in found) and (asked := asked + 1) == 2:
            detector.end_after(320)
    assert [e.kind for e in edges] == ["started", "paused", "resumed", "paused", "stopped"]
    assert abs(edges[2].at_ms - (edges[1].at_ms + 700)) < 150 and 320 <= edges[4].decided_ms - edges[4].at_ms < 384


def test_off_and_on_again():
    pcm = read_wav(ROOT / "samples" / "question.wav") + SECOND
    detector = Detector(None)
    assert not detector.push(pcm)
    detector.configure(SERVER_VAD, reset=False)
    edges = list(detector.push(pcm))
    assert [e.kind for e in edges] == ["started", "paused", "stopped"] and edges[0].at_ms >= len(pcm) // 48 - 32


def test_the_model_is_given_the_same_sound_at_16_khz():
    """Against soxr: the same but for the edge of the band, 1 ms (16 samples) later."""
    pcm = np.frombuffer(read_wav(ROOT / "samples" / "question.wav"), "<i2")
    wanted, call, given = soxr.resample(pcm / 32768, 24000, 16000), _Call(1), []
    held = np.concatenate((np.zeros(HISTORY, np.int16), pcm))
    for at in range(0, len(pcm) - WINDOW + 1, WINDOW):
        call.sounds[0] = held[at : at + HISTORY + WINDOW]
        call.run()
        given.append(call.rows[0, -512:].copy())
    given = np.concatenate(given)[16:]
    wanted = wanted[: len(given)]
    assert ((given - wanted) ** 2).sum() < 0.001 * (wanted**2).sum()


def test_speech_that_goes_on_is_looked_at_two_windows_at_a_time_and_its_end_at_once():
    pcm = SECOND + read_wav(ROOT / "samples" / "question.wav") + SECOND
    detector, calls = Detector(SERVER_VAD), []
    chances = detector._vad.chances
    detector._vad.chances = lambda held, count: calls.append(count) or chances(held, count)
    for at in range(0, len(pcm), 768 * 2):
        for edge in detector.push(pcm[at : at + 768 * 2]):
            assert at // 48 + 32 - edge.decided_ms == 0
    assert calls.count(2) > 15
