"""vLLM as the language model: the contract, and one whole spoken turn (`make test-vllm`; VLLM_PYTHON names its environment)."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from apps.agents.models import Agent, AgentVersion
from apps.tenants.context import bound
from tests.e2e.client import Client
from tests.infrastructure import ROOT

START_S = 300
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("VLLM_PYTHON", "")
    assert found, "run these tests by `make test-vllm`: it installs vLLM and sets VLLM_PYTHON"
    return found


def test_contract(python):
    result = subprocess.run([python, "-m", "tests.vllm.contract"], cwd=ROOT, capture_output=True, text=True, timeout=START_S)
    assert result.returncode == 0 and "contract kept" in result.stdout, result.stderr[-3000:]


@pytest.fixture(scope="module")
def caller(stack, python):
    """A workspace whose agent thinks with vLLM; the only llm worker is one with vLLM."""
    for name in [n for n in stack.processes if n.startswith("llm-")]:
        stack.end(name)
    time.sleep(3.5)  # until nobody believes in the old worker any more
    tenant, secret = stack.new_tenant("vllm")
    with bound(tenant):
        agent = Agent.objects.get()
        agent.published = AgentVersion.objects.create(agent=agent, number=2, instructions=agent.published.instructions, llm_engine="vllm",
                                                      llm_model="embedded-closed-vocab")  # fmt: skip
        agent.save()
    name, process = stack.start_worker("llm", python, LLM_ENGINE="vllm")
    stack.wait(f"{stack.base_url}/ready")
    yield secret
    stack.end(name)


async def test_a_spoken_turn_with_vllm(stack, caller):
    async with Client(stack.realtime, caller) as client:
        await client.speak(ROOT / "samples" / "question.wav")
        response = await client.answer(60)
        assert response["status"] == "completed" and client.text() == "Seven plus five is twelve."
        assert response["usage"]["output_token_details"]["text_tokens"] >= 5 and len(client.audio()) > 40_000
