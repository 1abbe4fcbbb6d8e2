"""Speak to an agent, hear its answer, and lose no word of either when the line breaks; with OpenAI's own Python client.

    pip install "openai[realtime]>=3.54"
    OPENAI_BASE_URL=http://localhost:25000/v1 OPENAI_API_KEY=vv_… python examples/speak_with_openai.py samples/question.wav answer.wav

The sound is sent as a microphone gives it. The first event after a lost line says how much of it the gateway has (`input_audio_ms`):
the rest is sent again from there. Kill the gateway under it, or pull the cable.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import wave

from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed

BYTES_PER_MS = 48  # PCM16, one channel, 24 kHz
PIECE = 40 * BYTES_PER_MS


class Microphone:
    """What was recorded so far, and how much of it is on its way. A real one forgets what is older than a few seconds."""

    def __init__(self, pcm: bytes):
        self.pcm, self.sent, self.line = pcm, 0, asyncio.Event()

    def note(self, event) -> None:
        """The line is there: from which millisecond on the gateway wants to hear."""
        if event.type == "session.created":
            self.sent = event.resumption.get("input_audio_ms", 0) * BYTES_PER_MS
            self.line.set()

    async def speak(self, connection) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self.sent < len(self.pcm):
            await self.line.wait()
            recorded = int((loop.time() - began) * 1000) * BYTES_PER_MS
            if self.sent + PIECE > recorded:
                await asyncio.sleep(0.01)
                continue
            piece = self.pcm[self.sent : self.sent + PIECE]
            try:
                await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
                self.sent += len(piece)
            except ConnectionClosed:  # whoever reads sees it too, and comes back
                self.line.clear()


class Caller:
    """One call: what must be remembered to come back, and what was heard."""

    def __init__(self, pcm: bytes):
        self.microphone, self.heard = Microphone(pcm), bytearray()
        self.session_id = self.last_event_id = ""

    def come_back(self, reconnecting) -> dict:
        print(f"[line lost: {reconnecting.close_code}; coming back]")
        self.microphone.line.clear()
        return {"extra_query": {"session_id": self.session_id, "last_event_id": self.last_event_id}}

    async def call(self, connection) -> str:
        """Say it all, hear the answer; its text. Raises RuntimeError where the answer failed, ConnectionError where the call was over before."""
        speaking = asyncio.create_task(self.microphone.speak(connection))
        try:
            async for event in connection:
                self.microphone.note(event)
                self.last_event_id = event.event_id
                if event.type == "session.created":
                    self.session_id = event.session.id
                elif event.type == "response.output_audio.delta":
                    self.heard += base64.b64decode(event.delta)
                elif event.type == "response.done" and event.response.status != "cancelled":  # cancelled: the caller went on speaking
                    if event.response.status == "failed":
                        raise RuntimeError(f"no answer: {event.response.status_details.error}")
                    return event.response.output[0].content[0].transcript
        finally:
            speaking.cancel()
        raise ConnectionError("the call ended before its answer")


def read(path: str) -> bytes:
    with wave.open(path) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, 24000):
            raise SystemExit(f"{path}: one channel of 16 bits at 24 kHz is needed (ffmpeg -i {path} -ac 1 -ar 24000 -c:a pcm_s16le out.wav)")
        return file.readframes(file.getnframes())


async def main(question: str, answer: str) -> None:
    caller = Caller(read(question) + bytes(2000 * BYTES_PER_MS))  # who has spoken goes on sending silence
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime", on_reconnecting=caller.come_back) as connection:
        print(await caller.call(connection))
    with wave.open(answer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        file.writeframes(caller.heard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
