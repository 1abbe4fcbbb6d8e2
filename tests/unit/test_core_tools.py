"""Functions of the agent that the shell calls: inside one response, seen as items, never as the client's to answer."""

from __future__ import annotations

import json

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import ChunkKind, Stage
from voice.core.session import Session

CRM = {"crm": {"url": "https://crm.example.com/f", "tool": {"type": "function", "name": "crm", "parameters": {"type": "object"}}}}
MINE = {"type": "function", "name": "mine", "parameters": {"type": "object"}}


def called(d: Driver, *names: str, text: str = "", finish: str = "tool_calls") -> list[fx.CallTool]:
    job = d.start(Stage.LLM)
    if text:
        d.chunk(job, ChunkKind.TEXT, text=text)
    before = len(d.of(fx.CallTool))
    for i, name in enumerate(names):
        d.chunk(job, ChunkKind.TOOL, index=i, name=name, arguments='{"id": 5}')
    d.chunk(job, ChunkKind.DONE, meta={"input_tokens": 10, "output_tokens": 3, "finish_reason": finish})
    return d.of(fx.CallTool)[before:]


def answer(d: Driver, call: fx.CallTool, output: str) -> list[dict]:
    return d.take(d.session.tool_result(call.response_id, call.call_id, output, d.now))


def test_the_answer_goes_on_with_what_the_function_said():
    d = Driver(server_tools=CRM)
    assert d.sent[0]["session"]["tools"] == []  # neither the function nor its URL is shown
    d.say("who is five", output_modalities=["text"])
    assert [t["name"] for t in d.job(Stage.LLM).params["tools"]] == ["crm"]
    call, = called(d, "crm", text="Let me see.")
    assert (call.url, json.loads(call.arguments)) == ("https://crm.example.com/f", {"id": 5})
    assert "response.done" not in d.types()
    frames = answer(d, call, "Ada")
    assert d.types(frames) == ["conversation.item.added", "conversation.item.done"]
    messages = d.job(Stage.LLM).params["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "assistant", "tool"]
    assert messages[-1]["content"] == "Ada"
    d.write("It is Ada.")
    done = d.last("response.done")["response"]
    assert done["output"][0]["content"][0]["text"] == "Let me see. It is Ada." and len(done["output"]) == 1
    assert done["usage"]["input_token_details"]["text_tokens"] == 20
    assert not [t for t in d.types() if t.startswith("response.function_call")]


def test_spoken_answers_wait_for_the_function_too():
    d = Driver(server_tools=CRM)
    d.say("who is five")
    tts = d.start(Stage.TTS)
    call, = called(d, "crm", text="Let me see.")
    assert [f.text for f in d.fed[tts.id]] == ["Let me see."]  # said while the function runs
    d.speak(tts, 0, 300)
    d.pass_time(1, alive=True)
    answer(d, call, "Ada")
    d.write("It is Ada.")
    d.speak(tts, 1, 300)
    d.chunk(tts, ChunkKind.DONE)
    assert d.last("response.done")["response"]["status"] == "completed"


def test_several_calls_and_one_of_the_clients():
    d = Driver(server_tools=CRM, tools=(MINE,))
    d.say("both", output_modalities=["text"])
    one, two = called(d, "crm", "mine", "crm")
    answer(d, two, "b")
    assert "response.done" not in d.types()
    answer(d, one, "a")
    done = d.last("response.done")["response"]
    assert [i["name"] for i in done["output"]] == ["mine"]  # the client must answer its own first
    d.send("conversation.item.create", item={"type": "function_call_output", "call_id": done["output"][0]["call_id"], "output": "c"})
    d.send("response.create")
    assert sorted(m["content"] for m in d.job(Stage.LLM).params["messages"] if m["role"] == "tool") == ["a", "b", "c"]


def test_a_forced_call_is_forced_once():
    d = Driver(server_tools=CRM)
    d.say("x", output_modalities=["text"], tool_choice={"type": "function", "name": "crm"})
    call, = called(d, "crm")
    answer(d, call, "1")
    assert d.job(Stage.LLM).params["tool_choice"] == "auto"


def test_a_model_that_only_calls_is_stopped():
    d = Driver(server_tools=CRM)
    d.say("x", output_modalities=["text"])
    for _ in range(9):
        call, = called(d, "crm")
        answer(d, call, "again")
    error = d.last("response.done")["response"]["status_details"]["error"]
    assert error["code"] == "tool_loop"


def test_a_late_result_is_kept_and_answers_nothing():
    d = Driver(server_tools=CRM)
    d.say("x", output_modalities=["text"])
    call, = called(d, "crm")
    d.send("response.cancel")
    frames = answer(d, call, "late")
    assert d.types(frames) == ["conversation.item.added", "conversation.item.done"] and frames[0]["item"]["output"] == "late"
    assert answer(d, fx.CallTool("resp_9", "call_nobody", "crm", "", ""), "foreign") == []


def test_out_of_band_calls_leave_no_items():
    d = Driver(server_tools=CRM)
    d.say("hello", conversation="none", output_modalities=["text"])
    call, = called(d, "crm")
    assert answer(d, call, "Ada") == []
    assert d.job(Stage.LLM).params["messages"][-1] == {"role": "tool", "tool_call_id": call.call_id, "content": "Ada"}


def test_a_call_under_way_is_made_again_in_another_process():
    d = Driver(server_tools=CRM)
    d.say("x", output_modalities=["text"])
    call, = called(d, "crm")
    saved = json.loads(json.dumps(d.session.snapshot()))
    d.session = Session.restore(saved, d.session.context.ids)
    d.take(d.session.revive({}, d.now))
    again = d.of(fx.CallTool)[-1]
    assert again.call_id == call.call_id and len(d.of(fx.CallTool)) == 2
    answer(d, again, "Ada")
    d.write("It is Ada.")
    assert d.last("response.done")["response"]["output"][0]["content"][0]["text"] == "It is Ada."


def test_a_client_function_of_the_same_name_is_the_clients():
    d = Driver(server_tools=CRM, tools=({**MINE, "name": "crm"},))
    d.say("x", output_modalities=["text"])
    assert called(d, "crm") == [] and d.last("response.done")["response"]["output"][0]["type"] == "function_call"
