"""Three more stock clients, with only the address and the key changed, each in a process of its own environment (tests/clients/):
a text turn, a spoken turn, an interruption and a tool call. openai-python and openai-agents are in test_sdks.py."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.infrastructure import ROOT
from voice.gateway.talk import read_wav

FOLDER = ROOT / "tests" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SUM, WEATHER = "Seven plus five is twelve.", "It is sunny and twenty-one degrees in Paris."


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The clips as raw PCM, and the clients installed."""
    subprocess.run(["sh", str(FOLDER / "install.sh"), sys.executable], check=True, timeout=170)
    folder = tmp_path_factory.mktemp("samples")
    for name in ("question", "story", "weather"):
        (folder / f"{name}.pcm").write_bytes(read_wav(ROOT / "samples" / f"{name}.wav"))
    return folder


async def run(*command: str) -> dict:
    path = f"{PYTHON.parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PATH": path})
    out, err = await asyncio.wait_for(process.communicate(), 100)
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out.decode().strip().splitlines()[-1])


async def test_livekit(stack, caller, samples):
    found = await run(PYTHON, FOLDER / "livekit_client.py", stack.base_url, caller[1], samples / "question.pcm")
    assert found["errors"] == []
    assert found["text"]["text"] == found["audio"]["text"] == SUM
    assert min(found["text"]["samples"], found["audio"]["samples"]) > 20_000
    assert 0 < found["interrupted"]["samples"] < 24000 * 5
    assert [call[1:] for call in found["call"]["calls"]] == [["get_weather", '{"city": "paris"}']]
    assert found["result"]["text"] == WEATHER


async def test_pipecat(stack, caller, samples):
    found = await run(PYTHON, FOLDER / "pipecat_client.py", stack.ws_url, caller[1], samples)
    assert found["errors"] == []
    assert found["text"]["text"] == found["audio"]["text"] == SUM and min(found["text"]["bytes"], found["audio"]["bytes"]) > 40_000
    assert found["interrupted"]["bytes"] > 0 and found["interrupted"]["later"] == 0
    assert found["called"] == [{"city": "paris"}] and found["result"]["text"] == WEATHER


async def test_agents_in_javascript(stack, caller, samples):
    script = shutil.copy(FOLDER / "agents.mjs", ROOT / "build" / "clients" / "agents.mjs")  # Node looks for packages beside the script
    found = await run("node", script, stack.realtime, caller[1], samples / "question.pcm")
    assert found["errors"] == []
    assert found["text"]["text"] == found["audio"]["text"] == SUM and min(found["text"]["bytes"], found["audio"]["bytes"]) > 40_000
    assert found["interrupted"]["bytes"] > 0 and found["interrupted"]["later"] == 0
    assert found["called"] == ["paris"] and found["result"]["text"] == WEATHER
    assert found["heard"][1] == "what is seven plus five"
