"""An engine is away: what the caller hears instead (protocol section 9), and how a session is ended aloud."""

from __future__ import annotations

import pytest

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import ChunkKind, Stage
from voice.core.notices import Notice, NoticeKind

NOTICES = {kind: Notice(f"Sorry: {kind}.", b"\3\0" * 24 * 450) for kind in NoticeKind}  # 450 ms each


@pytest.fixture
def d():
    driver = Driver()
    driver.session.context.notices = lambda kind, voice: NOTICES[kind]
    return driver


def failed(d: Driver, stage: Stage, code: str = "engine_error") -> None:
    d.chunk(d.start(stage), ChunkKind.FAILED, name=code, text="it broke")


def heard(d: Driver) -> bytes:
    return b"".join(e.pcm for e in d.of(fx.SendAudio))


def test_without_hearing_the_caller_is_told_aloud(d):
    d.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    d.utter()
    failed(d, Stage.STT, "stt_unavailable")
    assert d.last("conversation.item.input_audio_transcription.failed")["error"]["code"] == "stt_unavailable"
    response = d.last("response.done")["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": NOTICES["stt_unavailable"].text}]
    assert heard(d) == NOTICES["stt_unavailable"].pcm
    assert d.of(fx.RecordTurn)[-1].usage["audio_out_ms"] == 0, "an apology is not billed"


def test_without_a_language_model_an_apology_comes_and_the_response_has_failed(d):
    d.say("hi")
    failed(d, Stage.LLM)
    response = d.last("response.done")["response"]
    assert response["status"] == "failed" and response["status_details"]["error"]["code"] == "engine_error"
    assert heard(d) == NOTICES["llm_unavailable"].pcm
    assert not d.session.context.leases


def test_what_was_written_is_spoken_to_its_end_before_the_apology(d):
    d.say("hi")
    llm = d.start(Stage.LLM)
    d.chunk(llm, ChunkKind.TEXT, text="One thing. And ano")
    tts = d.start(Stage.TTS)
    d.speak(tts, 0, ms=300)
    d.chunk(llm, ChunkKind.FAILED, name="engine_error", text="it broke")
    assert heard(d) == b"\2\0" * 24 * 300
    d.speak(tts, 1, ms=200)
    assert heard(d) == b"\2\0" * 24 * 500 + NOTICES["llm_unavailable"].pcm
    response = d.last("response.done")["response"]
    assert response["status"] == "failed"
    said = next(f["transcript"] for f in d.sent if f["type"] == "response.output_audio_transcript.done")
    assert said == "One thing. And ano Sorry: llm_unavailable."
    assert d.of(fx.RecordTurn)[-1].usage["audio_out_ms"] == 500


def test_without_speech_synthesis_the_words_come_alone(d):
    d.say("hi")
    failed(d, Stage.TTS)
    d.write("Hello there. How are you?")
    response = d.last("response.done")["response"]
    assert response["status"] == "completed" and not heard(d)
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hello there. How are you?"}]


def test_speech_synthesis_lost_in_the_middle_leaves_what_was_said(d):
    d.say("hi")
    d.write("Hello there. How are you?")
    tts = d.start(Stage.TTS)
    d.speak(tts, 0, ms=300)
    d.speak(tts, 1, ms=100, final=False)
    d.chunk(tts, ChunkKind.FAILED, name="engine_error", text="it broke")
    assert d.last("response.done")["response"]["status"] == "completed"
    assert len(heard(d)) == 400 * 48


def test_a_limit_is_no_fault_of_the_engines(d):
    d.say("hi")
    job = d.job(Stage.LLM)
    d.take(d.session.job_lost(job.id, 1, "insufficient_quota", "used up", d.now))
    assert d.last("response.done")["response"]["status_details"]["error"]["code"] == "insufficient_quota"
    assert not heard(d)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_session_is_ended_aloud(d, modality):
    d.send("session.update", session={"output_modalities": [modality]})
    d.say("count")
    d.chunk(d.start(Stage.LLM), ChunkKind.TEXT, text="One. ")
    notice = NOTICES["insufficient_quota"]
    d.take(d.session.conclude("insufficient_quota", "The budget is used up.", notice, d.now))
    done = [f["response"] for f in d.sent if f["type"] == "response.done"]
    assert [r["status"] for r in done] == ["cancelled", "completed"]
    assert heard(d) == (notice.pcm if modality == "audio" else b"")
    assert d.types()[-1] == "error" and d.last("error")["error"]["code"] == "insufficient_quota"
    assert d.of(fx.Close) == [fx.Close(1008, "insufficient_quota")]
    assert not d.session.context.leases


def test_a_transcription_session_is_ended_without_a_word():
    d = Driver(type="transcription")
    d.take(d.session.conclude("insufficient_quota", "used up", NOTICES["insufficient_quota"], d.now))
    assert "response.created" not in d.types() and d.of(fx.Close)


def test_what_a_worker_of_another_stage_would_say_is_nothing(d):
    d.say("hi", output_modalities=["text"])
    job = d.start(Stage.LLM)
    d.chunk(job, ChunkKind.TEXT, text="Well. ")
    d.chunk(job, ChunkKind.AUDIO, pcm=b"\1\0" * 2400)
    d.chunk(job, ChunkKind.TRANSCRIPT, text="what?", final=True)
    d.chunk(job, ChunkKind.DONE, meta={"finish_reason": "stop"})
    assert d.last("response.done")["response"]["output"][0]["content"][0]["text"] == "Well. " and not heard(d)
