"""The floor the gateway is compared with: a plain `websockets` server that does the same JSON, base64, resampling and VAD."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import orjson
import pybase64
from websockets.asyncio.server import serve

from voice.audio.detector import Detector
from voice.core.settings import SERVER_VAD


class Event(msgspec.Struct):
    type: str
    audio: str | None = None


async def session(socket) -> None:
    detector, decode = Detector(SERVER_VAD, gate_db=0), msgspec.json.Decoder(Event).decode
    async for text in socket:
        event = decode(text)
        if event.audio is not None:
            for edge in detector.push(pybase64.b64decode(event.audio, validate=True)):
                await socket.send(orjson.dumps({"type": edge.kind, "at_ms": edge.at_ms}).decode())
        else:
            await socket.send(text)


async def main(port: int) -> None:
    async with serve(session, "127.0.0.1", port, compression=None, max_size=2**24):
        await asyncio.Future()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
