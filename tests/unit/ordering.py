"""Is the order of server events legal? Parents before children, deltas sum to their done, nothing after a response's end."""

from __future__ import annotations

import base64
from collections import defaultdict
from typing import Any


class OrderChecker:
    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.responses: dict[str, str] = {}
        self.items: set[str] = set()
        self.open_items: dict[str, str] = {}
        self.text: dict[tuple, str] = defaultdict(str)
        self.audio: dict[str, bytes] = defaultdict(bytes)
        self.events: list[dict[str, Any]] = []
        self.transcribed: set[str] = set()
        self.pcm = True

    def see(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert event["event_id"] not in self.ids, f"event id twice: {event}"
        self.ids.add(event["event_id"])
        if not self.events:
            assert kind == "session.created"
        self.events.append(event)
        if kind == "response.created":
            assert event["response"]["id"] not in self.responses
            self.responses[event["response"]["id"]] = "open"
            self.pcm = event["response"].get("audio", {}).get("output", {}).get("format", {}).get("type", "audio/pcm") == "audio/pcm"
        elif kind == "response.done":
            response = event["response"]
            assert self.responses[response["id"]] == "open", "two response.done"
            assert not [i for i, r in self.open_items.items() if r == response["id"]], "items still open"
            self.responses[response["id"]] = "done"
        elif kind.startswith("response."):
            assert self.responses[event["response_id"]] == "open", f"after its end: {event}"
            self._part(kind, event)
        elif kind == "conversation.item.added":
            assert event["previous_item_id"] is None or event["previous_item_id"] in self.items
            self.items.add(event["item"]["id"])
        elif kind.startswith("conversation.item.input_audio_transcription.") and kind.rsplit(".", 1)[1] in ("completed", "failed"):
            assert event["item_id"] not in self.transcribed
            self.transcribed.add(event["item_id"])

    def _part(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "response.output_item.added":
            self.open_items[event["item"]["id"]] = event["response_id"]
        elif kind == "response.output_item.done":
            self.open_items.pop(event["item"]["id"])
        else:
            assert event["item_id"] in self.open_items, f"item not open: {event}"
            family, _, what = kind.rpartition(".")
            key = (event["item_id"], family)
            if kind == "response.output_audio.delta":
                pcm = base64.b64decode(event["delta"])
                assert len(pcm) % 2 == 0 or not self.pcm
                self.audio[event["item_id"]] += pcm
            elif what == "delta":
                self.text[key] += event["delta"]
            elif what == "done" and family != "response.output_audio" and family != "response.content_part":
                final = event.get("transcript", event.get("text", event.get("arguments")))
                assert final == self.text[key], f"deltas {self.text[key]!r} are not the whole {final!r}"

    def finished(self) -> None:
        assert all(state == "done" for state in self.responses.values()), "a response without its done"
