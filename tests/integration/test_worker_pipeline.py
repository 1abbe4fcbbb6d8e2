"""Bus and workers without a gateway: messages as Celery writes them, leases, cancels, deadlines."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace

import pytest
import redis
from django.conf import settings

from config import workers
from voice.bus.redis import RedisGatewayBus, RedisWorkerBus
from voice.core.jobs import Chunk, ChunkKind, Feed, Job, Stage
from voice.gateway.dispatch import Dispatch

COUNT = iter(range(10**6))
SPEECH = {"voice": "alloy", "speed": 1.0, "language": "en", "rate_hz": 24000}


def make(stage: Stage, params: dict, **fields) -> Job:
    engine, model = workers.DEFAULTS[stage]
    values = {"id": f"job_t{os.getpid()}_{next(COUNT)}", "attempt": 1, "engine": engine, "model": model, "deadline_ms": 10000, **fields}
    return Job(stage=stage, session="sess_test", params=params, **values)


def answer(text: str = "hello", **params) -> dict:
    return {"messages": [{"role": "user", "content": text}], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "max_tokens": 300,
            "temperature": 0.0, "prefix": "", **params}  # fmt: skip


@pytest.fixture
async def bus(stack):
    made = RedisGatewayBus(settings.CONNECT_REDIS_ASYNC, f"test{next(COUNT)}", workers.message)
    await made.start()
    yield made
    await made.close()


async def collect(bus, job: Job, until=(ChunkKind.DONE, ChunkKind.FAILED), timeout_s: float = 15) -> list[Chunk]:
    found = []
    async with asyncio.timeout(timeout_s):
        async for chunk in bus.chunks():
            if chunk.job == job.id:
                found.append(chunk)
                if chunk.kind in until:
                    return found
    raise AssertionError("the stream ended")


def test_our_message_is_celerys_own(servers):
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    job = make(Stage.LLM, answer()).to_dict()
    workers.app.send_task("voice.complete", args=(job, "gw:x"), queue="scratch", expires=workers.EXPIRES_S, ignore_result=True)
    theirs, ours = json.loads(client.lpop("scratch")), json.loads(workers.message(job, "gw:x")[1])

    def shape(value):
        return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else type(value).__name__

    assert shape(theirs) == shape(ours)
    assert theirs["body"] == ours["body"] or json.loads(_body(theirs)) == json.loads(_body(ours))
    same = ("lang", "task", "retries", "timelimit", "ignore_result", "kwargsrepr")
    assert {k: theirs["headers"][k] for k in same} == {k: ours["headers"][k] for k in same}
    assert "hello" not in ours["headers"]["argsrepr"]


def _body(message: dict) -> str:
    import base64

    return base64.b64decode(message["body"]).decode()


async def test_each_stage_does_its_work_in_numbered_chunks(bus):
    from tests.infrastructure import ROOT
    from voice.gateway.talk import read_wav

    job = make(Stage.STT, {"language": "en", "prompt": "", "rate_hz": 24000})
    await bus.open(job, (Feed(0, pcm=read_wav(ROOT / "samples" / "question.wav"), last=True),))
    chunks = await collect(bus, job)
    assert [c.kind for c in chunks] == [ChunkKind.STARTED, ChunkKind.TRANSCRIPT, ChunkKind.DONE] and chunks[1].text == "what is seven plus five"
    job = make(Stage.LLM, answer("what is seven plus five"))
    await bus.open(job)
    chunks = await collect(bus, job)
    assert "".join(c.text for c in chunks if c.kind is ChunkKind.TEXT) == "Seven plus five is twelve."
    assert [c.seq for c in chunks if c.kind is not ChunkKind.BEAT] == list(range(len([c for c in chunks if c.kind is not ChunkKind.BEAT])))
    job = make(Stage.TTS, SPEECH)
    await bus.open(job, (Feed(0, "Hello."),))
    await bus.feed(job, Feed(1, "Again."))
    await bus.feed(job, Feed(2, last=True))
    chunks = await collect(bus, job)
    assert [c.index for c in chunks if c.final] == [0, 1] and sum(len(c.pcm) for c in chunks) > 40_000


async def test_speech_is_heard_while_it_is_spoken(bus):
    """Fed piece by piece: a transcript so far at the pause, which is the whole one when nothing more comes, without hearing it again."""
    from tests.infrastructure import ROOT
    from voice.gateway.talk import read_wav

    pcm = read_wav(ROOT / "samples" / "question.wav")
    job = make(Stage.STT, {"language": "en", "prompt": "", "rate_hz": 24000, "interim_ms": 400})
    await bus.open(job, (Feed(0, pcm=pcm[:19200]),))
    found, index = [], 0
    for at in range(19200, len(pcm), 19200):
        index += 1
        await asyncio.sleep(0.4)
        await bus.feed(job, Feed(index, pcm=pcm[at : at + 19200]))
    await bus.feed(job, Feed(index + 1, flush=True))
    while not found or found[-1].index <= index:
        found.append((await collect(bus, job, until=(ChunkKind.TRANSCRIPT,)))[-1])
    assert found[-1].text == "what is seven plus five" and not found[-1].final and found[-1].meta["confidence"] > 0.8
    assert len(found) >= 2 and found[0].text.startswith("what")  # something was heard in between
    heard_ms = found[-1].meta["decoded_ms"]
    await bus.feed(job, Feed(index + 2, last=True))
    *_, last, done = await collect(bus, job)
    assert last.final and last.text == found[-1].text and done.meta["decoded_ms"] <= heard_ms + 2100 and done.meta["audio_ms"] == len(pcm) // 48


async def test_every_voice_is_another_one(bus):
    from voice.engines.tts.espeak import VOICES

    sounds = set()
    for voice in VOICES:
        job = make(Stage.TTS, {**SPEECH, "voice": voice})
        await bus.open(job, (Feed(0, "Good morning.", last=True),))
        chunks = await collect(bus, job)
        sounds.add(b"".join(c.pcm for c in chunks))
        assert [m for c in chunks for m in c.marks][:2] and chunks[-1].meta["audio_ms"] > 500
    assert len(sounds) == len(VOICES) and min(len(s) for s in sounds) > 24000


async def test_a_language_model_that_is_away_fails_soon_and_the_next_attempt_may_go_to_another(bus):
    """The provider by URL is not there (its answers: test_engines.py); the same job is done by the embedded one as attempt 2."""
    job = make(Stage.LLM, answer("what is seven plus five"), engine="openai", model="away")
    began = time.monotonic()
    await bus.open(job)
    last = (await collect(bus, job))[-1]
    assert last.kind is ChunkKind.FAILED and last.name == "llm_unavailable" and last.meta["retryable"] and time.monotonic() - began < 5
    engine, model = workers.DEFAULTS[Stage.LLM]
    await bus.open(replace(job, attempt=2, engine=engine, model=model))
    chunks = await collect(bus, job)
    assert "".join(c.text for c in chunks if c.kind is ChunkKind.TEXT) == "Seven plus five is twelve." and {c.attempt for c in chunks} == {2}


async def test_voices_and_speeds(bus):
    lengths = {}
    for speed in (0.5, 1.0, 2.0):
        job = make(Stage.TTS, {**SPEECH, "speed": speed})
        await bus.open(job, (Feed(0, "My name is Alice.", last=True),))
        lengths[speed] = sum(len(c.pcm) for c in await collect(bus, job))
    assert lengths[0.5] > 1.4 * lengths[1.0] > 1.4 * 1.3 * lengths[2.0]


async def test_a_waiting_worker_beats_and_a_cancel_frees_it(bus):
    job = make(Stage.TTS, SPEECH, deadline_ms=60000)
    await bus.open(job)
    chunks = await collect(bus, job, until=(ChunkKind.BEAT,))
    times = []
    for _ in range(5):
        await collect(bus, job, until=(ChunkKind.BEAT,))
        times.append(time.monotonic())
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) < 0.45 and chunks[-1].seq == 0
    waits = []
    for _ in range(20):
        job = make(Stage.TTS, SPEECH, deadline_ms=60000)
        await bus.open(job, (Feed(0, "Once upon a time. " * 30),))
        await collect(bus, job, until=(ChunkKind.AUDIO,))
        began = time.monotonic()
        await bus.cancel(job, "client_cancelled")
        assert (await collect(bus, job))[-1].name == "cancelled"
        waits.append(time.monotonic() - began)
    assert sorted(waits)[10] < 0.05 and sorted(waits)[18] < 0.25


async def test_a_second_delivery_and_a_lower_attempt_are_not_done(bus):
    job = make(Stage.LLM, answer(), attempt=2)
    await bus.open(job)
    assert (await collect(bus, job))[-1].kind is ChunkKind.DONE
    for attempt in (1, 2):
        again = Job(**{**{k: getattr(job, k) for k in ("id", "stage", "session", "engine", "model", "deadline_ms", "params")}, "attempt": attempt})
        await bus.open(again)
        with pytest.raises(TimeoutError):
            await collect(bus, again, timeout_s=0.7)


@pytest.mark.parametrize("gap", [False, True], ids=["the first ends late", "an end with something missing before it"])
async def test_whatever_attempt_ends_the_newest_is_heard(bus, gap):
    """The first attempt fell silent (a frozen worker, a Redis that hung), a second one runs, and then the first one's end is read; or the second
    is opened when the first one's end is read."""
    worker, dispatch, heard = RedisWorkerBus(settings.CONNECT_REDIS), Dispatch(bus), []
    await dispatch.start()
    first = make(Stage.LLM, answer())
    second = replace(first, attempt=2)

    class Listener:
        def on_chunk(self, chunk: Chunk) -> None:
            heard.append((chunk.attempt, chunk.kind))
            if gap and chunk.attempt == 1:
                dispatch.listen(second, self)

    for job in (first,) if gap else (first, second):
        dispatch.listen(job, Listener())
    said = [(1, ChunkKind.DONE), (2, ChunkKind.STARTED), (2, ChunkKind.DONE), (2, ChunkKind.BEAT)]
    for attempt, kind in said:
        await asyncio.to_thread(worker.send, first, bus.stream, Chunk(first.id, attempt, 0, kind))
    async with asyncio.timeout(10):
        while len(heard) < 3:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    assert heard == said[:3]  # and after the newest attempt's end nobody listens
    dispatch._task.cancel()
    worker.close()


async def test_a_cancelled_job_is_not_begun(bus):
    job = make(Stage.LLM, answer())
    await bus.cancel(job, "disconnected")
    await bus.open(job)
    with pytest.raises(TimeoutError):
        await collect(bus, job, timeout_s=0.7)


@pytest.mark.parametrize(("stage", "fields", "code"), [
    (Stage.LLM, {"model": "no-such-model"}, "model_not_found"), (Stage.LLM, {"engine": "nobody"}, "unknown_engine"),
    (Stage.TTS, {"params": {**SPEECH, "voice": "nobody"}}, "unknown_voice"),
])  # fmt: skip
async def test_what_cannot_be_done_fails_with_its_code(bus, stage, fields, code):
    fields = dict(fields)
    job = make(stage, fields.pop("params", None) or (answer() if stage is Stage.LLM else SPEECH), **fields)
    await bus.open(job, (Feed(0, "Hello.", last=True),) if stage is Stage.TTS else ())
    last = (await collect(bus, job))[-1]
    assert last.kind is ChunkKind.FAILED and last.name == code and last.text


async def test_a_job_without_input_ends_at_its_deadline(bus):
    job = make(Stage.STT, {"language": "en", "prompt": "", "rate_hz": 24000})
    await bus.open(job)
    last = (await collect(bus, job, timeout_s=20))[-1]
    assert last.kind is ChunkKind.FAILED and last.name == "feed_timeout"


async def test_a_burst_of_jobs_waits_its_turn(bus):
    """More jobs at once than connections: each is handed out, none refused."""
    jobs = [make(Stage.LLM, answer("hello")) for _ in range(300)]
    await asyncio.gather(*(bus.open(job) for job in jobs))
    left = {job.id for job in jobs}
    async with asyncio.timeout(60):
        async for chunk in bus.chunks():
            if chunk.kind is ChunkKind.DONE:
                left.discard(chunk.job)
            if not left:
                return
