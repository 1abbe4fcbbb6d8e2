"""A session that nobody holds is gone at once: its parts are no ring that waits for the collector."""

from __future__ import annotations

import gc
import weakref

import pytest

from tests.unit.driver import Driver
from tests.unit.test_core_tools import CRM, answer, called
from tests.unit.test_core_turns import drafted, story
from voice.core.jobs import Stage


@pytest.fixture(autouse=True)
def without_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def freed(d: Driver) -> list[bool]:
    """Of the session, its answers and its parts, once the driver and what it kept are gone."""
    session = d.session
    parts = (session, session.context, session.turns, session.floor, *session.responses(), *([session.last] if session.last else []))
    watched = [weakref.ref(part) for part in parts]
    del parts
    d.take(session.close("client", d.now))
    d.__dict__.clear()
    del session
    return [found() is None for found in watched]


def test_while_an_answer_begun_ahead_is_spoken():
    d = drafted()
    d.edge("stopped", 340, silence_ms=500)
    assert d.session.active
    assert all(freed(d))


def test_after_an_answer_that_was_interrupted():
    d = story(backchannels=False)
    d.utter()
    assert d.last("response.done")["response"]["status"] == "cancelled" and d.session.last
    assert all(freed(d))


def test_after_functions_and_typed_answers():
    d = Driver(server_tools=CRM)
    d.say("who is five", output_modalities=["text"])
    call, = called(d, "crm", text="Let me see.")
    answer(d, call, "Ada")
    d.write("It is Ada.")
    d.say("and six", conversation="none", output_modalities=["text"])
    del call
    assert all(freed(d))


def test_in_another_process():
    d = Driver()
    d.say("count")
    d.write("One. Two. Three.")
    d.speak(d.start(Stage.TTS), 0, ms=1500)
    d.move()
    d.pass_time(0.2)
    assert all(freed(d))
