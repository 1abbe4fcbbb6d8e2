"""Items of the conversation that the client makes, asks for, cuts and deletes."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from voice.core import events, g711
from voice.core.conversation import Entry, shown
from voice.core.errors import ProtocolError
from voice.core.input_audio import BYTES_PER_MS
from voice.core.waterfall import Waterfall

if TYPE_CHECKING:
    from voice.core.session import Session


class Items:
    def __init__(self, session: Session):
        self.session, self.context = session, session.context

    def create(self, event: dict[str, Any]) -> None:
        context = self.context
        context.conversation.check_room()
        item = context.conversation.build(event["item"], context.ids("item"))
        audio, rate_hz = _decode_audio(event["item"], context.settings.input_format, context.config.max_buffer_ms)
        entry = Entry(item)
        previous = context.conversation.add(entry, event.get("previous_item_id"))
        context.send("conversation.item.added", item=shown(item), previous_item_id=previous)
        context.send("conversation.item.done", item=shown(item), previous_item_id=previous)
        if audio:
            self.session.turns.transcribe(entry, audio, Waterfall(context.now), answer=False, rate_hz=rate_hz)
        else:
            context.save(entry)

    def retrieve(self, event: dict[str, Any]) -> None:
        entry = self.context.conversation.find(event["item_id"], "retrieve")
        self.context.send("conversation.item.retrieved", item=self.context.kept_audio.shown(shown(entry.item)))

    def truncate(self, event: dict[str, Any]) -> None:
        item_id = event["item_id"]
        entry = self.context.conversation.find(item_id, "truncate")
        if event["audio_end_ms"] < 0:
            raise ProtocolError("invalid_value", f"audio_end_ms={event['audio_end_ms']}: expected 0 or more.", param="audio_end_ms")
        self.session.floor.overlap = None  # the client has decided: what is being said is no backchannel
        session = self.session
        if session.active and session.active.message and session.active.message.entry is entry:
            session.active.cancel("turn_detected")
            session.after()
        kept = self.context.conversation.truncate(item_id, event["content_index"], event["audio_end_ms"])
        self.context.kept_audio.cut(item_id, kept * BYTES_PER_MS)
        self.context.send("conversation.item.truncated", item_id=item_id, content_index=event["content_index"], audio_end_ms=kept)
        self.context.save(entry)

    def delete(self, event: dict[str, Any]) -> None:
        item_id = event["item_id"]
        entry = self.context.conversation.find(item_id, "delete")
        self.context.conversation.delete(item_id)
        self.context.kept_audio.drop(item_id)
        self.context.send("conversation.item.deleted", item_id=item_id)
        self.context.save(entry, deleted=True)


def _decode_audio(item: dict[str, Any], format: str, max_ms: int) -> tuple[bytes, int]:
    """(PCM16, Hz) of the audio inside a client's user message, which is in the session's input format. Raises ProtocolError."""
    parts = item.get("content") if isinstance(item.get("content"), list) else []
    audio, rate_hz = b"", 24000 if format == "audio/pcm" else g711.RATE_HZ
    for i, part in enumerate(parts):
        if part.get("type") == "input_audio" and part.get("audio") is not None:
            where = f"item.content[{i}].audio"
            try:
                raw = base64.b64decode(events.expect(part["audio"], str, where), validate=True)
            except (binascii.Error, ValueError):
                raise ProtocolError("invalid_value", f"'{where}' is not base64.", param=where) from None
            if format == "audio/pcm" and len(raw) % 2:
                raise ProtocolError("invalid_value", f"'{where}': PCM16 needs an even number of bytes.", param=where)
            audio += raw if format == "audio/pcm" else g711.decode(raw, format)
            if len(audio) > max_ms * rate_hz // 500:
                raise ProtocolError("invalid_value", f"'{where}' is longer than {max_ms} ms.", param=where)
    return audio, rate_hz
