"""Settings and items beyond the first conversation: formats, stored prompts, pipelines, strictness, audio in retrieved items."""

from __future__ import annotations

import base64

import pytest

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import Stage

PROMPTS = {"agt_1": {"instructions": "You are {{name}}. Say {{ word }} and {{other}}.", "audio": {"output": {"voice": "marin"}}},
           "agt_1@2": {"instructions": "second"}}  # fmt: skip


def refused(d: Driver, type: str = "session.update", **fields) -> tuple[str, str]:
    error = d.send(type, **fields)[-1]["error"]
    return error["code"], error["param"]


@pytest.mark.parametrize(("given", "shown"), [
    ({"type": "audio/pcmu"}, {"type": "audio/pcmu"}), ({"type": "audio/pcma"}, {"type": "audio/pcma"}), ("g711_ulaw", {"type": "audio/pcmu"}),
    ("g711_alaw", {"type": "audio/pcma"}), ("pcm16", {"type": "audio/pcm", "rate": 24000}), ({"type": "audio/pcma", "rate": 8000}, {"type": "audio/pcma"}),
])  # fmt: skip
def test_formats_by_their_names_of_both_flavours(given, shown):
    d = Driver()
    side = d.send("session.update", session={"audio": {"input": {"format": given}, "output": {"format": given}}})[-1]["session"]["audio"]
    assert side["input"]["format"] == side["output"]["format"] == shown


@pytest.mark.parametrize("bad", [{"type": "audio/opus"}, {"type": "audio/pcmu", "rate": 16000}, {"type": ["audio/pcm"]}, {"type": "audio/pcm", "rate": 8000}])
def test_other_formats_and_rates_are_refused(bad):
    code, param = refused(Driver(), session={"audio": {"output": {"format": bad}}})
    assert code == "invalid_value" and param.startswith("session.audio.output.format.")


def test_a_response_may_speak_another_format():
    d = Driver()
    created = d.say("hi", audio={"output": {"format": {"type": "audio/pcmu"}}})[0]
    assert created["response"]["audio"]["output"]["format"] == {"type": "audio/pcmu"}
    d.write("Hello. ")
    d.speak(d.start(Stage.TTS), 0, 200)
    assert {e.format for e in d.of(fx.SendAudio)} == {"audio/pcmu"}
    assert d.session.context.settings.values["audio"]["output"]["format"]["type"] == "audio/pcm"


def test_telephone_audio_inside_an_item_is_decoded():
    d = Driver()
    d.send("session.update", session={"audio": {"input": {"format": {"type": "audio/pcmu"}}}})
    part = {"type": "input_audio", "audio": base64.b64encode(b"\xff" * 8000).decode()}
    d.send("conversation.item.create", item={"type": "message", "role": "user", "content": [part]})
    job = d.job(Stage.STT)
    assert job.params["rate_hz"] == 8000 and d.fed[job.id][0].pcm == bytes(16000)
    d.transcript("x")
    assert d.session.context.unbilled_audio_ms == 1000


def test_a_prompt_binds_a_stored_agent_and_its_variables():
    d = Driver(prompts=PROMPTS)
    prompt = {"id": "agt_1", "variables": {"name": "Ada", "word": "hello"}}
    shown = d.send("session.update", session={"prompt": prompt})[-1]["session"]
    assert shown["instructions"] == "You are Ada. Say hello and {{other}}." and shown["audio"]["output"]["voice"] == "marin"
    assert shown["prompt"] == prompt
    own = d.send("session.update", session={"prompt": {"id": "agt_1", "version": "2"}, "audio": {"output": {"voice": "ash"}}})[-1]["session"]
    assert own["instructions"] == "second" and own["audio"]["output"]["voice"] == "ash"  # what is said beside it counts
    assert refused(d, session={"prompt": {"id": "agt_9"}, "instructions": "lost"}) == ("prompt_not_found", "session.prompt.id")
    assert refused(d, session={"prompt": {"id": "agt_1", "version": "7"}}) == ("prompt_not_found", "session.prompt.id")
    assert refused(d, session={"prompt": {"id": 5}}) == ("prompt_not_found", "session.prompt.id")
    assert d.session.context.settings.values["instructions"] == "second"
    d.say("hi", prompt=prompt)
    assert d.job(Stage.LLM).params["messages"][0]["content"].startswith("You are Ada")
    assert d.send("session.update", session={"prompt": None})[-1]["session"]["prompt"] is None


def test_the_model_names_a_pipeline_from_the_next_response_on():
    d = Driver(pipelines={"agt_1": {"llm_engine": "openai", "llm_model": "big"}})
    d.say("hi")
    assert d.job(Stage.LLM).engine == "ctranslate2"
    d.send("response.cancel")
    d.send("session.update", session={"model": "agt_1"})
    d.send("response.create")
    assert (d.job(Stage.LLM).engine, d.job(Stage.LLM).model, d.job(Stage.TTS).engine) == ("openai", "big", "espeak")
    d.send("response.cancel")
    d.send("session.update", session={"model": "gpt-realtime"})
    d.send("response.create")
    assert d.job(Stage.LLM).engine == "ctranslate2"


def test_unknown_settings_are_refused_only_where_asked_for():
    assert Driver().send("session.update", session={"temperature": 0.8, "wings": 2})[-1]["type"] == "session.updated"
    d = Driver(strict=True)
    assert refused(d, session={"wings": 2}) == ("unknown_parameter", "session.wings")
    assert refused(d, session={"audio": {"input": {"wings": 2}}}) == ("unknown_parameter", "session.audio.input.wings")
    assert d.send("session.update", session={"type": "realtime", "temperature": 0.8, "voice": "ash"})[-1]["type"] == "session.updated"


@pytest.mark.parametrize(("setting", "good", "bad"), [
    ("truncation", ["auto", "disabled", {"type": "retention_ratio", "retention_ratio": 0.8},
                    {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 5000}}],
     ["never", {"type": "retention_ratio", "retention_ratio": 2}, {"type": "retention_ratio", "retention_ratio": 1, "token_limits": {"post_instructions": 0}},
      {"type": "retention_ratio", "retention_ratio": 1, "token_limits": [5]}]),
    ("reasoning", [{"effort": "low"}, {"effort": "xhigh"}], [{"effort": "much"}, "low"]),
    ("include", [["item.input_audio_transcription.logprobs"], []], [["everything"], "x"]),
    ("tracing", ["auto", {"workflow_name": "w"}, None], [5, {"group_id": 5}, {"metadata": {"long": "x" * 17000}}]),
    ("tools", [[{"type": "function", "name": "f"}]], [[{"type": "mcp", "server_label": "x"}], [{"name": "no spaces please"}]]),
    ("audio", [{"input": {"noise_reduction": {"type": "near_field"}}}], [{"input": {"noise_reduction": {"type": "loud"}}}]),
])  # fmt: skip
def test_values_are_checked(setting, good, bad):
    d = Driver()
    for value in good:
        assert d.send("session.update", session={setting: value})[-1]["type"] == "session.updated", value
    for value in bad:
        code, param = refused(d, session={setting: value})
        assert code in ("invalid_value", "invalid_type", "unsupported_tool_type") and param.startswith(f"session.{setting}")


def test_truncation_and_effort_reach_the_language_model():
    d = Driver()
    d.send("session.update", session={"truncation": {"type": "retention_ratio", "retention_ratio": 0.5}, "reasoning": {"effort": "low"}})
    d.say("hi")
    params = d.job(Stage.LLM).params
    assert params["truncation"]["retention_ratio"] == 0.5 and params["reasoning"] == "low"


def test_keywords_reach_recognition_and_are_not_shown():
    d = Driver()
    heard = {"model": "whisper-1", "prompt": "Names:", "keywords": ["Ada", "Bob"], "languages": ["de"], "delay": "low"}
    shown = d.send("session.update", session={"audio": {"input": {"transcription": heard}}})[-1]["session"]
    assert shown["audio"]["input"]["transcription"] == {"model": "whisper-1", "prompt": "Names:"}
    d.utter()
    params = d.job(Stage.STT).params
    assert (params["prompt"], params["language"]) == ("Names: Ada, Bob", "de")


def test_retrieve_shows_small_audio_and_truncation_cuts_it():
    d = Driver()
    d.say("hi")
    d.write("Hello. ")
    d.speak(d.start(Stage.TTS), 0, 1000)
    item = d.last("response.done")["response"]["output"][0]["id"]
    part = d.send("conversation.item.retrieve", item_id=item)[0]["item"]["content"][0]
    assert len(base64.b64decode(part["audio"])) == 48000
    d.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=100)
    part = d.send("conversation.item.retrieve", item_id=item)[0]["item"]["content"][0]
    assert len(base64.b64decode(part["audio"])) == 4800


def test_rule_19_large_audio_is_left_out():
    d = Driver()
    d.utter(9000)
    frame = d.send("conversation.item.retrieve", item_id=d.last("conversation.item.added")["item"]["id"])[0]
    assert frame["item"]["content"] == [{"type": "input_audio", "transcript": None}]


def test_clients_that_opted_in_are_warned_before_the_end():
    for extensions in (True, False):
        d = Driver(max_session_s=120, extensions=extensions)
        frames = d.pass_time(61, step=1)
        assert d.types(frames) == (["ext.session.expiring"] if extensions else [])


def test_images_are_refused_by_name():
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]}
    assert refused(Driver(), "conversation.item.create", item=item) == ("unsupported_content_type", "item.content[0].type")
