from __future__ import annotations

import pytest

from voice.engines.thoughts import Thoughts

CASES = [("<think>\nhm, <b>\n</think>\n\nHello there.", "Hello there."), ("Hello.", "Hello."), ("\nHello.", "\nHello."), ("a < b and <thin", "a < b and <thin"),
         ("One. <think>x</think>Two.", "One. Two."), ("<think>never ends", ""), ("<think></think>", "")]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), CASES)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_thoughts_are_not_said(text, said, step):
    thoughts = Thoughts()
    assert "".join(thoughts.feed(text[at : at + step]) for at in range(0, len(text), step)) + thoughts.rest() == said
