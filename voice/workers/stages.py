"""What each stage does with its job: feeds in, engine, chunks out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import soxr

from voice.core.jobs import Chunk, ChunkKind
from voice.engines.base import CompletionRequest, TextDelta, ToolCall
from voice.workers.run import Lease, piece

STT_HZ = 16000
FEED_WAIT_S = 15 * 60  # a TTS job waits as long as its answer is spoken; beats tell that it lives
AUDIO_WAIT_S = 10


def transcribe(lease: Lease) -> Iterator[Chunk]:
    """One utterance: PCM16 at params.rate_hz by feeds."""
    params = lease.job.params
    pcm = b"".join(feed.pcm for feed in lease.bus.feeds(lease.job, AUDIO_WAIT_S))
    if lease.bus.cancelled(lease.job):
        return
    audio_ms = len(pcm) * 1000 // 2 // params["rate_hz"]
    if params["rate_hz"] != STT_HZ:
        pcm = soxr.resample(np.frombuffer(pcm, "<i2"), params["rate_hz"], STT_HZ).astype("<i2").tobytes()
    began = time.monotonic()
    for found in lease.engine().transcribe(pcm, language=params.get("language", "en"), prompt=params.get("prompt", ""),
                                           task=params.get("task", "transcribe")):  # fmt: skip
        yield piece(ChunkKind.TRANSCRIPT, text=found.text, final=found.final,
                    meta={"language": found.language, "no_speech": round(found.no_speech, 3)})  # fmt: skip
    yield piece(ChunkKind.DONE, meta={"audio_ms": audio_ms, "total_ms": (time.monotonic() - began) * 1000})


def complete(lease: Lease) -> Iterator[Chunk]:
    """One answer of the language model."""
    began, calls, first = time.monotonic(), 0, 0.0
    answer = lease.engine().complete(CompletionRequest(**lease.job.params))
    try:
        for found in answer:
            first = first or (time.monotonic() - began) * 1000
            if isinstance(found, TextDelta):
                yield piece(ChunkKind.TEXT, text=found.text)
            elif isinstance(found, ToolCall):
                yield piece(ChunkKind.TOOL, index=calls, name=found.name, arguments=found.arguments)
                calls += 1
            else:
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
