"""An answer begun at a short silence, before it is certain that the user has finished."""

from __future__ import annotations

import json

from voice.core.chunker import Chunker
from voice.core.context import Context
from voice.core.conversation import Entry
from voice.core.input_audio import BYTES_PER_MS
from voice.core.jobs import Chunk, ChunkKind, Feed, Stage
from voice.core.leases import Lease
from voice.core.params import ResponseParams, llm_params, open_llm, open_tts, tts_params

SENTENCES = 1  # spoken ahead


class Draft:
    """Nothing of it reaches the client or the conversation: what the workers give is kept until a response takes it over
    (`Response.adopt`) or it is dropped. `text`: what the user was heard to say; `ends`: when each segment of the waterfall was over."""

    def __init__(self, context: Context, params: ResponseParams, entries: list[Entry], item_id: str, text: str, paused_at: float):
        self.context, self.item_id, self.text = context, item_id, text
        self.id = context.ids("draft")
        self.llm = open_llm(context, params, entries, self.id, ahead=True)
        self.tts = open_tts(context, params, self.id, ahead=True) if params.modality == "audio" else None
        self.kept: list[tuple[Lease, Chunk]] = []
        self.ends: dict[str, float] = {"pause": paused_at}
        self.sentences = 0  # handed to the speech engine, blank ones included
        self.alive = True
        self._chunker = Chunker()

    def fits(self, params: ResponseParams, entries: list[Entry]) -> bool:
        """Would the answer wanted now be opened with the very same words, settings and voice?"""
        wanted = [(Stage.LLM, llm_params(params, entries))] + [(Stage.TTS, tts_params(self.context, params))] * (params.modality == "audio")
        jobs = [lease.job for lease in (self.llm, self.tts) if lease]
        there = [(job.stage, (job.engine, job.model), job.params) for job in jobs]
        return self.alive and there == [(stage, self.context.settings.engine(str(stage)), values) for stage, values in wanted]

    def take(self, lease: Lease, chunk: Chunk) -> None:
        if chunk.kind is ChunkKind.FAILED:
            return self.drop()
        self.kept.append((lease, chunk))
        if chunk.kind is ChunkKind.STARTED:
            if lease is self.llm:
                self._mark("llm_queue")
        elif chunk.kind is ChunkKind.TEXT and chunk.text:
            self._mark("llm")
            self._speak(self._chunker.feed(chunk.text))
        elif chunk.kind is ChunkKind.TOOL:
            self._mark("llm")
        elif chunk.kind is ChunkKind.AUDIO and chunk.pcm:
            self.ends.setdefault("tts_queue", self.tts.started_at)
            self._mark("tts")
        elif chunk.kind is ChunkKind.DONE:
            self.context.end_lease(lease)
            if lease is self.llm:
                self._speak(self._chunker.flush())

    def _speak(self, sentences: list[str]) -> None:
        """The first sentence goes to the speech engine; the response sees to the others."""
        for text in sentences:
            if self.tts is None or self.sentences >= SENTENCES:
                return
            if text.strip():
                self._mark("sentence")
                self.context.feed(self.tts, Feed(self.sentences, text), keep=False)
            self.sentences += 1

    def _mark(self, name: str) -> None:
        self.ends.setdefault(name, self.context.now)

    def lease_failed(self, lease: Lease, code: str, message: str, *, retry: bool) -> None:
        self.drop()

    def drop(self) -> None:
        """The user went on, or something else is to be answered: measured as waste, never billed."""
        if not self.alive:
            return
        self.alive = False
        for lease in (self.llm, self.tts):
            self.context.end_lease(lease, "superseded")
        done = next((c.meta for lease, c in self.kept if lease is self.llm and c.kind is ChunkKind.DONE), None)
        if done is None:  # about a token a delta, four characters a token
            deltas = sum(c.kind is ChunkKind.TEXT for _, c in self.kept)
            done = {"input_tokens": len(json.dumps(self.llm.job.params["messages"])) // 4 if self.llm.started_at else 0, "output_tokens": deltas}
        spoken = sum(len(c.pcm) for _, c in self.kept) // BYTES_PER_MS
        self.context.waste(tokens_in=int(done.get("input_tokens", 0)), tokens_out=int(done.get("output_tokens", 0)), audio_out_ms=spoken)
        self.kept.clear()
