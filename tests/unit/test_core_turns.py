"""Turn taking in the core: recognition during speech, answers begun ahead, backchannels, silence. Pure, no servers."""

from __future__ import annotations

import pytest

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.barge_in import is_backchannel
from voice.core.hearing import StableText
from voice.core.jobs import ChunkKind, Stage
from voice.core.speech import SpeechEdge

SHOWN = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}


def speaking(ms: int = 700, **config) -> Driver:
    """The user is in the middle of an utterance; recognition listens."""
    d = Driver(**config)
    d.send("session.update", session=SHOWN)
    d.edge("started", 100)
    for _ in range(0, ms, 50):
        d.audio(50)
    return d


def paused(text: str = "what is seven plus five", **config) -> Driver:
    """…and has paused; what was said is known."""
    d = speaking(**config)
    d.edge("paused", 160, silence_ms=160)
    d.hear(text)
    return d


def drafted(*texts: str, **config) -> Driver:
    """…and an answer was begun ahead: words, and the sound of the first sentence."""
    d = paused(**config)
    d.write(*(texts or ("Seven plus five is twelve. ", "Anything else?")))
    d.speak(d.start(Stage.TTS), 0, ms=300)
    return d


def story(**config) -> Driver:
    """A long answer is being heard."""
    d = Driver(**config)
    d.say("tell me a story")
    d.write("Once upon a time there was a dragon. It slept.")
    d.speak(d.start(Stage.TTS), 0, ms=5000, marks=tuple((i, i * 100) for i in range(0, 36, 5)))
    d.pass_time(1.0, alive=True)
    return d


def feeds(d: Driver) -> list:
    return d.fed[d.session.turns.hearing.lease.job.id]


def test_recognition_listens_while_the_user_speaks():
    d = speaking(1300)
    heard = feeds(d)
    assert len(heard) == 3 and not heard[-1].last and d.job(Stage.STT).params["interim_ms"] == 600
    d.edge("paused", 160, silence_ms=160)
    assert feeds(d)[-1].flush
    pcm = sum(len(f.pcm) for f in feeds(d)) // 48
    assert pcm == d.session.turns.buffer.total_ms - d.session.turns.speech_from_ms
    count = len(d.jobs)
    d.edge("stopped", 340, silence_ms=500)
    d.transcript("hello")
    assert len([j for j in d.jobs.values() if j.stage is Stage.STT]) == 1 and count == 1
    assert d.last("conversation.item.input_audio_transcription.completed")["transcript"] == "hello"


def test_padding_before_the_first_word_is_heard_too():
    d = Driver()
    d.audio(1000)
    d.edge("started", 64, at_ms=1000)
    assert d.last("input_audio_buffer.speech_started")["audio_start_ms"] == 700
    assert len(feeds(d)[0].pcm) == (1064 - 700) * 48


def test_deltas_are_never_taken_back():
    d = speaking()
    assert d.hear("what is") == []  # one hearing proves nothing
    assert [f["delta"] for f in d.hear("what is the cab")] == ["what is"]
    assert d.hear("what was the capital") == []  # a revision: held back
    d.edge("paused", 160, silence_ms=160)
    assert [f["delta"] for f in d.hear("what is the capital of france")] == []
    frames = d.edge("stopped", 340, silence_ms=500)
    deltas = "".join(f["delta"] for f in d.sent if f["type"].endswith("transcription.delta"))
    done = next(f for f in frames if f["type"].endswith("transcription.completed"))
    assert deltas == done["transcript"] == "what is the capital of france"
    item_id = d.last("input_audio_buffer.speech_started")["item_id"]
    assert {f["item_id"] for f in d.sent if f["type"].endswith("transcription.delta")} == {done["item_id"], item_id}


def test_stable_text_holds_back_what_a_revision_would_change():
    shown = StableText()
    assert [shown.grow(t) for t in ("I", "I am here", "I am her", "I am here now", "I am here now")] == ["", "I", " am", "", " here now"]
    assert shown.finish("I am here now, yes") == "" and shown.finish("I am here now too") == " too"


def test_an_answer_is_begun_ahead_and_nothing_of_it_is_seen_before_the_end_of_the_turn():
    d = drafted()
    assert not [t for t in d.types() if t.startswith("response.") or "item" in t and "transcription" not in t] and not d.of(fx.CountJob)
    frames = d.edge("stopped", 340, silence_ms=500)
    assert d.types(frames)[:9] == [
        "input_audio_buffer.speech_stopped", "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
        "conversation.item.input_audio_transcription.completed", "response.created", "response.output_item.added", "conversation.item.added",
        "response.content_part.added"]  # fmt: skip
    assert len([f for f in frames if f["type"] == "response.output_audio.delta"]) == 3  # in the very same moment
    tts = d.session.active.delivery.tts.job
    assert [f.text for f in d.fed[tts.id]] == ["Seven plus five is twelve. ", "Anything else?", ""]  # the first was not fed twice
    d.speak(tts, 1, ms=200)
    response = d.last("response.done")["response"]
    assert response["status"] == "completed" and response["output"][0]["content"][0]["transcript"] == "Seven plus five is twelve. Anything else?"
    turn = d.of(fx.RecordTurn)[-1]
    names = [n for n, _ in turn.segments]
    assert names[0] == "endpointing" and 499 < turn.segments[0][1] < 501 and sum(ms for _, ms in turn.segments) < 502
    assert [n for n, _ in turn.overlapped][:3] == ["pause", "stt_queue", "stt"] and turn.overlapped[-1][0] == "tts" and sum(ms for _, ms in turn.overlapped) <= 500
    assert turn.usage["tokens_in"] == 10 and not turn.unbilled.get("tokens_in")
    assert [e.job.stage for e in d.of(fx.CountJob)] == [Stage.STT, Stage.LLM]
    d.order.finished()


def test_an_answer_in_the_making_is_taken_over_where_it_is():
    d = paused()
    llm = d.start(Stage.LLM)
    d.chunk(llm, ChunkKind.TEXT, text="Seven plus five")
    d.edge("stopped", 340, silence_ms=500)
    d.chunk(llm, ChunkKind.TEXT, text=" is twelve.")
    d.chunk(llm, ChunkKind.DONE, meta={"input_tokens": 7, "output_tokens": 2})
    d.speak(d.start(Stage.TTS), 0, ms=200)
    assert d.last("response.output_audio_transcript.done")["transcript"] == "Seven plus five is twelve."
    assert d.last("response.done")["response"]["usage"]["output_tokens"] == 2 + 4


def test_a_user_who_goes_on_makes_the_draft_waste():
    d = drafted()
    llm, tts = d.session.floor.draft.llm.job, d.session.floor.draft.tts.job
    d.edge("resumed", 96)
    assert d.session.floor.draft is None and d.cancelled == {tts.id: "superseded"} and llm.id not in d.session.context.leases
    for _ in range(8):
        d.audio(100)
    d.edge("paused", 160, silence_ms=160)
    d.hear("what is seven plus five times two")
    d.edge("stopped", 340, silence_ms=500)
    assert d.types().count("response.created") == 1 and d.job(Stage.LLM).params["messages"][-1]["content"] == "what is seven plus five times two"
    d.write("No idea.")
    d.speak(d.start(Stage.TTS), 0, ms=200)
    turn = d.of(fx.RecordTurn)[-1]
    assert turn.unbilled["tokens_in"] == 10 and turn.unbilled["tokens_out"] == 2 and turn.unbilled["audio_out_ms"] == 300
    assert turn.usage["tokens_in"] == 10 and turn.usage["audio_out_ms"] == 200


@pytest.mark.parametrize("change", ["instructions", "voice", "item", "tools"])
def test_a_draft_that_no_longer_fits_is_not_used(change):
    d = drafted()
    if change == "item":
        d.send("conversation.item.create", item={"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be rude."}]})
    else:
        patch = {"instructions": {"instructions": "Be a pirate."}, "voice": {"audio": {"output": {"voice": "cedar"}}},
                 "tools": {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}}[change]  # fmt: skip
        d.send("session.update", session=patch)
    frames = d.edge("stopped", 340, silence_ms=500)
    assert "response.created" in d.types(frames) and "response.output_audio.delta" not in d.types(frames)
    assert d.session.context.wasted["tokens_in"] == 10


@pytest.mark.parametrize("how", ["setting", "create_response", "transcription", "noise", "clear", "disconnect"])
def test_no_draft_where_none_is_wanted(how):
    if how == "setting":
        assert paused(preemptive=False).session.floor.draft is None
    elif how == "transcription":
        assert paused(type="transcription").session.floor.draft is None
    elif how == "noise":
        assert paused("").session.floor.draft is None
    elif how == "create_response":
        d = speaking()
        d.send("session.update", session={"audio": {"input": {"turn_detection": {"create_response": False}}}})
        d.edge("paused", 160, silence_ms=160)
        d.hear("hello")
        assert d.session.floor.draft is None
    else:
        d = drafted()
        d.send("input_audio_buffer.clear") if how == "clear" else d.take(d.session.close("disconnected", d.now))
        assert d.session.floor.draft is None and "response.created" not in d.types()
        assert how == "clear" or d.of(fx.RecordTurn)[-1].unbilled["tokens_out"] == 2


def test_drafts_of_one_utterance_are_bounded():
    d = paused("one")
    for text in ("one two", "one two three", "one two three four", "one two three four five"):
        d.edge("resumed", 96)
        d.edge("paused", 300, silence_ms=160)
        d.hear(text)
    assert len([j for j in d.jobs.values() if j.stage is Stage.LLM]) == 4 and d.session.floor.draft is None


def test_a_failing_draft_is_forgotten_and_the_answer_comes_the_ordinary_way():
    d = paused()
    d.chunk(d.start(Stage.LLM), ChunkKind.FAILED, name="engine_error", text="no")
    assert "response.done" not in d.types()
    d.edge("stopped", 340, silence_ms=500)
    d.write("Twelve.")
    d.speak(d.start(Stage.TTS), 0, ms=100)
    assert d.last("response.done")["response"]["status"] == "completed"


def test_a_worker_lost_during_speech_costs_nothing():
    d = speaking()
    job = d.start(Stage.STT)
    d.chunk(job, ChunkKind.FAILED, name="feed_timeout", text="gone")
    assert d.session.turns.hearing.lease is None and not d.session.context.leases
    d.audio(600)
    d.edge("stopped", 500, silence_ms=500)
    assert sum(len(f.pcm) for f in d.fed[d.job(Stage.STT).id]) == d.session.turns.pending.popitem()[1].entry.audio_ms * 48


def test_a_worker_that_dies_during_speech_is_replaced_with_all_that_was_said():
    d = speaking()
    d.start(Stage.STT)
    d.pass_time(0.2, alive=True)
    d.pass_time(0.8)
    job = d.job(Stage.STT)
    assert job.attempt == 2 and len(d.of(fx.OpenJob)[-1].feeds[0].pcm) == sum(len(f.pcm) for f in d.fed[job.id][:-1])
    d.edge("paused", 160, silence_ms=160)
    d.edge("stopped", 340, silence_ms=500)
    d.transcript("hello")
    assert d.last("conversation.item.input_audio_transcription.completed")["transcript"] == "hello"


def test_semantic_vad_waits_by_what_was_said():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}})
    d.edge("started", 100)
    d.audio(400)
    d.edge("paused", 160, silence_ms=160)
    assert d.job(Stage.STT).params["turn_end"]
    d.hear("what is the capital of", ended=0.1)
    unheard, unfinished = [e.silence_ms for e in d.of(fx.EndTurnAfter)]
    d.edge("resumed", 96)
    d.edge("paused", 500, silence_ms=160)
    d.hear("what is the capital of france", ended=0.97)
    assert d.of(fx.EndTurnAfter)[-1].silence_ms <= 300 < unheard < unfinished


# Speaking over an answer


def test_mm_hmm_does_not_stop_the_answer():
    d = story(extensions=True)
    frames = d.edge("started", 100)
    assert d.types(frames) == ["input_audio_buffer.speech_started"]
    assert d.job(Stage.STT).params["interim_ms"] == 230
    d.audio(300)
    d.edge("paused", 160, silence_ms=160)
    d.hear("Mm-hmm.")
    frames = d.edge("stopped", 340, silence_ms=500)
    assert d.last("ext.input.backchannel")["transcript"] == "Mm-hmm." and d.session.active is not None
    assert "input_audio_buffer.committed" in d.types(frames) and d.types().count("response.created") == 1
    d.speak(d.session.active.delivery.tts.job, 1, ms=100)
    d.pass_time(10, alive=True)
    assert d.last("response.done")["response"]["status"] == "completed"
    d.say("go on")
    assert "Mm-hmm." not in [m["content"] for m in d.job(Stage.LLM).params["messages"]]


@pytest.mark.parametrize("when", ["early", "at the pause", "at the end"])
def test_stop_stops_the_answer_as_soon_as_it_is_understood(when):
    d = story()
    d.edge("started", 100)
    d.audio(300)
    if when == "early":
        d.hear("stop")
    elif when == "at the pause":
        d.hear("s", confidence=0.2)
        assert d.session.active
        d.edge("paused", 160, silence_ms=160)
        d.hear("stop")
    else:
        d.edge("paused", 160, silence_ms=160)
        d.edge("stopped", 340, silence_ms=500)
        d.transcript("stop")
    response = d.last("response.done")["response"]
    assert response["status_details"]["reason"] == "turn_detected" and response["output"][0]["content"][0]["transcript"].startswith("Once upon")


def test_long_speech_stops_the_answer_before_its_words_are_known():
    d = story()
    d.edge("started", 100)
    for _ in range(22):
        d.audio(50)
    assert d.last("response.done")["response"]["status"] == "cancelled"


def test_a_client_that_truncates_has_decided():
    d = story()
    d.edge("started", 100)
    item_id = d.last("response.output_item.added")["item"]["id"]
    d.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=900)
    assert d.last("response.done")["response"]["status"] == "cancelled"
    d.audio(300)
    d.edge("paused", 160, silence_ms=160)
    d.hear("okay")
    d.edge("stopped", 340, silence_ms=500)
    assert d.types().count("response.created") == 2  # "okay" is answered


def test_a_word_into_the_last_second_is_a_reply():
    d = Driver()
    d.say("hi")
    d.write("Shall I book it?")
    d.speak(d.start(Stage.TTS), 0, ms=800)
    d.edge("started", 100)
    d.audio(300)
    d.edge("paused", 160, silence_ms=160)
    d.hear("yes")
    d.edge("stopped", 340, silence_ms=500)
    assert d.types().count("response.created") == 2


def test_without_interruption_the_answer_goes_on_and_the_next_follows():
    d = story()
    d.send("session.update", session={"audio": {"input": {"turn_detection": {"interrupt_response": False}}}})
    d.edge("started", 100)
    for _ in range(20):
        d.audio(50)
    d.edge("paused", 160, silence_ms=160)
    d.hear("and then")
    d.edge("stopped", 340, silence_ms=500)
    assert d.session.active and d.types().count("response.created") == 1
    d.speak(d.session.active.delivery.tts.job, 1, ms=100)
    d.pass_time(10, alive=True)
    assert d.types().count("response.created") == 2


@pytest.mark.parametrize(("text", "expected"), [
    ("Mm-hmm.", True), ("mmm", True), ("uh-huh", True), ("Okay, okay.", True), ("I see.", True), ("Yeah, right.", True), ("", True), ("Ja genau", True),
    ("stop", False), ("no", False), ("okay stop", False), ("yes but wait", False), ("what", False), ("I see a problem with that", False), ("hold on", False),
])  # fmt: skip
def test_backchannels_by_their_words(text, expected):
    assert is_backchannel(text, 0.95, 400) is expected


def test_a_short_sound_without_a_sure_word_is_one_too():
    assert is_backchannel("emma hamburg", 0.5, 500) and not is_backchannel("emma hamburg", 0.5, 1500) and not is_backchannel("cancel", 0.7, 500)


# Silence


def idle(**config) -> Driver:
    d = Driver(**config)
    d.send("session.update", session={**SHOWN, "audio": {"input": {**SHOWN["audio"]["input"], "turn_detection": {"type": "server_vad", "idle_timeout_ms": 5000}}}})
    d.say("hi")
    d.write("Hello.")
    d.speak(d.start(Stage.TTS), 0, ms=1500)
    return d


def test_flow_18_a_silent_user_is_spoken_to_after_the_answer_was_heard():
    d = idle()
    d.audio(1000)
    d.pass_time(5.3)
    assert "input_audio_buffer.timeout_triggered" not in d.types()  # 1.5 s of it were playing
    before = len(d.sent)
    d.pass_time(0.5)
    assert d.types(d.sent[before:]) == ["input_audio_buffer.timeout_triggered", "input_audio_buffer.committed", "conversation.item.added",
                                        "conversation.item.done", "conversation.item.input_audio_transcription.completed", "response.created"]  # fmt: skip
    assert d.job(Stage.LLM).params["messages"][-1] == {"role": "user", "content": "(The user says nothing.)"}


@pytest.mark.parametrize("what", ["speech", "create", "off"])
def test_flow_18_whoever_does_something_is_not_silent(what):
    d = idle()
    d.pass_time(4)
    if what == "speech":
        d.edge("started", 100)
    elif what == "create":
        d.say("hello")
    else:
        d.send("session.update", session={"audio": {"input": {"turn_detection": {"idle_timeout_ms": None}}}})
    d.pass_time(6, alive=True)
    assert "input_audio_buffer.timeout_triggered" not in d.types()


def test_flow_18_a_user_who_has_left_is_not_asked_for_ever():
    d = idle()
    for _ in range(6):
        d.pass_time(8)
        if d.session.active:
            d.write("Are you there?")
            d.speak(d.start(Stage.TTS), 0, ms=500)
    assert d.types().count("input_audio_buffer.timeout_triggered") == 3


# Transcription sessions


def test_flow_21_a_transcription_session_hears_and_never_answers():
    d = Driver(type="transcription")
    assert d.sent[0]["session"]["type"] == "transcription" and d.sent[0]["session"]["object"] == "realtime.transcription_session"
    d.edge("started", 100)
    for _ in range(14):
        d.audio(50)
    d.hear("what is"), d.hear("what is seven")
    d.edge("paused", 160, silence_ms=160)
    d.hear("what is seven plus")
    d.edge("stopped", 340, silence_ms=500)
    assert [f["delta"] for f in d.sent if f["type"].endswith(".delta")] == ["what is", " seven", " plus"]
    assert d.last("conversation.item.input_audio_transcription.completed")["transcript"] == "what is seven plus"
    assert d.send("response.create")[0]["error"]["code"] == "invalid_value" and not [t for t in d.types() if t.startswith("response")]
    assert d.of(fx.RecordTurn)[-1].usage["audio_in_ms"] > 0
    d.send("session.update", session={"type": "transcription", "audio": {"input": {"transcription": {"model": "whisper-1", "language": "de"}}}})
    assert d.last("session.updated")["session"]["audio"]["input"]["transcription"]["language"] == "de"
    assert d.send("session.update", session={"type": "realtime"})[0]["error"]["param"] == "session.type"


def test_a_commit_by_hand_during_speech_takes_everything():
    d = drafted()
    d.send("input_audio_buffer.commit")
    assert d.session.floor.draft is None and d.session.turns.hearing is None
    d.transcript("what is seven plus five")
    assert "response.created" not in d.types()


def test_edges_in_one_frame_are_one_turn():
    d = Driver()
    d.audio(3000, SpeechEdge("started", 100, 164), SpeechEdge("paused", 900, 1060), SpeechEdge("resumed", 1100, 1196), SpeechEdge("stopped", 2000, 2500))
    d.transcript("hello")
    assert d.types().count("response.created") == 1
