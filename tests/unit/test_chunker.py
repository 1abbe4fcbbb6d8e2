from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice.core.chunker import MAX_CHARS, Chunker


def cut(text: str, step: int = 3) -> list[str]:
    chunker, found = Chunker(), []
    for at in range(0, len(text), step):
        found += chunker.feed(text[at : at + step])
    return found + chunker.flush()


@pytest.mark.parametrize(("text", "wanted"), [
    ("Hello there. How are you? Fine!", ["Hello there. ", "How are you? ", "Fine!"]),
    ("Dr. Smith is 3.5 years old. Really.", ["Dr. Smith is 3.5 years old. ", "Really."]),
    ("He lives at J. Street, e.g. there. Yes.", ["He lives at J. Street, e.g. there. ", "Yes."]),
    ('She said "stop." Then she left.', ['She said "stop." ', "Then she left."]),
    ("Wait… what?! No way.", ["Wait… ", "what?! ", "No way."]),
    ("1. Open it. 2. Close it.", ["1. Open it. ", "2. Close it."]),
    ("One line\nanother line", ["One line\n", "another line"]),
    ("It costs 9.99. So do I.", ["It costs 9.99. ", "So do I."]),
    ("no end", ["no end"]), ("", []), ("   ", []),
])  # fmt: skip
def test_sentences(text, wanted):
    assert cut(text) == wanted and cut(text, 1) == wanted and cut(text, 1000) == wanted


def test_a_long_clause_is_cut():
    pieces = cut("word " * 200)
    assert max(map(len, pieces)) <= MAX_CHARS + 1 and "".join(pieces) == "word " * 200


@given(st.text(alphabet="ab .,!?\n1Dr\"'…", max_size=600), st.integers(1, 50))
def test_nothing_is_lost(text, step):
    joined = "".join(cut(text, step))
    assert text.startswith(joined) and not text[len(joined) :].strip()
