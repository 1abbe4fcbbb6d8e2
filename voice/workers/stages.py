"""What each stage does with its job: feeds in, engine, chunks out."""

from __future__ import annotations

import time
from collections.abc import Iterator

from voice.core.jobs import Chunk, ChunkKind
from voice.engines.base import CompletionRequest, TextDelta, ToolCall, Transcript
from voice.engines.thoughts import Thoughts
from voice.workers.hearing import Hearing
from voice.workers.run import Lease, piece

FEED_WAIT_S = 15 * 60  # a TTS job waits as long as its answer is spoken; beats tell that it lives
AUDIO_WAIT_S = 10  # longer than the longest pause inside an utterance (8 s)


def transcribe(lease: Lease) -> Iterator[Chunk]:
    """One utterance, often while it is being spoken: PCM16 at params.rate_hz by feeds, heard anew at pauses and now and then."""
    params = lease.job.params
    hearing, index = Hearing(lease.engine(), params), 0
    for feed in lease.bus.feeds(lease.job, AUDIO_WAIT_S):
        index = feed.index
        hearing.add(feed.pcm, last=feed.last)
        if not feed.last and (feed.flush or hearing.due()):
            yield _transcript(hearing.hear(settle=feed.flush), index, final=False, decoded_ms=hearing.decoded_ms)
    if lease.bus.cancelled(lease.job):
        return
    began = time.monotonic()
    yield _transcript(hearing.hear(), index, final=True, decoded_ms=hearing.decoded_ms)
    yield piece(ChunkKind.DONE, meta={"audio_ms": hearing.audio_ms, "decoded_ms": hearing.decoded_ms, "total_ms": (time.monotonic() - began) * 1000})


def _transcript(found: Transcript, index: int, final: bool, decoded_ms: int) -> Chunk:
    meta = {"language": found.language, "no_speech": round(found.no_speech, 3), "confidence": round(found.confidence, 3), "decoded_ms": decoded_ms}
    if found.logprobs:
        meta["logprobs"] = [[token, round(value, 5)] for token, value in found.logprobs]
    if found.ended is not None:
        meta["ended"] = round(found.ended, 3)
    return piece(ChunkKind.TRANSCRIPT, text=found.text, index=index, final=final, meta=meta)


def complete(lease: Lease) -> Iterator[Chunk]:
    """One answer of the language model."""
    began, calls, first, thoughts = time.monotonic(), 0, 0.0, Thoughts()
    answer = lease.engine().complete(CompletionRequest(**lease.job.params))
    try:
        for found in answer:
            first = first or (time.monotonic() - began) * 1000
            if isinstance(found, TextDelta):
                if text := thoughts.feed(found.text):
                    yield piece(ChunkKind.TEXT, text=text)
            elif isinstance(found, ToolCall):
                yield piece(ChunkKind.TOOL, index=calls, name=found.name, arguments=found.arguments)
                calls += 1
            else:
                if text := thoughts.rest():
                    yield piece(ChunkKind.TEXT, text=text)
                yield piece(ChunkKind.DONE, meta={
                    "input_tokens": found.input_tokens, "output_tokens": found.output_tokens, "finish_reason": found.finish_reason,
                    "first_ms": first, "total_ms": (time.monotonic() - began) * 1000,
                })  # fmt: skip
    finally:
        answer.close()


def synthesize(lease: Lease) -> Iterator[Chunk]:
    """Sentence by sentence as they are fed; AUDIO pieces of at most 100 ms, an empty final one ends each sentence."""
    params, engine = lease.job.params, lease.engine()
    samples = 0
    for feed in lease.bus.feeds(lease.job, FEED_WAIT_S):
        if not feed.text.strip():
            continue
        speech = engine.synthesize(feed.text, voice=params["voice"], speed=params["speed"], language=params["language"])
        try:
            for part in speech:
                samples += len(part.pcm) // 2
                yield piece(ChunkKind.AUDIO, pcm=part.pcm, index=feed.index, marks=part.marks)
        finally:
            speech.close()
        yield piece(ChunkKind.AUDIO, index=feed.index, final=True)
    yield piece(ChunkKind.DONE, meta={"audio_ms": samples * 1000 // engine.rate_hz})
