"""The sound of one response: its sentences to the speech engine, what comes back to the client, never far ahead of its playing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from voice.core.conversation import Sentence
from voice.core.effects import SendAudio, SetTimer
from voice.core.input_audio import BYTES_PER_MS
from voice.core.jobs import Chunk, Feed
from voice.core.leases import Lease
from voice.core.params import TTS_JOB_MS, open_tts

if TYPE_CHECKING:
    from voice.core.context import Context
    from voice.core.draft import Draft
    from voice.core.message import Message
    from voice.core.notices import Notice
    from voice.core.response import Response

PACE_AHEAD_S = 2.0  # audio is sent at most this far ahead of its playing
FEED_AHEAD = 2  # sentences given to the speech engine beyond the one being sent
PIECE = 100 * BYTES_PER_MS  # of prepared sound in one event


class Delivery:
    response: Response = None  # set by it and not part of a snapshot

    def __init__(self) -> None:
        self.tts: Lease | None = None
        self.fed_ahead = 0  # sentences that were given to the speech engine before the response began
        self.play_end = 0.0
        self.sent_bytes = 0
        self.notice_bytes = 0  # of sent_bytes: not billed
        self.mute = False  # speech synthesis is not available: text only

    @property
    def context(self) -> Context:
        return self.response.context

    @property
    def message(self) -> Message | None:
        return self.response.message

    @property
    def heard_ms(self) -> float:
        """Audio the listener has heard by now, if it plays what it gets at once."""
        return self.sent_bytes / BYTES_PER_MS - max(0.0, self.play_end - self.context.now) * 1000

    @property
    def owed(self) -> bool:
        """Sound of sentences that were written is still to come or to be sent."""
        message = self.message
        return bool(message and message.entry.spoken and (message.queue or not self._all_said()))

    def _all_said(self) -> bool:
        return all(s.final for s in self.message.entry.spoken.sentences)

    # Beginning

    def open(self) -> None:
        self.tts = open_tts(self.context, self.response.params, self.response.id)

    def adopt(self, draft: Draft) -> None:
        """Go on with what was given to the speech engine ahead."""
        self.tts, self.fed_ahead = draft.tts, draft.sentences
        if self.tts:
            self.tts.owner = self.response.id

    def revive(self) -> None:
        """In another process: from the first sentence not wholly sent."""
        message = self.message
        if message and message.entry.spoken and not message.closed:
            self._unsay()
        if self.tts is not None and not self.mute and not (message and self._all_said() and message.text_done):
            self.tts = self.context.open_again(self.tts, TTS_JOB_MS)
        self.pump()

    def _unsay(self) -> None:
        """Sound that was received and not sent is gone with its process."""
        message = self.message
        sentences = message.entry.spoken.sentences
        for index, sentence in enumerate(sentences):
            sent = message.sent.get(index, 0)
            if self.mute or self.tts is None or not sentence.text.strip() or sentence.final and message.received.get(index, 0) == sent:
                continue
            message.received[index] = message.skip[index] = sent
            sentence.final, sentence.audio_ms = False, sent / BYTES_PER_MS
            sentence.marks = [(char, at) for char, at in sentence.marks if at <= sentence.audio_ms]
        message.fed = message.sending = next((i for i, s in enumerate(sentences) if not s.final), len(sentences))
        message.last_fed = False

    # Sentences

    def add(self, texts: list[str]) -> None:
        message = self.message
        for text in texts:
            message.entry.spoken.sentences.append(Sentence(message.cut, text, final=self.mute or not text.strip()))
            message.cut += len(text)
        self._feed_ahead()

    def add_prepared(self, text: str, notice: Notice) -> None:
        """A sentence whose sound is there already: the speech engine is not asked for it, and nobody billed."""
        message = self.message
        spoken = message.entry.spoken
        index = len(spoken.sentences)
        spoken.sentences.append(Sentence(message.cut, text, spoken.audio_ms, len(notice.pcm) / BYTES_PER_MS, final=True))
        message.queue.extend((index, notice.pcm[at : at + PIECE]) for at in range(0, len(notice.pcm), PIECE))
        self.notice_bytes = len(notice.pcm)

    def _feed_ahead(self) -> None:
        """Keep the speech engine FEED_AHEAD sentences ahead of what is being sent; tell it when no more will come."""
        message = self.message
        if self.tts is None or message.last_fed or self.mute:
            return
        sentences = message.entry.spoken.sentences
        while message.fed < len(sentences) and message.fed <= message.sending + FEED_AHEAD:
            index, sentence = message.fed, sentences[message.fed]
            message.fed += 1
            if not sentence.final:
                self._expect_audio()
                self.response.clock.mark("sentence", self.context.now)
                if index >= self.fed_ahead:
                    self.context.feed(self.tts, Feed(index, sentence.text))
        if message.text_done and message.fed == len(sentences):
            message.last_fed = True
            self.context.feed(self.tts, Feed(message.fed, last=True))

    def _expect_audio(self) -> None:
        self.tts.deadline = self.context.now + self.context.config.tts_deadline_ms / 1000

    # Sound

    def take(self, chunk: Chunk) -> None:
        """Sound of a sentence."""
        message, clock = self.message, self.response.clock
        if message is None or chunk.index >= message.fed:  # audio of a sentence that was not asked for
            return self.fall_silent()
        sentence = message.entry.spoken.sentences[chunk.index]
        if sentence.final:
            return
        self._expect_audio()
        if self.tts.started_at:
            clock.mark("tts_queue", self.tts.started_at)
        pcm, marks = self._not_yet_received(message, chunk)
        if not sentence.audio_ms:
            sentence.start_ms = message.entry.spoken.audio_ms
        sentence.marks += [(char, at) for char, at in marks]
        sentence.audio_ms += len(pcm) / BYTES_PER_MS
        message.received[chunk.index] = message.received.get(chunk.index, 0) + len(pcm)
        if pcm:
            clock.mark("tts", self.context.now)
            message.queue.append((chunk.index, pcm))
        if chunk.final:
            sentence.final = True
            if all(s.final for s in message.entry.spoken.sentences[: message.fed]):
                self.tts.deadline = self.context.now + TTS_JOB_MS / 1000  # nothing is owed
        self.pump()

    def _not_yet_received(self, message: Message, chunk: Chunk) -> tuple[bytes, tuple]:
        """After a second attempt the first bytes of the broken sentence come again: drop those."""
        left = message.skip.get(chunk.index, 0)
        if not left:
            return chunk.pcm, chunk.marks
        dropped = min(left, len(chunk.pcm))
        message.skip[chunk.index] = left - dropped
        heard_ms = message.received.get(chunk.index, 0) / BYTES_PER_MS
        return chunk.pcm[dropped:], tuple(m for m in chunk.marks if m[1] >= heard_ms)

    def pump(self, at_once: bool = False) -> None:
        """Send audio that is due: never more than PACE_AHEAD_S before it would play, but for `at_once`."""
        response, message, context = self.response, self.message, self.context
        if not response.active or message is None or context.paused:
            return
        while message.queue:
            if self.play_end - context.now > PACE_AHEAD_S and not at_once:
                context.do(SetTimer(f"pace:{response.id}", self.play_end - PACE_AHEAD_S + 0.02))
                break
            index, pcm = message.queue.popleft()
            message.sending = index
            message.sent[index] = message.sent.get(index, 0) + len(pcm)
            self.play_end = max(self.play_end, context.now) + len(pcm) / BYTES_PER_MS / 1000
            self.sent_bytes += len(pcm)
            response.clock.mark("send", context.now)
            context.do(SendAudio(response.part_fields("response.output_audio.delta"), pcm, response.params.format))
            context.kept_audio.add(message.entry.item["id"], pcm)
        self._feed_ahead()
        response.finish_if_done()

    # The engine is gone

    def job_done(self) -> None:
        if self.message and not self._all_said():
            self.fall_silent()  # it ended before the last sentence

    def fall_silent(self) -> None:
        """Speech synthesis is gone: the words go on without sound, and the response completes."""
        self.context.end_lease(self.tts, "superseded")
        self.mute = True
        if self.message:
            for sentence in self.message.entry.spoken.sentences:
                sentence.final = True
        self.response.finish_if_done()

    def reopen(self, reopen: Callable[..., bool]) -> bool:
        """Sentences whose audio is complete are not said again; of the broken one only what is missing is kept."""
        message = self.message
        if message is None:
            return reopen(self.tts, ())
        sentences = message.entry.spoken.sentences
        first = next((i for i, s in enumerate(sentences[: message.fed]) if not s.final), message.fed)
        if first < message.fed:
            message.skip[first] = message.received.get(first, 0)
        feeds = tuple(Feed(i, sentences[i].text) for i in range(first, message.fed) if not sentences[i].final)
        if message.last_fed:
            feeds += (Feed(message.fed, last=True),)
        return reopen(self.tts, feeds)
