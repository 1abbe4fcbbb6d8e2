"""A session as JSON and back, so that another process can go on with it. Times are the session's own `now`, which the shell keeps in unix seconds.

Three parts, because they change at different rates: `head` (settings, responses and utterances under way, meters), one `entry` an item of the
conversation, and the parameters of the language model's jobs by job id. Audio is in none of them: what is not yet sent is made again, what is not yet transcribed
is read again by the shell from the jobs' own streams (`Session.revive`), what is not yet committed from its tape (`Turns.goes_on_at`).

Any object of the classes below is written attribute by attribute, so a new attribute needs nothing here; a new class must be named in `CLASSES`.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

from voice.core.chunker import Chunker
from voice.core.conversation import Entry, Sentence, Spoken
from voice.core.delivery import Delivery
from voice.core.hearing import StableText
from voice.core.input_audio import BYTES_PER_MS
from voice.core.jobs import Feed, Job, Stage
from voice.core.leases import Lease
from voice.core.message import Message
from voice.core.notices import Notice, Notices, no_notices
from voice.core.params import ResponseParams
from voice.core.response import Response
from voice.core.server_tools import ServerTools
from voice.core.settings import SessionConfig
from voice.core.states import LeaseState, ResponseState
from voice.core.turns import Utterance
from voice.core.usage import Allowance, Spent
from voice.core.waterfall import Waterfall

if TYPE_CHECKING:
    from voice.core.session import Session

CLASSES = {
    c.__name__: c
    for c in (Allowance, Chunker, Delivery, Feed, Job, Lease, LeaseState, Message, Notice, Response, ResponseParams, ResponseState, Sentence, ServerTools, SessionConfig, Spent,
              Spoken, StableText, Stage, Utterance, Waterfall)
}  # fmt: skip
# plain JSON that is copied as it is
RAW = {"item", "values", "tools", "tool_choice", "metadata", "details", "truncation", "turn_detection", "prompts", "pipelines", "server_tools", "fallbacks"}
LEFT_OUT = {"context", "listeners", "response"}
# sound that is made again, and what was fed for it
FRESH: dict[tuple[str, str], Callable[[], Any]] = {("Message", "queue"): deque, ("Lease", "feeds"): list, ("Notice", "pcm"): bytes,
         ("Utterance", "audio"): bytes}  # fmt: skip


def _names(value: Any) -> list[str]:
    slots = getattr(type(value), "__slots__", None)
    return list(slots) if slots else list(vars(value))


class Writer:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}  # those that were referred to

    def put(self, value: Any, name: str = "") -> Any:
        """JSON for `value`. Raises TypeError for a class that is not in CLASSES."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if name in RAW:
            return {"$raw": list(value) if isinstance(value, tuple) else value}
        if isinstance(value, Entry):
            self.entries[value.item["id"]] = value
            return {"$entry": value.item["id"]}
        if isinstance(value, bytes | bytearray):
            return {"$bytes": base64.b64encode(value).decode()}
        if type(value) in (list, tuple, set, frozenset, deque):
            items = sorted(value) if type(value) in (set, frozenset) else value
            made = [self.put(v) for v in items]
            return made if type(value) is list else {f"${type(value).__name__}": made}
        if type(value) is dict:
            return {"$dict": [[self.put(k), self.put(v)] for k, v in value.items()]}
        kind = type(value).__name__
        if CLASSES.get(kind) is not type(value):
            raise TypeError(f"{name or kind}: a {kind} cannot be written to a snapshot; name its class in voice/core/snapshot.py")
        if isinstance(value, Enum):
            return {f"${kind}": str(value.value)}
        if isinstance(value, Job) and value.stage is Stage.LLM:
            return {"$Job": {**{n: self.put(getattr(value, n), n) for n in _names(value) if n != "params"}, "params": {"$params": value.id}}}
        return {f"${kind}": {n: self.put(getattr(value, n), n) for n in _names(value) if n not in LEFT_OUT and (kind, n) not in FRESH}}


_SEQUENCES = {"$tuple": tuple, "$set": set, "$frozenset": frozenset, "$deque": deque}


class Reader:
    def __init__(self, entries: dict[str, Any], params: Mapping[str, Any], context: Any):
        self._raw, self._params, self._context = entries, params, context
        self._entries: dict[str, Entry] = {}

    def entry(self, item_id: str) -> Entry:
        """The one object of this item."""
        if item_id not in self._entries:
            raw = self._raw[item_id]
            self._entries[item_id] = Entry(raw["item"], self.get(raw["spoken"]), raw["audio_ms"], raw["pending"], raw["aside"], raw["hint"])
        return self._entries[item_id]

    def get(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.get(v) for v in value]
        if not isinstance(value, dict):
            return value
        (tag, inner), = value.items()
        if tag == "$raw":
            return inner
        if tag == "$entry":
            return self.entry(inner)
        if tag == "$bytes":
            return base64.b64decode(inner)
        if tag == "$dict":
            return {self.get(k): self.get(v) for k, v in inner}
        if tag == "$params":
            return dict(self._params.get(inner, {}))
        if tag in _SEQUENCES:
            return _SEQUENCES[tag](self.get(v) for v in inner)
        return self._object(CLASSES[tag[1:]], inner)

    def _object(self, cls: type, inner: Any) -> Any:
        if issubclass(cls, Enum):
            return cls(inner)
        made = cls.__new__(cls)
        for name, value in inner.items():
            object.__setattr__(made, name, self.get(value))
        for (kind, name), new in FRESH.items():
            if kind == cls.__name__:
                object.__setattr__(made, name, new())
        if cls is Response:
            made.context = self._context
            made.hold_parts()
        return made


def entry_dict(entry: Entry) -> dict[str, Any]:
    writer = Writer()
    return {"item": entry.item, "spoken": writer.put(entry.spoken), "audio_ms": entry.audio_ms, "pending": entry.pending, "aside": entry.aside,
            "hint": entry.hint}  # fmt: skip


def head_dict(session: Session) -> dict[str, Any]:
    """What changes from frame to frame; the items under way are in it, the others are not."""
    writer, context, turns = Writer(), session.context, session.turns
    last = session.last if session.last and session.last.delivery.play_end > context.now else None
    put = writer.put
    head = {
        "at": context.now, "type": context.settings.type, "extensions": context.settings.extensions, "values": context.settings.values,
        "expires_at": context.config.expires_at, "conversation_id": context.conversation_id, "order": context.conversation.order(),
        "requests": put(context.requests), "tokens": put(context.tokens), "unbilled_audio_ms": context.unbilled_audio_ms, "wasted": put(context.wasted),
        "open_jobs": [put(lease.job) for lease in context.leases.values()],
        "active": put(session.active), "aside": put(session.aside), "last": put(last), "unanswered": put(session.floor.unanswered),
        "updated": session._updated, "speech_item": turns.speech_item, "pending": put(turns.pending), "audio_ms": turns.buffer.total_ms,
        "audio_from": turns.buffer.start, "speech_from_ms": turns.speech_from_ms, "burst_from_ms": turns.burst_from_ms,
    }  # fmt: skip
    head["entries"] = {i: entry_dict(e) for i, e in writer.entries.items()}
    return head


def progress_dict(session: Session) -> dict[str, Any] | None:
    """How far the sound of the answer went since the last head; small, because it is written ten times a second."""
    response = session.active
    if response is None or response.message is None:
        return None
    message, delivery = response.message, response.delivery
    return {"id": response.id, "sending": message.sending, "sent": list(message.sent.items()), "sent_bytes": delivery.sent_bytes, "play_end": delivery.play_end}


def _advance(session: Session, progress: dict[str, Any] | None) -> None:
    response = session.active
    if progress and response and response.message and response.id == progress["id"]:
        response.message.sending, response.message.sent = progress["sending"], dict(progress["sent"])
        response.delivery.sent_bytes, response.delivery.play_end = progress["sent_bytes"], progress["play_end"]


def config_dict(config: SessionConfig) -> Any:
    return Writer().put(config)


def restore(config: Any, head: dict[str, Any], items: Mapping[str, Any], params: Mapping[str, Any], ids: Callable[[str], str],
            notices: Notices = no_notices, progress: dict[str, Any] | None = None) -> Session:  # fmt: skip
    """The session as it was. Nothing runs yet: `revive` opens its work again. Raises KeyError, TypeError, ValueError on a snapshot that is not whole."""
    from dataclasses import replace

    from voice.core.session import Session

    settled = replace(Reader({}, {}, None).get(config), expires_at=head["expires_at"])
    session = Session(settled, ids, notices)
    context, turns = session.context, session.turns
    reader = Reader({**items, **head["entries"]}, params, context)
    get = reader.get
    context.now = head["at"]
    context.settings.type, context.settings.extensions, context.settings.values = head["type"], head["extensions"], head["values"]
    context.conversation_id, context.unbilled_audio_ms = head["conversation_id"], head["unbilled_audio_ms"]
    context.wasted = get(head["wasted"])
    context.requests, context.tokens = get(head["requests"]), get(head["tokens"])
    for item_id in head["order"]:
        context.conversation.add(reader.entry(item_id))
    session.active, session.aside, session.last = get(head["active"]), get(head["aside"]), get(head["last"])
    session.floor.unanswered, session._updated = get(head["unanswered"]), head["updated"]
    session.left_open = [get(job) for job in head["open_jobs"]]
    turns.speech_item, turns.pending = head["speech_item"], get(head["pending"])
    turns.speech_from_ms, turns.burst_from_ms = head["speech_from_ms"], head["burst_from_ms"]
    turns.held_from = head["audio_from"]
    turns.buffer.begin_at(head["audio_ms"] * BYTES_PER_MS)
    _advance(session, progress)
    return session
