"""A plain WebSocket client for the tests; every frame it gets is checked against openai-python's models and for its order."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.unit.ordering import OrderChecker
from tests.unit.wire import assert_valid
from voice.gateway.talk import read_wav

CHUNK = 24000 * 40 // 1000 * 2  # 40 ms


class Refused(Exception):
    """The handshake was refused with this HTTP status and error code."""

    def __init__(self, response):
        self.status, self.headers = response.status_code, response.headers
        self.code = json.loads(response.body)["error"]["code"]
        super().__init__(f"{self.status} {self.code}")


class Client:
    def __init__(self, url: str, key: str, query: str = "", origin: str | None = None):
        self.origin = origin
        self.url, self.key = url + (f"?{query}" if query else ""), key
        self.events: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.order = OrderChecker()
        self.read = 0

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Client:
        """A client that is connected; enter it, or close it. Raises Refused."""
        client = cls(*args, **kwargs)
        try:
            client.socket = await connect(client.url, additional_headers={"Authorization": f"Bearer {client.key}"}, origin=client.origin, max_size=2**26,
                                          compression=None, open_timeout=20)  # fmt: skip
        except InvalidStatus as error:
            raise Refused(error.response) from error
        await client.wait("session.created")
        return client

    async def resume(self, url: str | None = None, last: bool = True, query: str = "") -> dict[str, Any]:
        """Connect anew, to `url` or the same gateway, and go on after the last event (`last`); the new session.created. Raises Refused."""
        wanted = f"session_id={self.events[0]['session']['id']}" + (f"&last_event_id={self.events[-1]['event_id']}" if last else "") + (f"&{query}" if query else "")
        try:
            self.socket = await connect(f"{(url or self.url).partition('?')[0]}?{wanted}", additional_headers={"Authorization": f"Bearer {self.key}"},
                                        max_size=2**26, compression=None, open_timeout=20)  # fmt: skip
        except InvalidStatus as error:
            raise Refused(error.response) from error
        return await self.wait("session.created")

    async def vanish(self) -> None:
        """The line goes dead: no close frame."""
        self.socket.transport.abort()
        await self.socket.wait_closed()

    async def __aenter__(self) -> Client:
        if not hasattr(self, "socket"):
            self.__dict__ = (await self.connect(self.url, self.key, origin=self.origin)).__dict__
        return self

    async def close(self) -> None:
        await self.socket.close()

    async def __aexit__(self, *exc: Any) -> None:
        await self.socket.close()

    async def send(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def next(self, timeout_s: float = 20) -> dict[str, Any]:
        try:
            event = json.loads(await asyncio.wait_for(self.socket.recv(), timeout_s))
        except TimeoutError:
            last = [e.get("response", {}).get("status_details") or e["type"] for e in self.events[-4:]]
            raise AssertionError(f"nothing for {timeout_s:.1f} s after {len(self.events)} events; the last: {last}") from None
        self.times.append(time.monotonic())
        self.order.see(assert_valid(event))
        self.events.append(event)
        return event

    async def wait(self, type: str, timeout_s: float = 20, where: Callable[[dict], bool] = lambda e: True) -> dict[str, Any]:
        """The next event of this type; an `error` in its place is a failure."""
        until = time.monotonic() + timeout_s
        while True:
            event = await self.next(max(0.1, until - time.monotonic()))
            if event["type"] == type and where(event):
                return event
            assert event["type"] != "error" or type == "error", event

    async def error(self) -> dict[str, Any]:
        return (await self.wait("error"))["error"]

    async def type(self, text: str, **response: Any) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.send("conversation.item.create", item=item)
        await self.send("response.create", **({"response": response} if response else {}))

    async def speak(self, path: str, tail_s: float = 1.0, speed: float = 1.0) -> None:
        """A WAV and then silence, in real time."""
        pcm = read_wav(path) + bytes(int(24000 * tail_s) * 2)
        began = time.monotonic()
        for at in range(0, len(pcm), CHUNK):
            await self.append(pcm[at : at + CHUNK])
            await asyncio.sleep(max(0, began + (at + CHUNK) / 48000 / speed - time.monotonic()))

    async def append(self, pcm: bytes) -> None:
        await self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    async def answer(self, timeout_s: float = 30) -> dict[str, Any]:
        """Wait for the end of the response."""
        return (await self.wait("response.done", timeout_s))["response"]

    def text(self) -> str:
        """Everything the agent said or wrote."""
        return "".join(e["delta"] for e in self.events if e["type"] in ("response.output_text.delta", "response.output_audio_transcript.delta"))

    def audio(self) -> bytes:
        return b"".join(base64.b64decode(e["delta"]) for e in self.events if e["type"] == "response.output_audio.delta")
