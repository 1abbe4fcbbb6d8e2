"""One contract per kind; every engine file in the folder is found and must keep it, or say plainly what it lacks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soxr

from apps.common.launch.servers import die_with_parent, free_port, port_taken
from config.workers import engine_settings
from tests.infrastructure import ROOT
from voice.engines import create, names
from tests.contracts import check_llm
from voice.engines.base import CompletionRequest, EngineError, EngineSettings, ModelNotFound, Speech, TextDelta, ToolCall
from voice.engines.hermes import HermesParser
from voice.gateway.talk import read_wav

SETTINGS = engine_settings()
# engine -> the model it is tested with here; the others need weights or servers that are not part of the project
MODELS = {("stt", "faster_whisper"): "embedded-closed-vocab", ("llm", "ctranslate2"): "embedded-closed-vocab", ("tts", "espeak"): "espeak-ng"}


def loaded(stage: str, name: str, **settings):
    engine = create(stage, name, MODELS.get((stage, name), ""), SETTINGS if not settings else settings["settings"])
    engine.load()
    return engine


def test_every_engine_file_is_known_to_these_tests():
    found = {(s, n) for s in ("stt", "llm", "tts") for n in names(s)}
    assert found == {*MODELS, ("llm", "openai"), ("llm", "vllm"), ("tts", "kokoro")}


@pytest.mark.parametrize("stage", ["stt", "llm", "tts"])
def test_unknown_engines_and_models_are_named(stage):
    with pytest.raises(EngineError, match="there are:"):
        create(stage, "nobody", "", SETTINGS)
    for name in names(stage):
        if name not in ("openai", "espeak"):
            with pytest.raises(ModelNotFound, match="models pull"):
                create(stage, name, "no-such-model", SETTINGS).load()


def test_kokoro_speaks_where_its_weights_are():
    """Its weights cannot be part of the project: where `manage.py models pull kokoro` put them the contract runs, else the loader says so."""
    engine = create("tts", "kokoro", "kokoro", SETTINGS)
    try:
        engine.load()
    except ModelNotFound as error:
        assert "manage.py models pull" in str(error)
        print(f"kokoro: contract not run here: {error}")
        return
    check_tts(engine)


def transcribe(engine, pcm24: bytes) -> str:
    pcm = soxr.resample(np.frombuffer(pcm24, "<i2"), 24000, 16000).astype("<i2").tobytes()
    found = list(engine.transcribe(pcm))
    assert [t.final for t in found].count(True) == 1 and found[-1].final
    return found[-1].text


def test_stt_contract():
    engine = loaded("stt", "faster_whisper")
    assert transcribe(engine, read_wav(ROOT / "samples" / "question.wav")) == "what is seven plus five"
    assert transcribe(engine, bytes(96000)) == "" and transcribe(engine, b"") == ""
    question = read_wav(ROOT / "samples" / "question.wav")
    long = (question + bytes(8 * 48000 - len(question))) * 2  # longer than the model's window of 8 s
    assert transcribe(engine, long) == "what is seven plus five what is seven plus five"
    results = []
    threads = [threading.Thread(target=lambda: results.append(transcribe(engine, read_wav(ROOT / "samples" / "light.wav")))) for _ in range(8)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert results == ["turn off the kitchen light"] * 8


def test_llm_contract():
    check_llm(loaded("llm", "ctranslate2"))


@pytest.fixture(scope="module")
def server():
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.integration.openai_server", str(port)], cwd=ROOT, preexec_fn=die_with_parent())
    until = time.monotonic() + 30
    while not port_taken(port):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(5)


def test_openai_contract(server):
    check_llm(loaded("llm", "openai", settings=EngineSettings(openai_base_url=server, openai_api_key="right")))


def test_openai_says_what_the_server_refused_and_that_a_missing_one_may_come_back(server):
    request = CompletionRequest([{"role": "user", "content": "hello"}])
    for url, key, code, retryable in ((server, "wrong", "llm_refused", False), (f"http://127.0.0.1:{free_port()}/v1", "right", "llm_unavailable", True)):
        engine = loaded("llm", "openai", settings=EngineSettings(openai_base_url=url, openai_api_key=key))
        with pytest.raises(EngineError) as caught:
            list(engine.complete(request))
        assert (caught.value.code, caught.value.retryable) == (code, retryable)
    with pytest.raises(EngineError, match="LLM_OPENAI_BASE_URL"):
        loaded("llm", "openai", settings=EngineSettings())


def test_ctranslate2_drops_the_oldest_messages_when_the_context_is_full():
    engine = loaded("llm", "ctranslate2")
    history = [{"role": "system", "content": "You are a pirate."}]
    for _ in range(60):
        history += [{"role": "user", "content": "count to ten"}, {"role": "assistant", "content": "One, two, three, four, five, six, seven, eight, nine, ten."}]
    history.append({"role": "user", "content": "what is seven plus five"})
    prompt, size = engine._prompt(CompletionRequest(history), [])
    assert prompt.startswith("<|system|>You are a pirate.<|end|>") and prompt.endswith("<|user|>what is seven plus five<|end|><|assistant|>")
    assert 500 < size <= 1024 - 128 and size == len(engine._encode(prompt))
    found = list(engine.complete(CompletionRequest(history)))
    assert "twelve" in "".join(f.text for f in found if isinstance(f, TextDelta)) and found[-1].input_tokens == size


def check_tts(engine) -> None:
    pieces = list(engine.synthesize("Hello there, my name is Alice."))
    assert all(isinstance(p, Speech) and 0 < len(p.pcm) <= engine.rate_hz // 10 * 2 and len(p.pcm) % 2 == 0 for p in pieces)
    samples = np.frombuffer(b"".join(p.pcm for p in pieces), "<i2")
    assert 0.8 < len(samples) / engine.rate_hz < 4 and np.abs(samples).max() > 1000
    slow = sum(len(p.pcm) for p in engine.synthesize("Hello there, my name is Alice.", speed=0.5))
    assert slow > len(samples) * 2 * 1.3
    with pytest.raises(EngineError) as caught:
        list(engine.synthesize("x", voice="nobody at all"))
    assert caught.value.code == "unknown_voice"
    voices = {engine.voices()[0], *engine.voices()[:4]}
    assert len({b"".join(p.pcm for p in engine.synthesize("Hello.", voice=v)) for v in voices}) == len(voices)
    stream = engine.synthesize("A very long sentence, " * 50)
    next(stream)
    stream.close()
    assert list(engine.synthesize("Again."))


def test_tts_contract():
    engine = loaded("tts", "espeak")
    check_tts(engine)
    marks = [m for p in engine.synthesize("Hello there, my name is Alice.") for m in p.marks]
    assert [c for c, _ in marks] == [0, 6, 13, 16, 21, 24] and [ms for _, ms in marks] == sorted(ms for _, ms in marks)
    began = time.monotonic()
    next(engine.synthesize("A very long sentence, " * 50))
    assert time.monotonic() - began < 0.25


def test_the_markup_of_calls_never_reaches_the_text():
    text = 'Sure. <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call> 1 < 2 <tool> <tool_call>broken</tool_call>.'
    for step in (1, 3, 7, 500):
        parser, found = HermesParser(), []
        for at in range(0, len(text), step):
            found += parser.feed(text[at : at + step])
        found += parser.end()
        assert "".join(f.text for f in found if isinstance(f, TextDelta)) == "Sure.  1 < 2 <tool> ."
        assert [f for f in found if isinstance(f, ToolCall)] == [ToolCall("f", '{"a": 1}')]
