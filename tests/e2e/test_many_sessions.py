"""Many live sessions at once, in real time: nothing lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import os

import pytest

SESSIONS = int(os.environ.get("MANY_SESSIONS", "50"))
SECONDS = float(os.environ.get("MANY_SECONDS", "60"))


@pytest.mark.timeout(300)
async def test_fifty_sessions_lose_nothing(dial):
    """Each session streams audio in real time and takes text turns; the client checks models, order and sums of every frame."""

    async def live(number: int) -> tuple[int, int]:
        async with dial() as client:
            await client.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": False}}}})
            loop, asked = asyncio.get_running_loop(), 0
            until = loop.time() + SECONDS

            async def stream():
                while loop.time() < until:
                    await client.speak("samples/question.wav", tail_s=3.0)

            streaming = asyncio.create_task(stream())
            await asyncio.sleep(number / SESSIONS * 4)
            while loop.time() < until - 8:
                await client.type(f"what is {number % 10} plus {asked % 10}", conversation="none", output_modalities=["text"], input=[
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": f"what is {number % 10} plus {asked % 10}"}]}])  # fmt: skip
                done = await client.answer(30)
                assert done["status"] == "completed", done["status_details"]
                asked += 1
                await asyncio.sleep(4)
            await streaming
            await client.send("conversation.item.retrieve", item_id="none")
            await client.error()
            client.order.finished()
            started = [e["item_id"] for e in client.events if e["type"] == "input_audio_buffer.speech_started"]
            stopped = [e["item_id"] for e in client.events if e["type"] == "input_audio_buffer.speech_stopped"]
            committed = [e["item_id"] for e in client.events if e["type"] == "input_audio_buffer.committed"]
            assert stopped == committed and started[: len(stopped)] == stopped and len(started) == len(set(started))
            return asked, len(stopped)

    counts = await asyncio.gather(*(live(n) for n in range(SESSIONS)))
    utterances = SECONDS / 4.6
    assert all(heard >= utterances * 0.7 for _, heard in counts), counts
