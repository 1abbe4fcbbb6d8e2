"""Clients that send much and never read, in a process of their own: `python -m bench.silent URL COUNT SECONDS`. The key comes by VOICE_API_KEY."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys

from websockets.asyncio.client import connect


APART_S = 0.1  # they come one after the other: that many at once are the subject of bench/admission.py


async def never_read(url: str, seconds: float, after_s: float) -> None:
    """Its socket's buffers fill, and nothing is taken any more."""
    await asyncio.sleep(after_s)
    headers = {"Authorization": f"Bearer {os.environ['VOICE_API_KEY']}"}
    socket = await connect(url, additional_headers=headers, compression=None, max_queue=1, ping_interval=None, open_timeout=60)
    socket.transport.pause_reading()
    audio = base64.b64encode(bytes(4800)).decode()
    try:
        async with asyncio.timeout(seconds):
            for i in range(400):
                await socket.send(json.dumps({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": f"{i} " + "x" * 30000}]}}))  # fmt: skip
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await asyncio.sleep(seconds)
    except Exception:  # cut, as it should be, or held back to the end
        pass
    socket.transport.abort()


async def main(url: str, count: int, seconds: float) -> None:
    await asyncio.gather(*(never_read(url, seconds, n * APART_S) for n in range(count)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
