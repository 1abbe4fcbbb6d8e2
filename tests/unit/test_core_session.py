"""The session core: the flows and rules of the protocol, one test each (numbers as in docs/protocol.md)."""

from __future__ import annotations

import pytest

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import Chunk, ChunkKind, Stage
from voice.core.speech import SpeechEdge

TOOL = {"type": "function", "name": "get_weather", "description": "Weather.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def answered(text: str = "Hello there. How are you?", **config) -> Driver:
    """A driver with one audio answer completely sent."""
    d = Driver(**config)
    d.say("hi")
    d.write(text)
    tts = d.start(Stage.TTS)
    for index in range(len([f for f in d.fed[tts.id] if f.text])):
        d.speak(tts, index)
    return d


def test_rule_01_session_created_is_first_and_needs_no_client():
    assert Driver().types() == ["session.created", "conversation.created"]


def test_rule_03_and_05_parts_and_items_by_their_names():
    d = answered()
    part = d.last("response.content_part.added")["part"]
    item = d.last("response.output_item.done")["item"]
    assert part["type"] == "audio" and item["content"][0]["type"] == "output_audio"
    assert all(value is not None for value in item.values())


def test_rule_04_user_audio_always_has_the_key_transcript():
    d = Driver()
    d.utter()
    item = d.last("conversation.item.added")["item"]
    assert item["content"] == [{"type": "input_audio", "transcript": None}]
    d.send("conversation.item.retrieve", item_id=item["id"])
    assert "transcript" in d.last("conversation.item.retrieved")["item"]["content"][0]


def test_rule_06_a_tool_call_is_announced_before_its_arguments_and_completed():
    d = Driver()
    d.send("session.update", session={"tools": [TOOL]})
    d.say("weather")
    llm = d.start(Stage.LLM)
    frames = d.chunk(llm, ChunkKind.TOOL, index=0, name="get_weather", arguments='{"city": "paris"}')
    frames += d.chunk(llm, ChunkKind.DONE, meta={"finish_reason": "tool_calls"})
    types = d.types(frames)
    assert types.index("conversation.item.added") < types.index("response.function_call_arguments.done")
    done = next(f for f in frames if f["type"] == "response.function_call_arguments.done")
    assert done["name"] == "get_weather" and len(done["call_id"]) <= 32
    item = next(f for f in frames if f["type"] == "response.output_item.done")["item"]
    assert item["status"] == "completed" and item["arguments"] == '{"city": "paris"}'
    assert types[-2:] == ["response.done", "rate_limits.updated"]
    d.send("conversation.item.create", item={"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"})
    d.send("response.create")
    messages = d.job(Stage.LLM).params["messages"]
    assert messages[-2]["tool_calls"][0]["function"]["name"] == "get_weather" and messages[-1] == {
        "role": "tool", "tool_call_id": item["call_id"], "content": "sunny"}  # fmt: skip


def test_rule_07_response_created_echoes_metadata_before_the_first_token():
    d = Driver()
    frames = d.say("hi", metadata={"client_event_id": "x1"})
    created = next(f for f in frames if f["type"] == "response.created")
    assert created["response"]["metadata"] == {"client_event_id": "x1"} and created["response"]["output"] == []


def test_rule_08_cancel_with_nothing_active():
    error = Driver().send("response.cancel", event_id="e9")[0]["error"]
    assert error["code"] == "response_cancel_not_active" and error["message"].startswith("Cancellation failed")
    assert error["event_id"] == "e9"


def test_rule_09_and_22_a_second_response_is_refused():
    d = Driver()
    d.say("hi")
    assert d.send("response.create")[0]["error"]["code"] == "conversation_already_has_active_response"


def test_rule_13_and_14_effective_settings_are_shown_in_full():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1", "delay": "low", "keywords": ["x"]}}}})
    session = d.last("session.updated")["session"]
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    assert session["audio"]["input"]["transcription"] == {"model": "whisper-1"}
    assert session["tool_choice"] == "auto" and session["audio"]["output"]["voice"] == "alloy"
    d.send("session.update", session={"audio": {"output": {"voice": {"id": "marin"}}}})
    assert d.last("session.updated")["session"]["audio"]["output"]["voice"] == "marin"


def test_rule_15_only_24_khz():
    error = Driver().send("session.update", session={"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}})[0]["error"]
    assert error["code"] == "invalid_value" and error["param"] == "session.audio.input.format.rate"


def test_rule_17_transcription_completed_has_usage():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    d.utter()
    d.transcript("hello")
    done = d.last("conversation.item.input_audio_transcription.completed")
    assert done["usage"]["type"] == "duration" and done["transcript"] == "hello" and done["usage"]["seconds"] > 1


def test_rule_18_an_item_can_be_retrieved_while_it_is_being_made():
    d = Driver()
    d.say("hi")
    d.chunk(d.start(Stage.LLM), ChunkKind.TEXT, text="Hello ")
    item_id = d.last("response.output_item.added")["item"]["id"]
    assert d.send("conversation.item.retrieve", item_id=item_id)[0]["item"]["id"] == item_id
    assert d.send("conversation.item.retrieve", item_id="nope")[0]["error"]["code"] == "item_retrieve_invalid_item_id"


def test_rule_20_truncate_beyond_the_audio_is_clamped():
    d = answered()
    item_id = d.last("response.output_item.done")["item"]["id"]
    assert d.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=99999)[0]["audio_end_ms"] == 2000


def test_rule_21_any_model_name_is_taken():
    d = Driver(model="gpt-realtime-2.1")
    d.send("session.update", session={"type": "realtime", "model": "gpt-whatever"})
    assert d.last("session.updated")["session"]["model"] == "gpt-whatever"


def test_flow_02_text_turn():
    d = Driver()
    frames = d.say("hi", output_modalities=["text"]) + d.write("Hel", "lo.")
    assert d.types(frames) == [
        "response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "conversation.item.done", "response.output_item.done", "response.done", "rate_limits.updated",
    ]  # fmt: skip
    usage = d.last("response.done")["response"]["usage"]
    assert usage["input_tokens"] == 10 and usage["output_token_details"]["text_tokens"] == 2
    assert not [j for j in d.jobs.values() if j.stage is Stage.TTS]


def test_flow_03_audio_turn():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    frames = d.utter()
    assert d.types(frames) == ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
                               "conversation.item.added", "conversation.item.done"]  # fmt: skip
    assert {f["item_id"] for f in frames[:3]} == {frames[3]["item"]["id"]}
    frames = d.transcript("what is seven plus five")
    assert d.types(frames) == ["conversation.item.input_audio_transcription.completed", "response.created"]
    assert d.job(Stage.LLM).params["messages"][-1] == {"role": "user", "content": "what is seven plus five"}
    d.write("Twelve.")
    d.speak(d.start(Stage.TTS), 0)
    response = d.last("response.done")["response"]
    assert response["status"] == "completed" and response["output"][0]["content"][0]["transcript"] == "Twelve."
    turn = d.of(fx.RecordTurn)[-1]
    assert turn.segments[0][0] == "endpointing" and 499 <= turn.segments[0][1] <= 501
    assert turn.usage == {"audio_in_ms": 1500, "audio_out_ms": 1000, "tokens_in": 10, "tokens_out": 1}


def test_flow_03_an_empty_transcript_starts_no_response():
    d = Driver()
    d.utter()
    assert "response.created" not in d.types(d.transcript("  "))


def test_flow_05_push_to_talk():
    d = Driver(turn_detection=None)
    assert d.send("input_audio_buffer.commit")[0]["error"]["code"] == "input_audio_buffer_commit_empty"
    d.audio(500)
    assert d.types(d.send("input_audio_buffer.commit")) == ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
    frames = d.send("response.create")
    assert d.types(frames) == ["response.created"]  # at once, before the transcript
    d.transcript("hello")
    assert d.job(Stage.LLM).params["messages"] == [{"role": "user", "content": "hello"}]


def test_flow_06_barge_in_cancels_and_keeps_what_was_heard():
    d = Driver(backchannels=False)
    d.say("tell me")
    d.write("One two three four. ", "Five six.")
    tts = d.start(Stage.TTS)
    d.speak(tts, 0, ms=1000, marks=((0, 0), (4, 250), (8, 500), (14, 750)))
    d.pass_time(0.55)
    frames = d.utter()
    types = d.types(frames)
    assert types[0] == "input_audio_buffer.speech_started" and "response.done" in types
    done = next(f for f in frames if f["type"] == "response.done")["response"]
    assert done["status"] == "cancelled" and done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    assert done["output"][0]["content"][0]["transcript"] == "One two"  # 650 ms were heard, "three" began at 500
    assert d.cancelled[tts.id] == "turn_detected"
    assert d.session.engine(Chunk(tts.id, 1, 99, ChunkKind.AUDIO, pcm=b"\0\0"), d.now) == []


def test_flow_06_after_generation_the_unheard_rest_is_cut_too():
    d = answered("One. Two.", backchannels=False)
    item_id = d.last("response.output_item.done")["item"]["id"]
    d.audio(100, *[])
    d.utter()
    d.send("conversation.item.retrieve", item_id=item_id)
    assert d.last("conversation.item.retrieved")["item"]["content"][0]["transcript"] == ""


def test_flow_07_barge_in_off_answers_afterwards():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"turn_detection": {"interrupt_response": False}}}})
    d.say("hi")
    d.write("A long answer.")
    d.utter()
    d.transcript("next question")
    assert d.types().count("response.created") == 1
    d.speak(d.start(Stage.TTS), 0)
    assert d.types().count("response.created") == 2 and d.session.active is not None


def test_flow_08_cancel_stops_at_once_and_ends_the_jobs():
    d = Driver()
    d.say("hi")
    llm = d.start(Stage.LLM)
    d.chunk(llm, ChunkKind.TEXT, text="One. Two. ")
    tts = d.start(Stage.TTS)
    d.speak(tts, 0, final=False)
    frames = d.send("response.cancel")
    assert d.types(frames)[-2:] == ["response.done", "rate_limits.updated"]
    assert "response.output_audio.done" in d.types(frames)
    assert d.cancelled == {llm.id: "client_cancelled", tts.id: "client_cancelled"}
    assert d.speak(tts, 0) == [] and d.chunk(llm, ChunkKind.TEXT, text="more") == []
    assert d.last("response.done")["response"]["status_details"]["reason"] == "client_cancelled"


def test_flow_09_truncate_cuts_the_context_at_a_word():
    d = Driver()
    d.say("hi")
    d.write("One two three four.")
    d.speak(d.start(Stage.TTS), 0, marks=((0, 0), (4, 250), (8, 500), (14, 750)))
    item_id = d.last("response.output_item.done")["item"]["id"]
    d.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=600)
    d.say("go on")
    assert {"role": "assistant", "content": "One two"} in d.job(Stage.LLM).params["messages"]
    assert d.send("conversation.item.truncate", item_id="x", content_index=0, audio_end_ms=1)[0]["error"]["code"] == "item_truncate_invalid_item_id"


def test_flow_10_out_of_band_runs_beside_and_leaves_no_items():
    d = Driver()
    d.say("hi")
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "classify"}]}
    frames = d.send("response.create", response={"conversation": "none", "output_modalities": ["text"], "input": [item], "instructions": "Be exact."})
    assert frames[0]["response"]["conversation_id"] is None
    assert d.job(Stage.LLM).params["messages"] == [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "classify"}]
    frames = d.write("yes")
    assert not [t for t in d.types(frames) if t.startswith("conversation.")]
    assert d.session.active is not None


def test_flow_12_parallel_calls_have_their_own_index_and_id():
    d = Driver()
    d.send("session.update", session={"tools": [TOOL]})
    d.say("weather in two places")
    llm = d.start(Stage.LLM)
    for i in range(2):
        d.chunk(llm, ChunkKind.TOOL, index=i, name="get_weather", arguments="{}")
    added = [f for f in d.sent if f["type"] == "response.output_item.added"]
    assert [f["output_index"] for f in added] == [0, 1] and len({f["item"]["call_id"] for f in added}) == 2


def test_flow_13_output_for_an_unknown_call():
    error = Driver().send("conversation.item.create", item={"type": "function_call_output", "call_id": "call_x", "output": "1"})[0]["error"]
    assert error["code"] == "invalid_tool_call_id" and error["message"] == "Tool call ID 'call_x' not found in conversation."


def test_flow_15_history_in_any_order():
    d = Driver()

    def add(item_id, previous=None):
        item = {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": item_id}]}
        return d.send("conversation.item.create", item=item, **({"previous_item_id": previous} if previous else {}))[0]

    add("b")
    assert add("a", "root")["previous_item_id"] is None
    assert add("c")["previous_item_id"] == "b"
    assert add("ab", "a")["previous_item_id"] == "a"
    assert add("b")["error"]["code"] == "item_create_duplicate_item_id"
    assert add("z", "nope")["error"]["code"] == "item_create_invalid_previous_item_id"
    d.send("conversation.item.delete", item_id="ab")
    d.send("response.create")
    assert [m["content"] for m in d.job(Stage.LLM).params["messages"]] == ["a", "b", "c"]
    assert d.send("conversation.item.delete", item_id="ab")[0]["error"]["code"] == "item_delete_invalid_item_id"


def test_flow_19_the_limit_ends_incomplete():
    d = Driver()
    d.say("hi", output_modalities=["text"], max_output_tokens=5)
    assert d.job(Stage.LLM).params["max_tokens"] == 5
    d.write("Once upon", finish="length")
    response = d.last("response.done")["response"]
    assert response["status"] == "incomplete" and response["status_details"]["reason"] == "max_output_tokens"


def test_flow_20_a_fault_ends_the_response_and_not_the_session():
    d = Driver()
    d.say("hi")
    d.chunk(d.start(Stage.LLM), ChunkKind.FAILED, name="engine_error", text="it broke")
    response = d.last("response.done")["response"]
    assert response["status"] == "failed" and response["status_details"]["error"]["code"] == "engine_error"
    d.say("again", output_modalities=["text"])
    d.write("fine")
    assert d.last("response.done")["response"]["status"] == "completed"


def test_flow_20_recognition_fault():
    d = Driver()
    d.utter()
    d.chunk(d.start(Stage.STT), ChunkKind.FAILED, name="engine_error", text="it broke")
    assert "conversation.item.input_audio_transcription.failed" in d.types()
    assert d.last("response.done")["response"]["status"] == "failed"


def test_flow_21_transcription_session():
    d = Driver(type="transcription")
    session = d.sent[0]["session"]
    assert session["type"] == "transcription" and session["object"] == "realtime.transcription_session"
    d.utter()
    assert d.types(d.transcript("hello")) == ["conversation.item.input_audio_transcription.completed"]
    assert d.send("response.create")[0]["type"] == "error"
    assert d.of(fx.RecordTurn)[-1].usage["audio_in_ms"] == 1500


def test_voice_and_instructions_change_for_the_next_response():
    d = answered()
    d.send("session.update", session={"instructions": "You are a pirate.", "audio": {"output": {"voice": "cedar"}}})
    d.say("who are you")
    assert d.job(Stage.LLM).params["messages"][0] == {"role": "system", "content": "You are a pirate."}
    assert d.job(Stage.TTS).params["voice"] == "cedar"
    error = d.send("session.update", session={"audio": {"output": {"voice": "bogus"}}})[0]["error"]
    assert error["param"] == "session.audio.output.voice" and error["code"] == "invalid_value"


def test_an_update_is_atomic():
    d = Driver()
    d.send("session.update", session={"instructions": "new", "max_output_tokens": 0})
    assert d.session.context.settings.values["instructions"] == ""


@pytest.mark.parametrize(("event", "code", "param"), [
    ({}, "missing_required_parameter", "type"),
    ({"type": "bogus"}, "invalid_value", "type"),
    ({"type": 5}, "invalid_type", "type"),
    ({"type": "session.update"}, "missing_required_parameter", "session"),
    ({"type": "session.update", "session": []}, "invalid_type", "session"),
    ({"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": "x"}}}}}, "invalid_type",
     "session.audio.input.turn_detection.threshold"),
    ({"type": "session.update", "session": {"tools": [{"type": "mcp"}]}}, "unsupported_tool_type", "session.tools[0].type"),
    ({"type": "session.update", "session": {"prompt": {"id": "pmpt_1"}}}, "prompt_not_found", "session.prompt.id"),
    ({"type": "conversation.item.truncate", "item_id": "x", "content_index": 0}, "missing_required_parameter", "audio_end_ms"),
    ({"type": "conversation.item.truncate", "item_id": "x", "content_index": True, "audio_end_ms": 1}, "invalid_type", "content_index"),
    ({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_image"}]}},
     "unsupported_content_type", "item.content[0].type"),
    ({"type": "response.create", "response": {"tool_choice": {"type": "function", "name": "nope"}}}, "invalid_value", "response.tool_choice"),
    ([], "invalid_type", None), (None, "invalid_type", None), ("x", "invalid_type", None),
])  # fmt: skip
def test_malformed_events_are_named(event, code, param):
    d = Driver()
    frames = d.take(d.session.receive(event, d.now))
    assert [f["type"] for f in frames] == ["error"]
    assert (frames[0]["error"]["code"], frames[0]["error"]["param"]) == (code, param)


def test_unknown_keys_are_ignored():
    d = Driver()
    assert d.types(d.send("session.update", session={"temperature": 0.8, "made_up": {"x": 1}, "modalities": ["text"]})) == ["session.updated"]
    assert d.session.context.settings.values["output_modalities"] == ["text"]


def test_audio_is_paced_two_seconds_ahead():
    d = Driver()
    d.say("hi")
    d.write("A sentence of ten seconds.")
    frames = d.speak(d.start(Stage.TTS), 0, ms=10_000)
    assert 20 <= len([f for f in frames if f["type"] == "response.output_audio.delta"]) <= 22
    later = d.pass_time(3, alive=True)
    assert 28 <= len([f for f in later if f["type"] == "response.output_audio.delta"]) <= 32
    d.pass_time(6, alive=True)
    assert d.last("response.done")["response"]["status"] == "completed"


def test_speech_is_fed_at_most_two_sentences_ahead():
    d = Driver()
    d.say("hi")
    d.write("One. Two. Three. Four. Five. Six.")
    tts = d.start(Stage.TTS)
    assert [f.index for f in d.fed[tts.id]] == [0, 1, 2]
    for index in range(6):
        d.speak(tts, index)
        d.pass_time(1, alive=True)
    assert [f.index for f in d.fed[tts.id]] == [0, 1, 2, 3, 4, 5, 6] and d.fed[tts.id][-1].last
    assert d.last("response.done")["response"]["status"] == "completed"


def test_a_silent_language_model_is_opened_again_and_goes_on_after_what_was_said():
    d = Driver()
    d.say("hi", output_modalities=["text"])
    first = d.start(Stage.LLM)
    d.chunk(first, ChunkKind.TEXT, text="One, two,")
    d.pass_time(0.8)
    second = d.job(Stage.LLM)
    assert second.id == first.id and second.attempt == 2 and second.params["prefix"] == "One, two,"
    assert d.chunk(first, ChunkKind.TEXT, text=" lost") == []  # the first one wakes up late
    d.chunk(second, ChunkKind.STARTED)
    d.chunk(second, ChunkKind.TEXT, text=" three.")
    d.chunk(second, ChunkKind.DONE, meta={"finish_reason": "stop"})
    assert d.last("response.output_text.done")["text"] == "One, two, three."


def test_a_silent_voice_is_opened_again_and_no_sound_comes_twice():
    d = Driver()
    d.say("hi")
    d.write("One. Two. Three.")
    first = d.start(Stage.TTS)
    d.speak(first, 0, ms=300)
    d.speak(first, 1, ms=200, final=False)
    d.pass_time(0.8)
    second = d.job(Stage.TTS)
    assert second.attempt == 2
    assert [f.index for f in d.of(fx.OpenJob)[-1].feeds] == [1, 2, 3]
    d.chunk(second, ChunkKind.STARTED)
    d.speak(second, 1, ms=500)  # 200 ms of it were heard already
    d.speak(second, 2, ms=400)
    response = d.last("response.done")["response"]
    assert response["status"] == "completed"
    assert len(d.order.audio[response["output"][0]["id"]]) == (300 + 500 + 400) * 48


def test_a_job_no_worker_takes_is_handed_out_again_and_fails_when_its_wait_is_over():
    d = Driver()
    d.say("hi")
    d.pass_time(9.8)
    assert {j.attempt for j in d.jobs.values()} == {1}
    assert len(d.of(fx.OpenJob)) == 2 * 3  # at 0, 2 and 6 seconds
    d.pass_time(0.4)
    assert d.last("response.done")["response"]["status_details"]["error"]["code"] in ("llm_unavailable", "tts_unavailable")
    assert not d.session.context.leases


def test_a_job_that_waited_in_a_long_queue_is_answered():
    d = Driver()
    d.say("hi", output_modalities=["text"])
    d.pass_time(7)
    d.write("hello")
    assert d.last("response.done")["response"]["status"] == "completed"


def test_a_gap_in_the_chunks_counts_as_a_loss():
    d = Driver()
    d.say("hi", output_modalities=["text"])
    llm = d.start(Stage.LLM)
    d.seq[llm.id, 1] += 1
    d.chunk(llm, ChunkKind.TEXT, text="after a gap")
    assert d.job(Stage.LLM).attempt == 2 and "response.output_text.delta" not in d.types()


def test_beats_keep_a_quiet_job_alive():
    d = Driver()
    d.say("hi")
    llm = d.start(Stage.LLM)
    tts = d.start(Stage.TTS)
    for _ in range(30):
        d.pass_time(0.1)
        for job in (llm, tts):
            d.take(d.session.engine(Chunk(job.id, 1, 0, ChunkKind.BEAT), d.now))
    assert d.job(Stage.LLM).attempt == 1
    d.pass_time(0.7)
    assert d.job(Stage.LLM).attempt == 2


def test_a_deadline_ends_what_hangs():
    d = Driver(llm_deadline_ms=3000)
    d.say("hi")
    llm, tts = d.start(Stage.LLM), d.start(Stage.TTS)
    for _ in range(35):
        for job in (llm, tts):
            d.take(d.session.engine(Chunk(job.id, 1, 0, ChunkKind.BEAT), d.now))
        d.pass_time(0.1)
    assert d.last("response.done")["response"]["status_details"]["error"]["code"] == "deadline_exceeded"


def test_the_session_ends_at_its_maximum():
    d = Driver(max_session_s=60)
    d.pass_time(61, step=1)
    assert d.last("error")["error"]["code"] == "session_expired"
    assert d.of(fx.Close) == [fx.Close(1001, "session_expired")]


def test_close_ends_every_job_and_bills_what_was_heard():
    d = Driver()
    d.utter()
    d.transcript("hello there")
    llm = d.start(Stage.LLM)
    d.take(d.session.close("disconnected", d.now))
    assert d.cancelled[llm.id] == "disconnected" and not d.session.context.leases
    assert d.of(fx.RecordTurn)[-1].usage["audio_in_ms"] == 1500
    assert d.session.close("again", d.now) == [] and d.send("response.create") == []


def test_a_user_who_goes_on_is_answered_once():
    d = Driver()
    d.utter()
    total = d.session.turns.buffer.total_ms
    d.audio(100, SpeechEdge("started", total, total + 64))
    d.transcript("my name is")
    assert "response.created" not in d.types()
    d.audio(1500, SpeechEdge("stopped", total + 1000, total + 1500))
    d.transcript("alice")
    assert d.types().count("response.created") == 1
    assert [m["content"] for m in d.job(Stage.LLM).params["messages"]] == ["my name is", "alice"]


def test_the_buffer_is_bounded():
    d = Driver(turn_detection=None, max_buffer_ms=1000)
    d.audio(900)
    assert d.audio(200)[0]["error"]["code"] == "input_audio_buffer_full"
    d.send("input_audio_buffer.clear")
    assert d.audio(200) == []


def test_the_hot_path_builds_nothing():
    d = Driver()
    pcm = b"\1\0" * 480
    assert d.session.audio(pcm, (), d.now) is d.session.audio(pcm, (), d.now)


def test_timing_event_only_where_asked_for():
    assert "ext.response.timing" not in answered().types()
    d = answered(extensions=True)
    timing = d.last("ext.response.timing")
    assert abs(sum(s["ms"] for s in timing["segments"]) - timing["first_audio_ms"]) < 0.01


def test_time_the_gateway_slept_is_not_the_workers_silence():
    d = Driver()
    d.say("hi")
    d.start(Stage.LLM), d.start(Stage.TTS)
    d.now += 3.0  # the process was stopped; the beats lie unread in the stream
    d.take(d.session.timer("leases", d.now))
    assert d.job(Stage.LLM).attempt == 1
    d.pass_time(0.8)
    assert d.job(Stage.LLM).attempt == 2
