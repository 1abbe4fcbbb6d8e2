"""The end-of-turn rule with the real detector and recognition, on a few made utterances; `python -m bench --only "turn end"` takes 200."""

from __future__ import annotations

import pytest

from bench.turn_end import measure
from config.workers import DEFAULTS, engine_settings
from voice.engines import create
from voice.engines.turn_end import by_words


@pytest.fixture(scope="module")
def engine():
    made = create("stt", *DEFAULTS["stt"], engine_settings())
    made.load()
    return made


def test_pauses_inside_are_waited_out_and_ends_are_seen_soon(engine):
    found = measure(20, 5, engine)
    assert found.pauses >= 20 and len(found.cut_off) <= 2, found.cut_off
    assert sum(wait <= 700 for wait in found.waits_ms) >= 6, sorted(found.waits_ms)  # not waited out: known by the words and the voice


@pytest.mark.parametrize(("text", "low", "high"), [
    ("What is the capital of", 0, 0.1), ("I would like a table for two,", 0, 0.1), ("Well…", 0, 0.1), ("What is seven plus five?", 0.8, 1), ("yes", 0.4, 0.6), ("", 0, 0.1),
])  # fmt: skip
def test_words_that_want_another_one_and_marks_of_a_recogniser_that_writes_them(text, low, high):
    assert low <= by_words(text, {}) <= high


def test_a_closed_vocabulary_knows_its_own_endings(engine):
    assert by_words("what is the capital of", engine.endings) < 0.1 < 0.9 < by_words("what is the capital of france", engine.endings)
