"""livekit-plugins-openai against the gateway: a text turn, a spoken one, an interruption, a tool call. Prints what happened as JSON.

Runs in the environment of requirements/clients.txt: `python livekit_client.py HTTP_URL KEY QUESTION.pcm`.
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
from livekit import rtc
from livekit.agents import llm
from livekit.plugins.openai.realtime import RealtimeModel

STEP = 480  # samples: 20 ms at 24 kHz


@llm.function_tool
async def get_weather(city: str) -> str:
    """Weather of a city."""
    return "sunny, 21 degrees"


async def read(generation) -> dict:
    """What one generation says and calls."""
    said = {"text": "", "samples": 0, "calls": []}

    async def messages():
        async for message in generation.message_stream:
            async def words(message=message):
                async for text in message.text_stream:
                    said["text"] += str(text)

            async def sound(message=message):
                async for frame in message.audio_stream:
                    said["samples"] += frame.samples_per_channel

            await asyncio.gather(words(), sound())

    async def calls():
        async for call in generation.function_stream:
            said["calls"].append([call.call_id, call.name, call.arguments])

    await asyncio.gather(messages(), calls())
    return said


async def main(url: str, key: str, question: str) -> dict:
    errors, found = [], {}
    async with aiohttp.ClientSession() as http:
        model = RealtimeModel(base_url=f"{url}/v1", api_key=key, http_session=http)
        session = model.session()
        session.on("error", lambda error: errors.append(str(error.error)))
        await session.update_instructions("You are a friendly voice assistant. Answer briefly.")
        context = llm.ChatContext()
        context.add_message(role="user", content="What is seven plus five?")
        await session.update_chat_ctx(context)
        found["text"] = await read(await session.generate_reply())

        heard = asyncio.get_running_loop().create_future()
        session.on("input_audio_transcription_completed", lambda event: heard.done() or heard.set_result(event.transcript))
        answered = asyncio.get_running_loop().create_future()
        session.on("generation_created", lambda event: answered.done() or answered.set_result(event))
        with open(question, "rb") as file:
            pcm = file.read() + bytes(48000 * 5)
        for at in range(0, len(pcm), STEP * 2):
            part = pcm[at : at + STEP * 2]
            session.push_audio(rtc.AudioFrame(part, 24000, 1, len(part) // 2))
            await asyncio.sleep(0.02)
            if answered.done():
                break
        found["audio"] = await read(await asyncio.wait_for(answered, 20))
        found["heard"] = await asyncio.wait_for(heard, 10)

        context = session.chat_ctx.copy()
        context.add_message(role="user", content="Tell me a story.")
        await session.update_chat_ctx(context)
        story = await session.generate_reply()
        reading = asyncio.create_task(read(story))
        await asyncio.sleep(1.5)
        session.interrupt()
        found["interrupted"] = await asyncio.wait_for(reading, 5)

        await session.update_tools([get_weather])
        context = session.chat_ctx.copy()
        context.add_message(role="user", content="What is the weather in Paris today?")
        await session.update_chat_ctx(context)
        found["call"] = await read(await session.generate_reply())
        call_id, name, _ = found["call"]["calls"][0]
        context = session.chat_ctx.copy()
        context.insert(llm.FunctionCallOutput(call_id=call_id, name=name, output="sunny, 21 degrees", is_error=False))
        await session.update_chat_ctx(context)
        found["result"] = await read(await session.generate_reply())
        await session.aclose()
        await model.aclose()
    return {**found, "errors": errors}


print(json.dumps(asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 90))))
