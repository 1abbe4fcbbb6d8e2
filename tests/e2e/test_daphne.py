"""Daphne can serve the gateway too; it refuses handshakes with 403 only."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from apps.common.launch.processes import Child, script
from apps.common.launch.servers import free_port
from tests.e2e.client import Client


@pytest.fixture(scope="module")
def daphne(stack):
    port = free_port()
    command = (script("daphne"), "-b", "127.0.0.1", "-p", str(port), "-v", "0", "config.asgi:gateway")
    stack.run(Child("daphne", command), VIVAVOCE_URLCONF="config.urls.gateway")
    stack.wait(f"http://127.0.0.1:{port}/health")
    yield f"ws://127.0.0.1:{port}/v1/realtime"
    stack.end("daphne")


async def test_a_turn_over_daphne(daphne, caller):
    async with Client(daphne, caller[1]) as client:
        await client.speak("samples/question.wav")
        assert (await client.answer())["status"] == "completed"
        assert client.text() == "Seven plus five is twelve."


async def test_daphne_refuses_a_wrong_key(daphne):
    with pytest.raises(InvalidStatus) as caught:
        async with connect(daphne, additional_headers={"Authorization": "Bearer vv_no"}):
            pass
    assert caught.value.response.status_code == 403
