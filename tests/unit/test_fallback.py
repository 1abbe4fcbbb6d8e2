"""An engine fails: another one takes over within its seconds, and what is known to be down is not asked."""

from __future__ import annotations

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import ChunkKind, Stage
from voice.gateway.admission import BUSY, LATE_MS, RETURNING, SAMPLES, Load

OTHERS = {"llm": ["openai", "backup"], "tts": ["kokoro", "small"], "stt": ["faster_whisper", "small"]}


def test_a_failing_engine_hands_its_work_to_the_fallback_after_what_was_said():
    d = Driver(fallbacks=OTHERS)
    d.say("count", output_modalities=["text"])
    first = d.start(Stage.LLM)
    d.chunk(first, ChunkKind.TEXT, text="One, ")
    d.chunk(first, ChunkKind.FAILED, name="llm_unavailable", text="refused", meta={"retryable": True})
    second = d.job(Stage.LLM)
    assert (second.engine, second.model, second.params["prefix"]) == ("openai", "backup", "One, ")
    d.chunk(second, ChunkKind.STARTED)
    d.chunk(second, ChunkKind.TEXT, text="two.")
    d.chunk(second, ChunkKind.DONE, meta={"finish_reason": "stop"})
    assert d.last("response.done")["response"]["output"][0]["content"][0]["text"] == "One, two."


def test_an_engine_that_does_not_answer_is_given_up_within_five_seconds():
    d = Driver(fallbacks=OTHERS)
    d.say("hi", output_modalities=["text"])
    d.start(Stage.LLM)
    d.pass_time(4.0, alive=True)
    assert d.job(Stage.LLM).engine == "openai" and d.of(fx.EngineFault)


def test_without_a_fallback_a_slow_engine_is_waited_for():
    d = Driver()
    d.say("hi", output_modalities=["text"])
    d.start(Stage.LLM)
    d.pass_time(8.0, alive=True)
    assert d.job(Stage.LLM).attempt == 1


def test_both_engines_down_ends_as_without_a_fallback():
    d = Driver(fallbacks=OTHERS)
    d.say("hi", output_modalities=["text"])
    for _ in range(2):
        d.chunk(d.start(Stage.LLM), ChunkKind.FAILED, name="engine_error", text="it broke")
    assert d.last("response.done")["response"]["status"] == "failed"


def test_what_is_known_to_be_down_is_not_asked():
    d = Driver(fallbacks={"llm": OTHERS["llm"]})
    d.session.context.healthy = lambda engine: engine[1] == "openai"
    d.say("hi")
    assert d.job(Stage.LLM).engine == "openai"
    opened = [e for e in d.of(fx.OpenJob) if e.job.stage is Stage.TTS]
    assert opened[-1].refused, "there is no other voice: the shell says so at once"
    assert not [e for e in d.of(fx.OpenJob) if e.job.stage is Stage.LLM][-1].refused


def test_clients_are_told_of_degraded_parts_only_if_they_asked():
    for asked in (False, True):
        d = Driver(extensions=asked)
        frames = d.take(d.session.degraded("llm", d.now, mode="fallback", fallback="openai", since=5.5, retry_after_ms=100))
        frames += d.take(d.session.recovered("llm", d.now))
        assert d.types(frames) == (["ext.degraded", "ext.recovered"] if asked else [])


def test_sessions_are_refused_by_measured_load():
    def load(share: float, late_ms: float) -> Load:
        measured = Load()
        for i in range(SAMPLES):
            measured.see(late_ms, i * 0.1, i * 0.1 * share)
        return measured

    assert load(0.9, LATE_MS + 10).full() and not load(0.9, LATE_MS + 10).full(returning=True)
    assert load(0.9, LATE_MS * RETURNING + 10).full(returning=True)
    assert not load(1.0, 5).full(), "a storm that nobody notices is no reason"
    assert not load(BUSY - 0.1, LATE_MS + 100).full(), "the machine is late, not this process"
    assert not Load().full()
