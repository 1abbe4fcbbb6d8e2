"""pipecat-ai's OpenAIRealtimeLLMService against the gateway: a text turn, a spoken one, an interruption, a tool call. Prints what happened as JSON.

Runs in the environment of requirements/clients.txt: `python pipecat_client.py WS_URL KEY FOLDER_OF_PCM`.
"""

from __future__ import annotations

import asyncio
import json
import sys

from loguru import logger
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

logger.remove()
logger.add(sys.stderr, level="WARNING")
STEP = 960  # bytes: 20 ms


class Collector(FrameProcessor):
    """Notes what the service says."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()
        self.errors: list[str] = []
        self.heard: list[str] = []

    def reset(self) -> None:
        self.text, self.bytes, self.over, self.sounding = "", 0, asyncio.Event(), asyncio.Event()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.text += frame.text
        elif isinstance(frame, TTSAudioRawFrame):
            self.bytes += len(frame.audio)
            self.sounding.set()
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.over.set()
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
        await self.push_frame(frame, direction)

    def said(self) -> dict:
        return {"text": self.text, "bytes": self.bytes}


class Ear(FrameProcessor):
    """Transcripts of the user go upstream."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.heard.append(frame.text)
        await self.push_frame(frame, direction)


async def main(url: str, key: str, samples: str) -> dict:
    service = OpenAIRealtimeLLMService(api_key=key, base_url=f"{url}/v1/realtime")
    called: list[dict] = []

    async def get_weather(params):
        called.append(dict(params.arguments))
        await params.result_callback("sunny, 21 degrees")

    service.register_function("get_weather", get_weather)
    tools = ToolsSchema(standard_tools=[FunctionSchema("get_weather", "Weather of a city.", {"city": {"type": "string"}}, ["city"])])
    context = LLMContext([{"role": "user", "content": "What is seven plus five?"}], tools)
    pair = LLMContextAggregatorPair(context)
    collector = Collector()
    pipeline = Pipeline([Ear(collector.heard), pair.user(), service, collector, pair.assistant()])
    task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=24000, audio_out_sample_rate=24000), cancel_on_idle_timeout=False)
    found: dict = {}

    async def speak(name: str) -> None:
        """Say one of the samples, and then nothing until something is heard."""
        collector.reset()
        with open(f"{samples}/{name}.pcm", "rb") as file:
            pcm = file.read() + bytes(48000 * 8)
        for at in range(0, len(pcm), STEP):
            if collector.sounding.is_set():
                break
            await task.queue_frame(InputAudioRawFrame(audio=pcm[at : at + STEP], sample_rate=24000, num_channels=1))
            await asyncio.sleep(0.02)

    async def script() -> None:
        await asyncio.sleep(0.5)
        await task.queue_frame(LLMRunFrame())
        await asyncio.wait_for(collector.over.wait(), 20)
        found["text"] = collector.said()
        await speak("question")
        await asyncio.wait_for(collector.over.wait(), 20)
        found["audio"] = collector.said()
        await speak("story")
        await asyncio.sleep(1)
        await task.queue_frame(InterruptionFrame())
        await asyncio.sleep(0.5)
        stopped = collector.bytes
        await asyncio.sleep(1)
        found["interrupted"] = {"bytes": stopped, "later": collector.bytes - stopped}
        await speak("weather")
        for _ in range(200):
            await asyncio.sleep(0.1)
            if "degrees" in collector.text:
                break
        found["result"] = collector.said()
        await task.queue_frame(EndFrame())

    running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
    try:
        await script()
    finally:
        await asyncio.wait_for(task.cancel(), 5)
        await asyncio.wait([running], timeout=5)
    return {**found, "heard": collector.heard, "called": called, "errors": collector.errors}


print(json.dumps(asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 90))))
