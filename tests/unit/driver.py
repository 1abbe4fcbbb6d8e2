"""Drives a session by hand and checks every frame it sends: model, order, pacing."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

from tests.unit.ordering import OrderChecker
from tests.unit.wire import assert_valid
from voice.core import effects as fx
from voice.core.jobs import Chunk, ChunkKind, Job, Stage
from voice.core.session import Session
from voice.core.settings import SessionConfig
from voice.core.speech import SpeechEdge


class Driver:
    def __init__(self, **config: Any):
        counter = itertools.count()
        self.ids = lambda prefix: f"{prefix}_{next(counter)}"
        self.session = Session(SessionConfig("sess_1", **config), self.ids)
        self.now = 100.0
        self.order = OrderChecker()
        self.sent: list[dict[str, Any]] = []
        self.effects: list[fx.Effect] = []
        self.jobs: dict[str, Job] = {}
        self.fed: dict[str, list] = {}
        self.cancelled: dict[str, str] = {}
        self.seq: dict[tuple[str, int], int] = {}
        self.timers: dict[str, float] = {}
        self.take(self.session.start(self.now))

    def move(self, tape: bool = False) -> list[dict[str, Any]]:
        """Another process goes on with the session; what this one had heard of its jobs and not sent is lost. `tape`: audio not yet committed was kept."""
        turns = self.session.turns
        start, pcm = turns.buffer.since(turns.wanted_from) if tape and turns.wanted_from is not None else (0, b"")
        saved = json.loads(json.dumps(self.session.snapshot()))
        heard = {job_id: tuple(feeds) for job_id, feeds in self.fed.items()}
        notices = self.session.context.notices
        self.session = Session.restore(saved, self.ids, notices)
        self.timers = {name: at for name, at in self.timers.items() if name in ("expire", "expiring")}
        if pcm:
            self.session.turns.goes_on_at(start, again=True)
        frames = self.take(self.session.revive(heard, self.now))
        return frames + (self.take(self.session.audio(pcm, (), self.now)) if pcm else [])

    def take(self, effects: list[fx.Effect]) -> list[dict[str, Any]]:
        """Carry out effects; the frames among them."""
        frames = []
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, fx.Send):
                frames.append(effect.event)
            elif isinstance(effect, fx.SendAudio):
                frames.append({**effect.event, "delta": base64.b64encode(effect.pcm).decode()})
            elif isinstance(effect, fx.OpenJob):
                self.jobs[effect.job.id] = effect.job
                self.fed.setdefault(effect.job.id, []).extend(effect.feeds)
            elif isinstance(effect, fx.FeedJob):
                self.fed[effect.job.id].append(effect.feed)
            elif isinstance(effect, fx.CancelJob):
                self.cancelled[effect.job.id] = effect.reason
            elif isinstance(effect, fx.SetTimer):
                self.timers[effect.name] = effect.at
            elif isinstance(effect, fx.ClearTimer):
                self.timers.pop(effect.name, None)
        for frame in frames:
            assert_valid(frame)
            self.order.see(frame)
        self.sent += frames
        return frames

    def send(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        return self.take(self.session.receive({"type": type, **fields}, self.now))

    def say(self, text: str, **response: Any) -> list[dict[str, Any]]:
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
        return self.send("response.create", **({"response": response} if response else {}))

    def audio(self, ms: int, *edges: SpeechEdge) -> list[dict[str, Any]]:
        self.now += ms / 1000
        return self.take(self.session.audio(b"\1\0" * 24 * ms, edges, self.now))

    def utter(self, ms: int = 1000, silence_ms: int = 500) -> list[dict[str, Any]]:
        """Speech by server VAD: started, then stopped."""
        total = self.session.turns.buffer.total_ms
        frames = self.audio(100, SpeechEdge("started", total, total + 64))
        end = total + ms
        return frames + self.audio(ms - 100 + silence_ms, SpeechEdge("stopped", end, end + silence_ms))

    def job(self, stage: Stage) -> Job:
        """The newest open job of a stage."""
        found = [j for j in self.jobs.values() if j.stage is stage and j.id in self.session.context.leases]
        return found[-1]

    def chunk(self, job: Job, kind: ChunkKind, **fields: Any) -> list[dict[str, Any]]:
        key = (job.id, job.attempt)
        self.seq[key] = self.seq.get(key, -1) + 1
        return self.take(self.session.engine(Chunk(job.id, job.attempt, self.seq[key], kind, **fields), self.now))

    def start(self, stage: Stage) -> Job:
        job = self.job(stage)
        self.chunk(job, ChunkKind.STARTED)
        return job

    def edge(self, kind: str, ms: int = 100, at_ms: int | None = None, silence_ms: int = 0, **fields: Any) -> list[dict[str, Any]]:
        """`ms` of audio, and what the detector found at its end."""
        end = self.session.turns.buffer.total_ms + ms
        return self.audio(ms, SpeechEdge(kind, end - silence_ms if at_ms is None else at_ms, end, **fields))

    def transcript(self, text: str) -> list[dict[str, Any]]:
        """The whole transcript of the oldest utterance that lacks one."""
        job = next(j for j in self.jobs.values() if j.stage is Stage.STT and j.id in self.session.context.leases)
        if (job.id, job.attempt) not in self.seq:
            self.chunk(job, ChunkKind.STARTED)
        return self.chunk(job, ChunkKind.TRANSCRIPT, text=text, final=True, index=len(self.fed[job.id]) - 1)

    def hear(self, text: str, confidence: float = 1.0, upto: int | None = None, **meta: Any) -> list[dict[str, Any]]:
        """Recognition of the speech under way says what it heard of everything it was fed (or `upto` this feed)."""
        job = self.session.turns.hearing.lease.job
        if (job.id, job.attempt) not in self.seq:
            self.chunk(job, ChunkKind.STARTED)
        index = len(self.fed[job.id]) - 1 if upto is None else upto
        return self.chunk(job, ChunkKind.TRANSCRIPT, text=text, index=index, meta={"confidence": confidence, **meta})

    def write(self, *texts: str, finish: str = "stop") -> list[dict[str, Any]]:
        """The language model answers."""
        job = self.start(Stage.LLM)
        frames = []
        for text in texts:
            frames += self.chunk(job, ChunkKind.TEXT, text=text)
        return frames + self.chunk(job, ChunkKind.DONE, meta={"input_tokens": 10, "output_tokens": len(texts), "finish_reason": finish})

    def speak(self, job: Job, index: int, ms: int = 1000, final: bool = True, marks: tuple = ()) -> list[dict[str, Any]]:
        """Audio of one sentence in pieces of 100 ms."""
        frames = []
        for at in range(0, ms, 100):
            frames += self.chunk(job, ChunkKind.AUDIO, pcm=b"\2\0" * 2400, index=index, marks=marks if at == 0 else ())
        return frames + (self.chunk(job, ChunkKind.AUDIO, index=index, final=True) if final else [])

    def pass_time(self, seconds: float, step: float = 0.05, alive: bool = False) -> list[dict[str, Any]]:
        """Let the clock run; timers fire when they are due. `alive`: the workers beat."""
        frames, until = [], self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + step)
            for lease in list(self.session.context.leases.values()) if alive else ():
                if lease.next_seq:
                    beat = Chunk(lease.job.id, lease.job.attempt, lease.next_seq - 1, ChunkKind.BEAT)
                    frames += self.take(self.session.engine(beat, self.now))
            for name in [n for n, at in self.timers.items() if at <= self.now]:
                self.timers.pop(name, None)
                frames += self.take(self.session.timer(name, self.now))
        return frames

    def types(self, frames: list[dict[str, Any]] | None = None) -> list[str]:
        return [f["type"] for f in (self.sent if frames is None else frames)]

    def last(self, type: str) -> dict[str, Any]:
        return next(f for f in reversed(self.sent) if f["type"] == type)

    def of(self, kind: type) -> list:
        return [e for e in self.effects if isinstance(e, kind)]
