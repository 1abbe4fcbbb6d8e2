"""Whose turn it is to speak: what the session does when the user begins, pauses, goes on, has finished, or says nothing for long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voice.core import barge_in
from voice.core.barge_in import Verdict
from voice.core.conversation import Entry
from voice.core.draft import Draft
from voice.core.effects import ClearTimer, RecordTurn, SetTimer, turn_of
from voice.core.hearing import Hearing
from voice.core.response import Response
from voice.core.states import ResponseState
from voice.core.turns import Utterance
from voice.core.waterfall import Waterfall

if TYPE_CHECKING:
    from voice.core.session import Session

MAX_DRAFTS = 4  # answers begun ahead in one utterance
STILL_TO_HEAR_S = 1.0  # an answer with less left is as good as over: what is said into its end is a reply
MAX_IDLE_ROUNDS = 3  # times in a row that a silent user is spoken to


@dataclass
class Overlap:
    """The user speaks while an answer is heard; whether it stops is open until it is known what is being said."""

    item_id: str
    interrupts: bool  # turn_detection.interrupt_response


class Floor:
    def __init__(self, session: Session):
        self.session, self.context = session, session.context
        self.unanswered: Utterance | None = None  # waits for the user to finish or the answer under way to end
        self.draft: Draft | None = None
        self.overlap: Overlap | None = None
        self._drafts = self._idle_rounds = 0

    # The user speaks

    def speech_started(self) -> bool:
        """True while it is open whether an answer is interrupted."""
        self._drafts = self._idle_rounds = 0
        self.context.do(ClearTimer("idle"))
        interrupts = self.context.settings.turn_detection["interrupt_response"]
        if self.context.config.backchannels and self._answering(STILL_TO_HEAR_S):
            self.overlap = Overlap(self.session.turns.speech_item, interrupts)
            return interrupts
        if interrupts:
            self.interrupt()
        return False

    def _answering(self, left_s: float = 0.0) -> bool:
        last = self.session.last
        return self.session.active is not None or last is not None and last.delivery.play_end - self.context.now > left_s

    def interrupt(self) -> None:
        """The answer stops, and of what was sent only what was heard is kept."""
        session, self.overlap = self.session, None
        if session.active:
            session.active.cancel("turn_detected")
            session.after()
        elif session.last and session.last.delivery.play_end > self.context.now and session.last.message:
            entry = session.last.message.entry
            if self.context.conversation.get(entry.item["id"]) is entry:
                self.context.conversation.truncate(entry.item["id"], 0, int(session.last.delivery.heard_ms))
                self.context.save(entry)
            session.last = None

    def speaking_on(self) -> None:
        turns = self.session.turns
        if self._interrupting(turns.speech_item) and turns.buffer.total_ms - turns.burst_from_ms > barge_in.LONGEST_MS:
            self.interrupt()

    def _interrupting(self, item_id: str | None) -> bool:
        return self.overlap is not None and self.overlap.item_id == item_id and self.overlap.interrupts

    def heard_so_far(self, hearing: Hearing) -> None:
        turns = self.session.turns
        if self.overlap is not None:
            speech_ms = hearing.fed_ms - turns.burst_from_ms
            verdict = barge_in.judge(hearing.text, hearing.confidence, speech_ms, hearing.complete)
            if verdict is Verdict.MEANT and self._interrupting(hearing.item_id):
                self.interrupt()
        if hearing.complete:
            self._draft(hearing)

    def resumed(self) -> None:
        self.drop_draft()

    # An answer ahead of the end of the turn

    def _draft(self, hearing: Hearing) -> None:
        session, context = self.session, self.context
        settings = context.settings
        wanted = context.config.preemptive and settings.type == "realtime" and settings.turn_detection["create_response"] and hearing.text
        if not wanted or self.overlap or self.unanswered or session.active or session.turns.pending:
            return
        if self.draft and self.draft.alive and self.draft.text == hearing.text:
            return
        self.drop_draft()
        if self._drafts >= MAX_DRAFTS or not context.requests.remaining(context.now):
            return
        self._drafts += 1
        heard = Entry({"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": hearing.text}]})
        self.draft = Draft(context, session.answers.own_params(), [*context.conversation.entries(), heard], hearing.item_id, hearing.text,
                           hearing.paused_at)  # fmt: skip

    def drop_draft(self) -> None:
        if self.draft:
            self.draft.drop()
            self.draft = None

    # The user has finished

    def heard(self, utterance: Utterance, text: str) -> None:
        session, item_id = self.session, utterance.entry.item["id"]
        for response in session.responses():
            response.transcript_ready(item_id)
        if self.context.settings.type == "transcription":
            self.bill_input(item_id)
        elif self._was_backchannel(utterance, text):
            utterance.entry.aside = True
            if text and self.context.settings.extensions:
                self.context.send("ext.input.backchannel", item_id=item_id, transcript=text)
        elif utterance.answer and text:
            self.unanswered = utterance

    def _was_backchannel(self, utterance: Utterance, text: str) -> bool:
        item_id = utterance.entry.item["id"]
        if self.overlap is None or self.overlap.item_id != item_id:
            return False
        if barge_in.is_backchannel(text, utterance.confidence, utterance.speech_ms):
            self.overlap = None
            return True
        if self.overlap.interrupts:
            self.interrupt()
        self.overlap = None
        return False

    def not_heard(self, utterance: Utterance, code: str, message: str) -> None:
        session, item_id = self.session, utterance.entry.item["id"]
        if self._interrupting(item_id):
            self.interrupt()
        for response in session.responses():
            if item_id in response.waiting:
                response.not_heard(code, message)
        if utterance.answer and not session.active and self.context.settings.type == "realtime":
            response = Response(self.context, session.answers.own_params(), utterance.clock, item_id)
            session.begin(response, None)
            response.not_heard(code, message)

    def settle(self) -> None:
        """Start the answer that waited, once nobody speaks; put away a draft nobody will want."""
        session = self.session
        if self.unanswered and not session.active and not session.turns.speaking and not session.turns.pending:
            utterance, self.unanswered = self.unanswered, None
            self._answer(utterance)
        if self.draft and (not self.draft.alive or self.draft.item_id != session.turns.speech_item or session.active):
            self.drop_draft()

    def _answer(self, utterance: Utterance) -> None:
        params, draft, self.draft = self.session.answers.own_params(), self.draft, None
        response = Response(self.context, params, utterance.clock, utterance.entry.item["id"])
        if draft and not draft.fits(params, self.context.conversation.entries()):
            draft.drop()
            draft = None
        self.session.begin(response, set(), draft)

    def bill_input(self, item_id: str) -> None:
        """Audio that was transcribed and not answered, and work that came to nothing."""
        context = self.context
        meters = {"audio_in_ms": context.unbilled_audio_ms, "audio_out_ms": 0, "tokens_in": 0, "tokens_out": 0}
        context.unbilled_audio_ms = 0
        context.do(RecordTurn(turn_of(item_id or context.config.session_id), "", "completed", "transcription", item_id or None, (), meters, context.take_wasted()))

    # The user says nothing

    def answered(self, response: Response) -> None:
        """An answer ended: a user who stays silent for idle_timeout_ms after hearing it is spoken to (protocol flow 18)."""
        idle_ms = (self.context.settings.turn_detection or {}).get("idle_timeout_ms")
        if idle_ms and response.state in (ResponseState.COMPLETED, ResponseState.INCOMPLETE) and self._idle_rounds < MAX_IDLE_ROUNDS:
            self.context.do(SetTimer("idle", max(self.context.now, response.delivery.play_end) + idle_ms / 1000))

    def revive(self) -> None:
        """In another process: what was held there is gone; a silent user is waited for anew."""
        if self.session.last and not self.session.active:
            self.answered(self.session.last)

    def idle(self) -> None:
        session, turns = self.session, self.session.turns
        idle_ms = (self.context.settings.turn_detection or {}).get("idle_timeout_ms")
        if not idle_ms or session.active or self.unanswered or turns.speaking or turns.pending:
            return
        self._idle_rounds += 1
        item_id = turns.commit_silence(idle_ms)
        session.begin(Response(self.context, session.answers.own_params(), Waterfall(self.context.now), item_id), set())
