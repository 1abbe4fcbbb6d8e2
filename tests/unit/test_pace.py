"""Events of a workspace: so many a second, ten seconds' worth at once, each holder for itself."""

from __future__ import annotations

from voice.gateway import clock
from voice.gateway.pace import BURST_S, HOLDERS, Events


def test_a_burst_is_taken_and_what_follows_keeps_to_the_limit():
    events = Events()
    began = clock.now()
    taken = sum(events.take([("ten_a", 100)]) is None for _ in range(3000))
    assert 100 * BURST_S <= taken <= 100 * (BURST_S + clock.now() - began) + 1
    assert events.take([("ten_a", 100)]) == 100 and events.take([("ten_b", 100)]) is None
    assert events.take([("key_b", 0), ("ten_b", 100)]) == 0  # the key's own is the tighter


def test_what_is_remembered_of_holders_is_bounded():
    events = Events()
    for n in range(HOLDERS + 5):
        events.take([(f"ten_{n}", 10)])
    for bucket in events._buckets.values():
        bucket.at -= BURST_S
    events.take([("ten_new", 10)])
    assert len(events._buckets) == 1
