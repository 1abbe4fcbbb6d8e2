"""The floor the gateway is compared with: a plain `websockets` server that does the same JSON, base64, resampling and VAD.

Written as one would write it: silero on each window of 32 ms, speech ends after half a second without.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import numpy as np
import orjson
import pybase64
import soxr
from websockets.asyncio.server import serve

from voice.audio.vad import _model

WINDOW, CONTEXT, QUIET_WINDOWS = 512, 64, 16


class Event(msgspec.Struct):
    type: str
    audio: str | None = None


async def session(socket) -> None:
    decode, model = msgspec.json.Decoder(Event).decode, _model()
    resampler = soxr.ResampleStream(24000, 16000, 1, dtype="int16", quality="LQ")
    h, c = np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)
    row, held, speaking, quiet = np.zeros((1, CONTEXT + WINDOW), np.float32), np.zeros(0, np.int16), False, 0
    async for text in socket:
        event = decode(text)
        if event.audio is None:
            await socket.send(text)
            continue
        samples = resampler.resample_chunk(np.frombuffer(pybase64.b64decode(event.audio, validate=True), "<i2"))
        held = np.concatenate((held, samples))
        while len(held) >= WINDOW:
            row[0, :CONTEXT] = row[0, WINDOW:]
            row[0, CONTEXT:] = held[:WINDOW].astype(np.float32) / 32768
            held = held[WINDOW:]
            chance, h, c = model.run(None, {"input": row, "h": h, "c": c})
            quiet = 0 if chance[0] >= 0.5 else quiet + 1
            if not speaking and not quiet or speaking and quiet >= QUIET_WINDOWS:
                speaking = not speaking
                await socket.send(orjson.dumps({"type": "started" if speaking else "stopped"}).decode())


async def main(port: int) -> None:
    async with serve(session, "127.0.0.1", port, compression=None, max_size=2**24):
        await asyncio.Future()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
