"""Clients of the billing chaos: each holds one session after the other and remembers what it heard."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable

from websockets.exceptions import WebSocketException

TURN_S = 30
LINE = (OSError, TimeoutError, WebSocketException)


class Client:
    """`urls`: gateways; `enough()`: to stop. One place at which one session after the other is held; a line that breaks is taken up again at any gateway, as protocol.md says.

    What it heard: response -> audio bytes, usage of its `response.done` (None: it never learned of its end)."""

    def __init__(self, urls: list[str], secret: str, enough: Callable[[], bool], count: Counter[str]):
        self.urls, self.secret, self.enough, self.count = urls, secret, enough, count
        self.heard: dict[str, dict] = {}
        self.session = self.last = ""
        self.open = ""  # the response under way
        self.seen: set[str] = set()  # events of this session

    async def talk(self) -> None:
        while not self.enough():
            self.session = self.last = self.open = ""
            self.seen.clear()
            turns = random.randint(4, 20)
            while turns > 0:
                try:
                    turns = await self.connected(turns)
                except LINE as error:
                    self.count[f"lines broken or refused: {type(error).__name__}"] += 1
                    if getattr(getattr(error, "response", None), "status_code", 0) in (404, 410):
                        self.count["sessions that could not be taken up again"] += 1
                        break
                    await asyncio.sleep(random.uniform(0.2, 0.8))
                if self.enough() and not self.open:
                    break

    async def connected(self, turns: int) -> int:
        """Hold one line: so many turns, or until it breaks (raises)."""
        from websockets.asyncio.client import connect

        query = f"?session_id={self.session}&last_event_id={self.last}" if self.session else ""
        headers = {"Authorization": f"Bearer {self.secret}"}
        url = random.choice(self.urls) + query
        async with connect(url, additional_headers=headers, max_size=2**24, compression=None, open_timeout=8, close_timeout=2) as socket:
            created = await self.next(socket)
            if self.session:
                self.count["lines taken up again"] += 1
                if created["resumption"]["gap"]:
                    self.count["with a gap"] += 1
                    if self.open:  # its sound goes on where Redis knew of, perhaps before where we were
                        self.heard[self.open]["gap"] = True
            self.session = created["session"]["id"]
            while turns > 0:
                if not self.open:
                    if self.enough():
                        break
                    await self.ask(socket)
                turns -= 1
                if not await self.answered(socket):
                    break
            else:
                turns = 0
        self.count["sessions ended in order"] += 1
        return 0

    async def ask(self, socket) -> None:
        numbers = ("one", "two", "three", "four", "five", "six")
        text = f"what is {random.choice(numbers)} plus {random.choice(numbers)}"
        await socket.send(json.dumps({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}}))
        await socket.send(json.dumps({"type": "response.create"}))

    async def next(self, socket) -> dict:
        """The next event not seen before: a replay may begin early."""
        while True:
            event = json.loads(await asyncio.wait_for(socket.recv(), TURN_S))
            self.last = event["event_id"]
            if self.last not in self.seen:
                self.seen.add(self.last)
                return event

    async def answered(self, socket) -> bool:
        """The end of the response; False when the session is better left."""
        while True:
            event = await self.next(socket)
            kind = event["type"]
            if kind == "response.created":
                self.open = event["response"]["id"]
                self.heard[self.open] = {"bytes": 0, "usage": None, "status": "", "session": self.session, "at": round(time.time(), 1), "gap": False}
            elif kind == "response.output_audio.delta":
                self.heard[event["response_id"]]["bytes"] += len(base64.b64decode(event["delta"]))
            elif kind == "response.done":
                response, self.open = event["response"], ""
                self.heard[response["id"]] |= {"usage": response["usage"], "status": response["status"]}
                self.count[f"responses {response['status']}"] += 1
                return response["status"] == "completed"
            elif kind == "error":
                self.count[f"errors {event['error'].get('code')}"] += 1
                if not self.open:  # else: asked twice, for the line broke before the first asking was answered. Who left now would be billed for sound on its way.
                    return False
