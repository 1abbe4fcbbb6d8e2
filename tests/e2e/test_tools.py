"""HTTPS functions of an agent, called by the gateway: the answer goes on with what they said; nothing leads into our own network."""

from __future__ import annotations

import asyncio
import json

import pytest

from apps.agents.services import agent_create
from apps.common.actors import SYSTEM
from apps.common.launch import processes
from apps.common.launch.servers import free_port
from apps.tenants.context import in_public, in_tenant
from apps.tenants.models import Tenant
from tests.e2e.client import Client
from tests.https_server import HOST, FunctionServer
from voice.core.effects import CallTool
from voice.gateway import tools


@pytest.fixture(scope="module")
def function_server(tmp_path_factory):
    server = FunctionServer(tmp_path_factory.mktemp("https"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(stack, function_server):
    """The address of a gateway whose operator has named that server as an internal one."""
    port = free_port()
    child = processes.Child("gateway-tools", processes.gateway(port).command)
    stack.run(child, TOOL_HOSTS_INTERNAL=f"{HOST}=127.0.0.1:{function_server.port}", TOOL_CA_FILE=str(function_server.pem))
    stack.wait(f"http://127.0.0.1:{port}/health")
    return f"ws://127.0.0.1:{port}/v1/realtime"


@pytest.fixture
async def agent(caller):
    tenant = caller[0]
    await in_public(Tenant.objects.filter(pk=tenant.id).update, tool_hosts=[HOST, "localhost"])

    async def make(path: str, host: str = HOST) -> str:
        tool = {"name": "get_weather", "url": f"https://{host}{path}", "description": "The weather of a city.", "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip

        def create():
            return agent_create(name="Weather", actor=SYSTEM, instructions="You are a friendly weather line. Answer briefly.", tools=[tool],
                                tool_hosts=[HOST, "localhost"]).id  # fmt: skip

        return await in_tenant(tenant, create)

    return make


async def test_the_weather_by_a_function_of_the_workspace(gateway, caller, agent, function_server):
    name = await agent("/weather")
    async with Client(gateway, caller[1], f"assistant={name}") as client:
        assert client.events[0]["session"]["tools"] == [] and "tools.example" not in json.dumps(client.events)
        await client.type("What is the weather in Paris today?")
        done = await client.answer()
        assert client.text() == "It is sunny and twenty-one degrees in Paris." and done["status"] == "completed"
        items = [e["item"] for e in client.events if e["type"] == "conversation.item.done"]
        assert [i["type"] for i in items] == ["message", "function_call", "function_call_output", "message"]
        assert items[2]["output"] == "sunny, 21 degrees" and [i["type"] for i in done["output"]] == ["message"]
    asked = function_server.calls[-1]
    assert asked["arguments"] == {"city": "paris"} and asked["key"] == asked["call_id"] == items[1]["call_id"]


@pytest.mark.parametrize(("path", "host", "code"), [
    ("/redirect", HOST, "redirected"), ("/broken", HOST, "refused"), ("/large", HOST, "too_large"), ("/weather", "localhost", "host_not_public"),
    ("/slow", HOST, "timeout"),
])  # fmt: skip
async def test_what_goes_wrong_is_the_output_and_the_answer_goes_on(gateway, caller, agent, path, host, code):
    name = await agent(path, host)
    async with Client(gateway, caller[1], f"assistant={name}") as client:
        await client.type("What is the weather in Paris today?", output_modalities=["text"])
        item = (await client.wait("conversation.item.done", 30, lambda e: e["item"]["type"] == "function_call_output"))["item"]
        assert json.loads(item["output"])["error"]["code"] == code
        assert (await client.answer())["status"] == "completed"


async def test_a_host_taken_off_the_list_is_not_called(gateway, caller, agent):
    name = await agent("/weather")
    await in_public(Tenant.objects.filter(pk=caller[0].id).update, tool_hosts=[])
    async with Client(gateway, caller[1], f"assistant={name}") as client:
        await client.type("What is the weather in Paris today?", output_modalities=["text"])
        await client.answer()
        assert not [e for e in client.events if e["type"] == "conversation.item.added" and e["item"]["type"] == "function_call"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::1]", "169.254.169.254", "10.1.2.3", "nowhere.invalid", "[::ffff:127.0.0.1]"])
async def test_no_name_leads_inside(host):
    output = await asyncio.wait_for(tools.call(CallTool("r", "call_1", "f", f"https://{host}/", "{}"), "sess_1"), 15)
    assert json.loads(output)["error"]["code"] in ("host_not_public", "host_not_found")
