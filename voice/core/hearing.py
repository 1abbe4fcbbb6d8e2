"""Speech recognition of an utterance while it is being spoken, so that its end costs only its tail.

It only saves time: whatever happens to it, a commit recognises the whole utterance. What it hears at a short silence counts as the
final transcript if the utterance turns out to end there.
"""

from __future__ import annotations

from typing import Any

from voice.core.context import Context
from voice.core.input_audio import BYTES_PER_MS, InputAudio
from voice.core.jobs import Chunk, Feed, Stage
from voice.core.leases import Lease

FEED_MS = 600  # audio is handed to recognition this often while somebody speaks
RESUMED_PADDING_MS = 150  # of the silence inside an utterance that is heard before its next word; the rest of it is left out
EAGER_FEED_MS = 230  # while it is open whether an answer is interrupted


class Hearing:
    """`from_ms`: where the utterance begins in the buffer. `pause_feed`: the feed that holds all speech up to the pause under way."""

    def __init__(self, context: Context, buffer: InputAudio, item_id: str, from_ms: int, interim_ms: int, every_ms: int):
        self.context, self.buffer, self.item_id, self.from_ms = context, buffer, item_id, from_ms
        self.fed_ms = from_ms
        self.next_feed = 0
        self.pause_feed: int | None = None
        self.every_ms = every_ms
        self.text, self.confidence, self.heard_feed, self.decoded_ms = "", 1.0, -1, 0
        self.logprobs: list[list[Any]] = []  # [token, value], where they are wanted
        self.ended: float | None = None  # the chance that the user has finished, where the worker told one
        self.heard_at = self.paused_at = 0.0
        self.lease: Lease | None = None
        self._open(interim_ms)

    def _open(self, interim_ms: int) -> None:
        config = self.context.config
        params = {**self.context.settings.stt_hints(), "rate_hz": 24000, "interim_ms": interim_ms,
                  "turn_end": self.context.settings.turn_detection["type"] == "semantic_vad"}  # fmt: skip
        deadline_ms = config.max_buffer_ms + config.stt_deadline_ms
        self.lease = self.context.open_job(Stage.STT, self.item_id, deadline_ms, params, self._feeds(), ahead=True)

    def _feeds(self) -> tuple[Feed, ...]:
        return (self._next(self.buffer.total_ms),) if self.buffer.total_ms > self.fed_ms else ()

    @property
    def fed_bytes(self) -> int:
        """How much of the utterance's audio was handed over."""
        return (self.fed_ms - self.from_ms) * BYTES_PER_MS

    @property
    def complete(self) -> bool:
        """Everything said up to the pause under way was heard."""
        return self.pause_feed is not None and self.heard_feed >= self.pause_feed

    def feed(self) -> None:
        """What came in since the last feed."""
        if self.lease is not None and self.pause_feed is None:
            self._send(self._next(self.buffer.total_ms))

    def pause(self, to_ms: int) -> None:
        self.pause_feed, self.paused_at = self.next_feed, self.context.now
        if self.lease is not None:
            self._send(self._next(to_ms, flush=True))

    def resume(self, at_ms: int) -> None:
        """Speech goes on: most of the silence is left out, which models that heard whole sentences only are the better for."""
        self.pause_feed = None
        self.fed_ms = max(self.fed_ms, at_ms - RESUMED_PADDING_MS)

    def _next(self, to_ms: int, flush: bool = False, last: bool = False) -> Feed:
        feed = Feed(self.next_feed, pcm=self.buffer.peek(self.fed_ms, to_ms), flush=flush, last=last)
        self.fed_ms, self.next_feed = max(self.fed_ms, to_ms), self.next_feed + 1
        return feed

    def _send(self, feed: Feed) -> None:
        self.context.feed(self.lease, feed, keep=False)

    def take(self, chunk: Chunk) -> bool:
        """A transcript of what was fed so far. True when it is news."""
        if chunk.index <= self.heard_feed and chunk.text.strip() == self.text:
            return False
        self.text, self.confidence = chunk.text.strip(), float(chunk.meta.get("confidence", 1.0))
        self.ended, self.logprobs = chunk.meta.get("ended"), chunk.meta.get("logprobs", [])
        self.heard_feed, self.heard_at = chunk.index, self.context.now
        self.decoded_ms = int(chunk.meta.get("decoded_ms", 0))
        return True

    def lost(self, retry: bool) -> None:
        """The worker is gone: from the beginning with another one, or not before the commit."""
        if retry:
            feed = Feed(self.next_feed - 1, pcm=self.buffer.peek(self.from_ms, self.fed_ms), flush=self.pause_feed is not None)
            if self.context.reopen(self.lease, (feed,), keep=False):
                return
        self.drop("superseded")

    def finish(self) -> None:
        """Nothing more is needed: the worker may go."""
        if self.lease is not None:
            self._send(Feed(self.next_feed, last=True))
            self.context.end_lease(self.lease)
            self.lease = None

    def hand_over(self, rest: bytes) -> Lease:
        """The utterance is over and not heard to its end yet: the job that will, fed with the `rest`."""
        self._send(Feed(self.next_feed, pcm=rest, last=True))
        return self.lease

    def drop(self, reason: str = "superseded") -> None:
        self.context.end_lease(self.lease, reason)
        self.lease = None


class StableText:
    """What of a growing transcript may be shown before it is final: the words two hearings in a row agree on, never taken back."""

    def __init__(self) -> None:
        self.shown = ""
        self._last: list[str] = []

    def grow(self, text: str) -> str:
        """The new hearing; what may be shown more (or "")."""
        words = text.split()
        agreed = 0
        while agreed < min(len(words), len(self._last)) and words[agreed] == self._last[agreed]:
            agreed += 1
        self._last = words
        return self._show(" ".join(words[:agreed]))

    def finish(self, text: str) -> str:
        """The final text: the rest, where it goes on from what was shown."""
        return self._show(text)

    def _show(self, text: str) -> str:
        if len(text) <= len(self.shown) or not text.startswith(self.shown) or self.shown and text[len(self.shown)] != " ":
            return ""
        more, self.shown = text[len(self.shown) :], text
        return more
