"""The rules of docs/protocol.md that break real clients and are not in test_core_session.py or test_core_breadth.py: one test each."""

from __future__ import annotations

import pytest

from tests.unit.driver import Driver
from voice.audio.detector import Detector
from voice.core.jobs import ChunkKind, Stage
from voice.core.setters import SEMANTIC_VAD


def nulls(value, path: str = "") -> list[str]:
    """Paths of null values."""
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in ([f"{path}.{k}"] if v is None else nulls(v, f"{path}.{k}"))]
    return [p for v in value for p in nulls(v, path)] if isinstance(value, list) else []


def long_talk(**config) -> Driver:
    """Typed, spoken, cancelled, failed and called: many kinds of frames."""
    d = Driver(tools=({"type": "function", "name": "f", "parameters": {"type": "object"}},), **config)
    d.send("session.update", session={"audio": {"input": {"transcription": {"model": "whisper-1"}}}})
    d.say("hi")
    d.write("Hello. ")
    d.speak(d.start(Stage.TTS), 0, 300)
    d.utter()
    d.transcript("what")
    d.send("response.cancel")
    d.say("call", output_modalities=["text"])
    job = d.start(Stage.LLM)
    d.chunk(job, ChunkKind.TOOL, name="f", arguments="{}")
    d.chunk(job, ChunkKind.DONE, meta={"finish_reason": "tool_calls"})
    d.say("break", output_modalities=["text"])
    d.chunk(d.start(Stage.LLM), ChunkKind.FAILED, name="engine_error", text="no")
    d.say("long", output_modalities=["text"], max_output_tokens=1)
    d.write("One", finish="length")
    return d


def test_rule_02_event_ids_are_unique():
    ids = [e["event_id"] for e in long_talk(extensions=True).sent]
    assert len(ids) > 60 and len(ids) == len(set(ids))


def test_rule_05_keys_that_are_not_set_are_left_out_of_items():
    for event in long_talk().sent:
        for item in [event[k] for k in ("item",) if k in event] + event.get("response", {}).get("output", []):
            assert [p for p in nulls(item) if not p.endswith(".transcript")] == [], item  # a user's transcript: rule 4


def test_rule_10_and_12_a_client_that_did_not_ask_gets_no_error_and_no_event_of_ours():
    kinds = long_talk().types()
    assert "error" not in kinds and not [k for k in kinds if k.startswith("ext.")]
    d = Driver()
    for session in ({"temperature": 0.9}, {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, {"tracing": "auto"}, {"wings": 1}):
        assert d.types(d.send("session.update", session=session)) == ["session.updated"]


def test_rule_11_an_error_names_the_event_it_is_about():
    d = Driver()
    for kind in ("conversation.item.delete", "nonsense", "response.cancel"):
        error = d.send(kind, event_id="mine", item_id="x")[-1]["error"]
        assert error["event_id"] == "mine"
        assert d.send(kind, item_id="x")[-1]["error"]["event_id"] is None


def test_rule_14_strings_stay_strings():
    shown = Driver().send("session.update", session={"tool_choice": "auto", "audio": {"output": {"voice": {"id": "ash"}}}})[-1]["session"]
    assert shown["tool_choice"] == "auto" and shown["audio"]["output"]["voice"] == "ash"


def test_rule_16_reasons_are_the_ones_clients_know():
    sent = long_talk().sent
    details = [e["response"]["status_details"] for e in sent if e["type"] == "response.done" and e["response"]["status_details"]]
    assert {d.get("reason") for d in details} <= {"turn_detected", "client_cancelled", "max_output_tokens", None} and len(details) >= 3
    assert {r["name"] for e in sent if e["type"] == "rate_limits.updated" for r in e["rate_limits"]} == {"requests", "tokens"}


@pytest.mark.parametrize("eagerness", ["low", "medium", "high", "auto"])
def test_rule_22_semantic_vad_is_taken_and_listened_with(eagerness):
    detection = {"type": "semantic_vad", "eagerness": eagerness}
    d = Driver()
    shown = d.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})[-1]["session"]
    assert shown["audio"]["input"]["turn_detection"] == {**SEMANTIC_VAD, **detection}
    assert list(Detector(shown["audio"]["input"]["turn_detection"]).push(bytes(48000))) == []
    d.utter()
    d.transcript("what is seven plus five")
    d.pass_time(9, alive=True)
    assert "response.created" in d.types()
