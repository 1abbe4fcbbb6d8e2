"""Audio of the newest items, kept as long as it is small: `conversation.item.retrieve` shows it (protocol rule 19)."""

from __future__ import annotations

import base64
from typing import Any

MAX_ITEM = 192 * 1024  # bytes: 4 s at 24 kHz; as base64 well under 512 KiB
MAX_TOTAL = 384 * 1024


class KeptAudio:
    def __init__(self) -> None:
        self._audio: dict[str, bytearray | None] = {}  # None: grew too large
        self._total = 0

    def add(self, item_id: str, pcm: bytes) -> None:
        """PCM16 24 kHz that belongs to the end of an item; the oldest items go when there is too much."""
        held = self._audio.setdefault(item_id, bytearray())
        if held is None:
            return
        if len(held) + len(pcm) > MAX_ITEM:
            self._total -= len(held)
            self._audio[item_id] = None
            return
        held += pcm
        self._total += len(pcm)
        while self._total > MAX_TOTAL or len(self._audio) > 200:
            self.drop(next(iter(self._audio)))

    def cut(self, item_id: str, size: int) -> None:
        if held := self._audio.get(item_id):
            self._total -= max(0, len(held) - size)
            del held[size:]

    def drop(self, item_id: str) -> None:
        self._total -= len(self._audio.pop(item_id, None) or b"")

    def shown(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with `audio` in its audio part, where it is held."""
        if not (held := self._audio.get(item["id"])):
            return item
        content = [{**p, "audio": base64.b64encode(held).decode()} if p["type"].endswith("_audio") else p for p in item["content"]]
        return {**item, "content": content}
