"""What has ended is freed at once, whichever way it ended, and holds no place: nothing of it waits for the collector."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed

from apps.usage.limits import limiter
from tests.e2e.client import Client

HELLO = ("GET /v1/realtime HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n")  # fmt: skip


@pytest.fixture(scope="module")
def own(stack):
    """The address of a gateway of these tests' own: what it holds is what they left."""
    url, process = stack.extra_gateway()
    yield url
    process.terminate()
    process.wait(20)


@pytest.fixture
def whose(stack):
    return stack.new_tenant("freed")


def in_memory(url: str) -> int:
    with urllib.request.urlopen(f"{url.replace('ws://', 'http://').removesuffix('/v1/realtime')}/metrics", timeout=5) as answer:
        return int(float(re.search(r"^voice_sessions_in_memory (\S+)$", answer.read().decode(), re.M).group(1)))


async def left(url: str, tenant_id: str, places: int = 0) -> tuple[int, int]:
    """(sessions in its memory, places held) after a moment; `places` are expected."""
    until = time.monotonic() + 5
    while True:
        found = await asyncio.to_thread(in_memory, url), await asyncio.to_thread(limiter().live, tenant_id)
        if found == (0, places) or time.monotonic() > until:
            return found
        await asyncio.sleep(0.1)


async def test_sessions_that_talked(own, whose):
    tenant, key = whose

    async def talk(number: int) -> None:
        async with Client(own, key) as client:
            await client.append(b"\0\0" * 2400)
            await client.type(f"what is {number} plus 1", **({} if number % 2 else {"output_modalities": ["text"]}))
            assert await asyncio.to_thread(in_memory, own) >= 1
            await client.answer()

    await asyncio.gather(*map(talk, range(6)))
    assert await left(own, tenant.id) == (0, 0)


async def test_sessions_that_we_end(own, whose):
    tenant, key = whose
    async with Client(own, key) as client:
        await client.type("count to ten")
        await client.wait("response.output_audio.delta")
        await client.socket.send(b"\1\2")  # no binary frames
        with pytest.raises(ConnectionClosed):
            while True:
                await client.next()
    assert client.socket.close_code == 1003
    assert (await client.resume(own))["resumption"]["resumed"]
    await client.answer()
    await client.close()
    assert await left(own, tenant.id) == (0, 0)


async def test_a_session_that_another_gateway_took(own, stack, whose):
    tenant, key = whose
    async with Client(own, key) as client:
        await client.type("count to ten")
        await client.wait("response.output_audio.delta")
        first = client.socket
        await client.resume(stack.realtime)
        with pytest.raises(ConnectionClosed):
            while True:
                await first.recv()
        assert first.close_code == 4409 and await left(own, tenant.id, places=1) == (0, 1)
        await client.answer()
    assert await left(own, tenant.id) == (0, 0)


async def test_clients_that_go_in_the_middle_of_the_handshake(own, whose):
    tenant, key = whose
    host, port = own.removeprefix("ws://").partition("/")[0].split(":")
    for number in range(6):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(HELLO.format(key, "dGhlIHNhbXBsZSBub25jZQ==").encode())
        await writer.drain()
        await asyncio.sleep(number / 1000)
        writer.transport.abort()
    await asyncio.sleep(0.5)
    assert await left(own, tenant.id) == (0, 0)
