"""A Hypothesis machine drives the session with random legal and illegal orders. Whatever happens: every frame fits the models,
the order is legal, and each response.created gets exactly one response.done."""

from __future__ import annotations

import base64

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.driver import Driver
from voice.core import effects as fx
from voice.core.jobs import Chunk, ChunkKind, Stage
from voice.core.speech import SpeechEdge

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
PATCHES = st.sampled_from([
    {"instructions": "x"}, {"audio": {"output": {"voice": "marin"}}}, {"audio": {"output": {"voice": "nobody"}}}, {"tools": [TOOL]},
    {"tools": []}, {"tool_choice": "required"}, {"tool_choice": {"type": "function", "name": "f"}}, {"tool_choice": "auto"},
    {"output_modalities": ["text"]}, {"output_modalities": ["audio"]}, {"audio": {"input": {"turn_detection": None}}},
    {"audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}},
    {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, {"audio": {"input": {"transcription": {"model": "whisper-1"}}}},
    {"prompt": {"id": "agt_1"}}, {"prompt": {"id": "agt_2"}}, {"prompt": None}, {"model": "agt_1"}, {"truncation": "disabled"},
    {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}, {"audio": {"output": {"format": {"type": "audio/pcma"}}}}, {"voice": "ash"},
    {"max_output_tokens": 3}, {"max_output_tokens": "x"}, {"audio": 5}, {"type": "transcription"},
])  # fmt: skip
CREATES = st.sampled_from([
    {}, {"response": {"output_modalities": ["text"]}}, {"response": {"conversation": "none", "metadata": {"a": "b"}}},
    {"response": {"conversation": "none", "input": []}}, {"response": {"input": [{"type": "item_reference", "id": "zzz"}]}},
    {"response": {"tool_choice": "required"}}, {"response": {"metadata": 5}}, {"response": {"max_output_tokens": 2}},
])  # fmt: skip
ITEMS = st.sampled_from([
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": base64.b64encode(b"\0\0" * 4800).decode()}]},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]},
    {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "call_1"},
    {"type": "function_call_output", "call_id": "call_1", "output": "1"}, {"type": "message", "role": "robot", "content": []},
    {"id": "same", "type": "message", "role": "system", "content": [{"type": "input_text", "text": "be"}]}, {"type": 7},
])  # fmt: skip


CONFIG = {
    "server_tools": {"f": {"url": "https://example.com/f", "tool": {"type": "function", "name": "f"}}},
    "prompts": {"agt_1": {"instructions": "x", "tools": [TOOL]}}, "pipelines": {"agt_1": {"llm_engine": "openai", "llm_model": "m"}},
}  # fmt: skip


class SessionMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.d = Driver(**CONFIG)

    def pick(self, index: int):
        leases = list(self.d.session.context.leases.values())
        return leases[index % len(leases)].job

    def some_item(self, index: int) -> str:
        entries = self.d.session.context.conversation.entries()
        return entries[index % len(entries)].item["id"] if entries else "none"

    @rule(patch=PATCHES)
    def update(self, patch):
        self.d.send("session.update", session=patch)

    @rule(create=CREATES)
    def create(self, create):
        self.d.send("response.create", **create)

    @rule(item=ITEMS, previous=st.sampled_from([None, "root", "same", "missing"]))
    def add_item(self, item, previous):
        self.d.send("conversation.item.create", item=item, **({"previous_item_id": previous} if previous else {}))

    @rule(verb=st.sampled_from(["retrieve", "delete"]), index=st.integers(0, 20))
    def touch_item(self, verb, index):
        self.d.send(f"conversation.item.{verb}", item_id=self.some_item(index))

    @rule(index=st.integers(0, 20), ms=st.integers(-5, 5000))
    def truncate(self, index, ms):
        self.d.send("conversation.item.truncate", item_id=self.some_item(index), content_index=0, audio_end_ms=ms)

    @rule(kind=st.sampled_from(["response.cancel", "input_audio_buffer.commit", "input_audio_buffer.clear", "output_audio_buffer.clear", "nonsense"]))
    def simple(self, kind):
        self.d.send(kind)

    @rule(ms=st.sampled_from([20, 100, 700]), edge=st.sampled_from([None, "started", "paused", "resumed", "stopped"]))
    def audio(self, ms, edge):
        at = self.d.session.turns.buffer.total_ms
        self.d.audio(ms, *([SpeechEdge(edge, at, at + ms)] if edge else []))

    @precondition(lambda self: self.d.session.context.leases)
    @rule(index=st.integers(0, 9), kind=st.sampled_from(list(ChunkKind)), final=st.booleans(), number=st.integers(0, 3))
    def chunk(self, index, kind, final, number):
        job = self.pick(index)
        if kind is ChunkKind.BEAT:
            return
        self.d.chunk(job, kind, text="Well. So ", pcm=b"\1\0" * 2400 if kind is ChunkKind.AUDIO else b"", index=number, final=final,
                     name="f", arguments="{}", meta={"retryable": final, "finish_reason": "stop"})  # fmt: skip

    @precondition(lambda self: self.d.session.context.leases)
    @rule(index=st.integers(0, 9), text=st.sampled_from(["", "seven plus five"]))
    def sensible(self, index, text):
        """Let a stage do its whole work, so that deep states are reached."""
        job = self.pick(index)
        if (job.id, job.attempt) not in self.d.seq:
            self.d.chunk(job, ChunkKind.STARTED)
        if job.stage is Stage.STT:
            hears = self.d.session.turns.hearing
            over = hears is None or hears.lease is None or hears.lease.job.id != job.id
            self.d.chunk(job, ChunkKind.TRANSCRIPT, text=text, final=over, index=len(self.d.fed[job.id]) - 1)
        elif job.stage is Stage.LLM:
            self.d.chunk(job, ChunkKind.TEXT, text="One. Two.")
            self.d.chunk(job, ChunkKind.DONE, meta={"finish_reason": "stop", "input_tokens": 3, "output_tokens": 2})
        else:
            for index in range(len(self.d.fed[job.id])):
                self.d.chunk(job, ChunkKind.AUDIO, pcm=b"\1\0" * 2400, index=index)
                self.d.chunk(job, ChunkKind.AUDIO, index=index, final=True)

    @precondition(lambda self: self.d.jobs)
    @rule(index=st.integers(0, 50), attempt=st.integers(1, 2), seq=st.integers(0, 9), kind=st.sampled_from(list(ChunkKind)))
    def stray(self, index, attempt, seq, kind):
        """Late, doubled, from the wrong attempt, or with a gap."""
        job_id = list(self.d.jobs)[index % len(self.d.jobs)]
        self.d.take(self.d.session.engine(Chunk(job_id, attempt, seq, kind, text="late", pcm=b"\1\0"), self.d.now))

    @precondition(lambda self: self.d.jobs)
    @rule(index=st.integers(0, 50))
    def not_submitted(self, index):
        job = list(self.d.jobs.values())[index % len(self.d.jobs)]
        self.d.take(self.d.session.job_lost(job.id, job.attempt, "llm_unavailable", "gone", self.d.now))

    @precondition(lambda self: self.d.of(fx.CallTool))
    @rule(index=st.integers(0, 9))
    def tool_answers(self, index):
        """One of the functions the shell was asked to call, perhaps for the second time or too late."""
        calls = self.d.of(fx.CallTool)
        call = calls[index % len(calls)]
        self.d.take(self.d.session.tool_result(call.response_id, call.call_id, "done", self.d.now))

    @rule(seconds=st.sampled_from([0.1, 0.7, 3.0, 11.0]), alive=st.booleans())
    def wait(self, seconds, alive):
        self.d.pass_time(seconds, step=0.1, alive=alive)

    @rule()
    def move(self):
        """Its gateway dies; another one restores it."""
        self.d.move()

    @rule(text=st.sampled_from(["", "mm-hmm", "seven plus five"]), goes_on=st.booleans())
    def pause(self, text, goes_on):
        """Somebody speaks, pauses, is understood, an answer may be begun ahead; then goes on or has finished."""
        d = self.d
        if not d.session.turns.speaking:
            d.edge("started", 100)
        d.edge("paused", 300, silence_ms=160)
        if d.session.turns.hearing and d.session.turns.hearing.lease:
            d.hear(text)
        before, draft = len(d.sent), d.session.floor.draft
        if draft and draft.llm.job.id in d.session.context.leases:
            if (draft.llm.job.id, 1) not in d.seq:
                d.chunk(draft.llm.job, ChunkKind.STARTED)
            d.chunk(draft.llm.job, ChunkKind.TEXT, text="Well. So it is.")
            assert not [f for f in d.sent[before:] if f["type"] != "ext.response.timing"], "an answer was seen before its time"
        d.edge("resumed" if goes_on else "stopped", 100, silence_ms=0 if goes_on else 500)

    @invariant()
    def at_most_one_active(self):
        session = self.d.session
        assert session.active is None or session.active.active
        assert all(session._owner(lease) is not None for lease in session.context.leases.values()), "a job nobody waits for"
        draft = session.floor.draft
        assert draft is None or draft.alive and session.active is None and draft.item_id == session.turns.speech_item

    def teardown(self):
        self.d.take(self.d.session.close("disconnected", self.d.now))
        self.d.order.finished()
        assert not self.d.session.context.leases


SessionMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestSession = SessionMachine.TestCase
