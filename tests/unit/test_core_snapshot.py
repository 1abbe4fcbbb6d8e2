"""Another process goes on with a session: nothing is lost, nothing said twice."""

from __future__ import annotations

import json

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import ChunkKind, Stage
from voice.core.speech import SpeechEdge


def test_an_idle_session_keeps_its_settings_items_and_ids():
    d = Driver(prompts={"agent_1": {"instructions": "x"}}, server_tools={"f": {"url": "https://example.com", "tool": {"type": "function", "name": "f"}}})
    d.send("session.update", session={"instructions": "be brief", "audio": {"output": {"voice": "marin"}}})
    d.say("hello", output_modalities=["text"])
    d.write("hi there")
    before, config = d.session.context.settings.echo(), d.session.context.config
    items = [e.item for e in d.session.context.conversation.entries()]
    d.move()
    assert d.session.context.settings.echo() | {"expires_at": 0} == before | {"expires_at": 0}
    assert d.session.context.config.prompts == config.prompts and d.session.context.config.server_tools == config.server_tools
    assert [e.item for e in d.session.context.conversation.entries()] == items
    d.say("again", output_modalities=["text"])
    messages = d.job(Stage.LLM).params["messages"]
    assert [m["content"] for m in messages] == ["be brief", "hello", "hi there", "again"]


def test_the_language_model_goes_on_after_what_it_said():
    d = Driver()
    d.say("count", output_modalities=["text"])
    first = d.start(Stage.LLM)
    d.chunk(first, ChunkKind.TEXT, text="One, two, ")
    d.move()
    assert d.cancelled[first.id] == "superseded"
    second = d.start(Stage.LLM)
    assert second.id != first.id and second.params["prefix"] == "One, two, " and second.params["messages"] == first.params["messages"]
    assert d.of(fx.OpenJob)[-1].counted
    d.chunk(second, ChunkKind.TEXT, text="three.")
    d.chunk(second, ChunkKind.DONE, meta={"finish_reason": "stop", "input_tokens": 5, "output_tokens": 6})
    assert d.last("response.done")["response"]["output"][0]["content"][0]["text"] == "One, two, three."


def test_sound_goes_on_at_the_byte_where_it_ended():
    d = Driver()
    d.say("hi")
    d.write("One. Two. Three. Four.")
    first = d.start(Stage.TTS)
    for index in range(3):
        d.speak(first, index, ms=1500)  # 2 s and a bit are sent, the rest waits
    sent = sum(len(e.pcm) for e in d.of(fx.SendAudio)) // 48
    assert 2000 <= sent < 2500
    d.pass_time(0.3, alive=True)
    sent = sum(len(e.pcm) for e in d.of(fx.SendAudio)) // 48
    d.move()
    second = d.start(Stage.TTS)
    assert [f.text for f in d.fed[second.id]][0] == "Two. "
    for feed in list(d.fed[second.id]):
        d.speak(second, feed.index, ms=1500)
    d.pass_time(6, alive=True)
    for feed in [f for f in d.fed[second.id] if f.index == 3]:
        d.speak(second, feed.index, ms=1500)
    d.pass_time(6, alive=True)
    response = d.last("response.done")["response"]
    assert response["status"] == "completed"
    assert len(d.order.audio[response["output"][0]["id"]]) == 4 * 1500 * 48
    assert d.of(fx.RecordTurn)[-1].usage["audio_out_ms"] == 6000


def test_an_utterance_is_recognised_anew():
    d = Driver()
    d.utter()
    first = d.start(Stage.STT)
    d.move()
    second = d.start(Stage.STT)
    assert b"".join(f.pcm for f in d.fed[second.id]) == b"".join(f.pcm for f in d.fed[first.id]) != b""
    d.chunk(second, ChunkKind.TRANSCRIPT, text="hello", final=True)
    d.write("hi")
    assert d.job(Stage.TTS)


def test_an_utterance_whose_audio_is_gone_has_failed():
    d = Driver()
    d.utter()
    d.fed.clear()
    d.move()
    assert d.last("conversation.item.input_audio_transcription.failed")["error"]["code"] == "stt_unavailable"


def test_speech_under_way_ends_and_the_clock_goes_on():
    d = Driver()
    d.utter()
    total = d.session.turns.buffer.total_ms
    d.audio(100, SpeechEdge("started", total, total + 64))
    assert d.types(d.move())[:2] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.cleared"]
    assert d.session.turns.buffer.total_ms == total + 100


def test_audio_waiting_to_be_sent_is_not_in_the_snapshot():
    d = Driver()
    d.say("hi")
    d.write("A long sentence of twenty seconds.")
    d.speak(d.start(Stage.TTS), 0, ms=20000)
    assert len(json.dumps(d.session.snapshot())) < 20000


def test_speech_under_way_goes_on_from_its_tape():
    d = Driver()
    d.audio(1000)
    d.audio(700, SpeechEdge("started", 1000, 1064))
    item_id = d.session.turns.speech_item
    assert d.types(d.move(tape=True)) == [] and d.session.turns.speech_item == item_id and d.session.turns.buffer.total_ms == 1700
    d.audio(1000, SpeechEdge("stopped", 2200, 2700))
    assert d.last("input_audio_buffer.committed")["item_id"] == item_id and d.last("input_audio_buffer.speech_stopped")["audio_end_ms"] == 2700
    assert sum(len(f.pcm) for f in d.fed[d.start(Stage.STT).id]) == 2000 * 48  # 300 ms of padding, and nothing missing


def test_an_answer_is_interrupted_by_speech_that_began_in_another_process():
    d = Driver()
    d.say("hi")
    d.write("One. Two.")
    d.speak(d.start(Stage.TTS), 0, ms=5000)
    d.edge("started", ms=300)
    d.move(tape=True)
    d.hear("stop talking now")
    assert d.last("response.done")["response"]["status_details"]["reason"] == "turn_detected"


def test_audio_held_for_a_commit_by_hand_goes_on():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"turn_detection": None}}})
    d.audio(800)
    d.move(tape=True)
    d.audio(200)
    d.send("input_audio_buffer.commit")
    assert sum(len(f.pcm) for f in d.fed[d.start(Stage.STT).id]) == 1000 * 48
