"""Sessions that stream speech in real time, in a process of their own: `python -m bench.load URL SESSIONS SECONDS CHUNK_MS [echo] [silence]`.

Prints `begin` when all are connected, `end` after SECONDS, then one JSON object: echo times in ms (with `echo`, each session asks for an item that does
not exist once a second), how many utterances were committed, how many were spoken to their end, and what was lost, doubled or out of order. Each caller
begins at another moment of the call, as callers do. With `silence` nobody says anything: the quiet room alone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time

import numpy as np
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from voice.gateway.talk import read_wav

PATIENCE_S = 60  # a gateway that says when to come again is asked again for so long
ROOM_S = 3  # of silence after each question
ORDER = ("speech_started", "speech_stopped", "committed")


def call_audio(silence: bool) -> bytes:
    """A question every 4.7 s with a quiet room (-62 dBFS) between."""
    question = read_wav("samples/question.wav")
    samples = np.frombuffer((bytes(len(question)) if silence else question) + bytes(48000 * ROOM_S), "<i2").astype(np.float64)
    noise = np.random.default_rng(1).normal(0, 10 ** (-62 / 20) * 32767, len(samples))
    return np.clip(samples + noise, -32768, 32767).astype("<i2").tobytes()


class Witness:
    """What one session was told: each utterance begins, ends and is committed once, in this order; no event comes twice."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.utterances = self.spoken = 0
        self._seen: set[str] = set()
        self._under_way: list[str] = []  # what has happened to the utterance

    def see(self, text: str) -> None:
        event = orjson.loads(text)
        if event_id := event.get("event_id"):
            if event_id in self._seen:
                self.faults.append(f"twice: {text[:200]}")
            self._seen.add(event_id)
        kind = event.get("type", "").removeprefix("input_audio_buffer.")
        if kind not in ORDER:
            return
        if self._under_way + [kind] != list(ORDER[: len(self._under_way) + 1]):
            self.faults.append(f"{kind} after {self._under_way}")
        self._under_way.append(kind)
        if kind == ORDER[-1]:
            self._under_way.clear()
            self.utterances += 1


async def dial(url: str) -> ClientConnection:
    """Raises InvalidStatus."""
    headers, until = {"Authorization": f"Bearer {os.environ.get('VOICE_API_KEY', '')}"}, time.monotonic() + PATIENCE_S
    while True:
        try:
            return await connect(url, additional_headers=headers, compression=None, max_size=2**24, open_timeout=30, ping_interval=None)
        except InvalidStatus as refused:
            again_s = refused.response.headers.get("Retry-After")
            if again_s is None or time.monotonic() > until:
                raise
            await asyncio.sleep(float(again_s))


async def one(url: str, frames: list[str], chunk_s: float, seconds: float, offset: float, echo: bool, echoes: list[float], witness: Witness,
              gates: tuple[asyncio.Barrier, asyncio.Barrier]) -> None:  # fmt: skip
    async with await dial(url) as socket:
        await socket.send(json.dumps({"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"create_response": False}}}}}))
        asked: list[float] = []

        async def read() -> None:
            async for text in socket:
                witness.see(text)
                if asked and "none_such" in text:
                    echoes.append((time.monotonic() - asked.pop(0)) * 1000)

        reader = asyncio.create_task(read())
        await gates[0].wait()
        until = time.monotonic() + seconds
        await asyncio.sleep(offset)
        began, i, next_echo = time.monotonic(), 0, time.monotonic() + 1
        while time.monotonic() < until:
            await socket.send(frames[i % len(frames)])
            i += 1
            if echo and time.monotonic() > next_echo:
                next_echo += 1
                asked.append(time.monotonic())
                await socket.send('{"type":"conversation.item.retrieve","item_id":"none_such"}')
            await asyncio.sleep(max(0, began + i * chunk_s - time.monotonic()))
        witness.spoken = spoken(i * chunk_s, len(frames) * chunk_s)
        await gates[1].wait()
        reader.cancel()


def spoken(sent_s: float, every_s: float) -> int:
    """Questions in the first `sent_s` of the call with enough silence after them that they are over."""
    return int((sent_s + ROOM_S - 1) / every_s)


async def main(url: str, sessions: int, seconds: float, chunk_ms: int, echo: bool, silence: bool) -> None:
    audio, size = call_audio(silence), 48 * chunk_ms
    frames = [json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio[at : at + size]).decode()})
              for at in range(0, len(audio) - size, size)]  # fmt: skip
    echoes: list[float] = []
    gates = asyncio.Barrier(sessions + 1), asyncio.Barrier(sessions + 1)  # all connected; all done
    witnesses = [Witness() for _ in range(sessions)]
    chunk_s = chunk_ms / 1000
    calls = asyncio.gather(*(one(url, frames, chunk_s, seconds, n / sessions * len(frames) * chunk_s, echo, echoes, witnesses[n], gates)
                             for n in range(sessions)))  # fmt: skip
    connected = asyncio.create_task(gates[0].wait())
    await asyncio.wait({calls, connected}, return_when=asyncio.FIRST_COMPLETED)
    if calls.done():  # one of them was refused
        calls.result()
    print("begin", flush=True)
    await asyncio.sleep(seconds)
    print("end", flush=True)
    await gates[1].wait()
    await calls
    print(json.dumps({"echoes": [round(e, 2) for e in echoes], "utterances": [w.utterances for w in witnesses], "spoken": [w.spoken for w in witnesses],
                      "faults": [f for w in witnesses for f in w.faults]}))


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), "echo" in sys.argv, "silence" in sys.argv))
