"""What a client may be told and when (voice/gateway/recorder.py): a turn's end when one durable place has the turn, in every order of failures."""

from __future__ import annotations

import orjson
import pytest

from tests.unit.driver import Driver
from voice.bus.sessions import FENCED, LOST, OK, Saved
from voice.core import effects as fx
from voice.core.jobs import Stage
from voice.gateway.recorder import Record


class Gateway:
    """Owner, store and recorder of one record: what was let go, what PostgreSQL was given. `written` and `unwritten` are Redis's answers."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.session = self.driver.session
        self.told: list[str] = []
        self.given: list[tuple[int, str]] = []
        self.failing = self.gone = False
        self.record = Record("sess_1", self, self, self)
        self.record.about = {"window_s": 60}
        self.effects = len(self.driver.effects)

    def put(self, number, kind, fields) -> None:
        self.given.append((number, kind))

    def release(self, number, frames) -> None:
        assert number == len(self.told), "frames go out once, in their order"
        self.told += frames

    def fenced(self) -> None:
        self.gone = True

    def wake(self, record) -> None: ...

    def soon(self, record) -> None: ...

    def moved(self) -> None: ...

    def goes_on(self) -> None:
        """What the core did since, as Live carries it out."""
        for effect in self.driver.effects[self.effects :]:
            if isinstance(effect, fx.Send | fx.SendAudio):
                self.record.put(effect.event["type"])
            elif isinstance(effect, fx.SaveItem):
                self.record.owe("item", {})
            elif isinstance(effect, fx.RecordTurn):
                self.record.owe("turn", {"turn": effect.turn_id})
        self.effects = len(self.driver.effects)

    def redis(self, answer: int | None) -> None:
        """It takes a batch with this answer; None: it is away."""
        self.record.take()
        self.record.unwritten() if answer is None else self.record.written(answer)

    def answer(self) -> None:
        self.driver.say("hello")
        self.driver.write("Hi.")

    def speak(self) -> None:
        self.driver.speak(self.driver.start(Stage.TTS), 0)
        self.driver.pass_time(3, alive=True)


@pytest.fixture
def gateway():
    made = Gateway()
    made.redis(OK)
    made.answer()
    made.goes_on()
    made.redis(OK)
    return made


def test_the_end_of_a_turn_waits_for_postgresql_and_nothing_before_it_does(gateway):
    gateway.speak()
    gateway.goes_on()
    gateway.redis(OK)
    assert "response.output_audio.delta" in gateway.told and "response.done" not in gateway.told
    gateway.record.settled(gateway.record.owed)
    assert gateway.told[-2:] == ["response.done", "rate_limits.updated"] and not gateway.record.waiting


def test_while_postgresql_does_not_answer_redis_is_enough(gateway):
    gateway.speak()
    gateway.goes_on()
    gateway.failing = True
    gateway.redis(OK)
    assert "response.done" in gateway.told and gateway.record.kept


def test_with_both_away_it_waits_for_either(gateway):
    gateway.speak()
    gateway.goes_on()
    gateway.failing = True
    gateway.redis(None)
    assert "response.output_audio.delta" not in gateway.told and "response.done" not in gateway.told and not gateway.record.kept
    assert gateway.given[-1][1] == "turn"  # PostgreSQL is tried all the same
    batch = gateway.record.take()  # Redis is back: what nobody was told is written anew, with what PostgreSQL is owed
    assert batch.seed and "response.done" in batch.frames and len(batch.journal) == gateway.record.owed
    gateway.record.written(OK)
    assert "response.done" in gateway.told


def test_without_redis_an_answer_is_heard_with_its_end_and_other_news_at_once(gateway):
    gateway.driver.pass_time(0.1)
    gateway.speak()
    gateway.goes_on()
    gateway.redis(None)
    assert "response.output_audio.delta" not in gateway.told
    gateway.record.settled(gateway.record.owed)
    assert gateway.told[-2] == "response.done"
    gateway.driver.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
    gateway.goes_on()
    gateway.redis(None)
    assert gateway.told[-1] == "session.updated"


def test_what_redis_lost_is_written_anew_and_each_entry_is_handed_on_once(gateway):
    gateway.speak()
    gateway.goes_on()
    gateway.redis(LOST)
    assert "response.output_audio.delta" not in gateway.told
    gateway.redis(OK)
    gateway.record.settled(gateway.record.owed)
    assert "response.done" in gateway.told
    assert [number for number, _ in gateway.given] == list(range(gateway.record.owed))


def test_who_lost_the_session_tells_nothing_more(gateway):
    gateway.speak()
    gateway.goes_on()
    before = list(gateway.told)
    gateway.redis(FENCED)
    gateway.record.settled(gateway.record.owed)
    assert gateway.gone and gateway.told == before


def test_who_takes_a_session_up_pays_first_and_tells_then(gateway):
    journal = [orjson.dumps([4, "item", {}]), orjson.dumps([5, "turn", {}])]
    other = Gateway()
    other.record.adopt(Saved({"ver": b"7", "seq": b"3", "jbase": b"4"}, ["a", "b", "c"], journal), "tok")
    assert other.given == [(4, "item"), (5, "turn")] and other.record.waiting and other.record.told == 3
    other.failing = True
    assert not other.record.waiting  # Redis has it
    other.failing = False
    other.record.settled(6)
    assert not other.record.waiting
