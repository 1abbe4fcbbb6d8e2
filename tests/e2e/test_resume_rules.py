"""Who may come back, for how long, and what a session does meanwhile (protocol section 9)."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import httpx
import pytest
from asgiref.sync import sync_to_async
from websockets.exceptions import ConnectionClosed

from apps.conversations.models import TurnTrace, VoiceSession
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.usage.models import UsageEntry
from tests.e2e.client import Client, Refused

VOICE = {"audio": {"output": {"voice": "echo"}}}


def limited(stack, **limits: int):
    """(tenant, key) of a workspace of the test's own."""
    tenant, key = stack.new_tenant("returns")
    with bound_public():
        Tenant.objects.filter(pk=tenant.id).update(limits=limits)
    return tenant, key


async def mint(stack, key: str) -> str:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{stack.base_url}/v1/realtime/client_secrets", headers={"Authorization": f"Bearer {key}"}, json={})
    return answer.json()["value"]


async def refusal(client: Client, key: str = "") -> tuple[int, str]:
    """Status and code of the refused try to take the session of `client` up."""
    with pytest.raises(Refused) as refused:
        await Client.connect(client.url, key or client.key, f"session_id={client.events[0]['session']['id']}")
    return refused.value.status, refused.value.code


def written(tenant, session_id: str):
    with bound(tenant):
        session = VoiceSession.objects.get(pk=session_id)
        return session.state, sum(UsageEntry.objects.filter(session_id=session_id, meter="session_ms").values_list("quantity", flat=True))


@pytest.mark.timeout(90)
async def test_within_the_window_only_its_owner_comes_back_and_after_it_nobody(stack, caller):
    tenant, key = await sync_to_async(limited, thread_sensitive=False)(stack, resume_seconds=10)
    secret, other = await mint(stack, key), await mint(stack, key)
    began = time.monotonic()
    async with Client(stack.realtime, key) as late, Client(stack.realtime, secret) as short:
        assert late.events[0]["resumption"]["window_s"] == 10
        await late.type("hello", output_modalities=["text"])
        await late.answer()
        await late.vanish()
        lived_ms = (time.monotonic() - began) * 1000
        await short.vanish()
        assert (await short.resume())["resumption"]["resumed"] is True
        for stranger in (other, caller[1], await mint(stack, caller[1])):  # another secret of the same key, another workspace
            assert await refusal(short, stranger) == (404, "session_not_found")
        assert await refusal(late, caller[1]) == (404, "session_not_found")
        await asyncio.sleep(11)
        assert await refusal(late) == (410, "session_resume_expired")
        assert await refusal(late, caller[1]) == (404, "session_not_found")  # also of one that is over, nothing is said to strangers
    state, billed_ms = await sync_to_async(written, thread_sensitive=False)(tenant, late.events[0]["session"]["id"])
    assert state == "closed" and 0 < billed_ms < lived_ms + 1500  # not the time in which nobody was there


@pytest.mark.timeout(120)
async def test_a_gateway_that_slept_writes_nothing_of_a_session_another_one_took(stack, caller):
    """SIGSTOP in the middle of an answer; the client goes on elsewhere; then the sleeper wakes."""
    sleeper, process = stack.extra_gateway()
    async with Client(sleeper, caller[1]) as client:
        await client.type("count to ten", **VOICE)
        while len(client.audio()) < 48000:
            await client.next()
        os.kill(process.pid, signal.SIGSTOP)
        old = client.socket
        try:
            while True:  # what had left before it fell asleep
                await client.next(0.5)
        except AssertionError:
            pass
        assert (await client.resume(stack.realtime))["resumption"]["gap"] is False
        answering = asyncio.create_task(client.answer())
        await asyncio.sleep(1)
        os.kill(process.pid, signal.SIGCONT)
        done = await answering
        assert done["status"] == "completed" and client.text() == done["output"][0]["content"][0]["transcript"]
        client.order.finished()
        with pytest.raises(ConnectionClosed):
            while True:  # the sleeper says nothing new on the old line but that it is over
                frame = await asyncio.wait_for(old.recv(), 10)
                assert any(event["event_id"] in frame for event in client.events), frame
        assert old.close_code == 4409
        session_id = client.events[0]["session"]["id"]
    await asyncio.sleep(1)

    def turns() -> list[str]:
        with bound(caller[0]):
            return list(TurnTrace.objects.filter(session_id=session_id).values_list("status", flat=True))

    assert await sync_to_async(turns, thread_sensitive=False)() == ["completed"]


@pytest.mark.timeout(180)
async def test_answers_wait_when_no_more_can_be_kept_for_a_client_that_is_away(stack):
    """Twelve answers speak at once to nobody: before a frame would be pushed out of the ring they pause, and go on when the client is back."""
    _, key = await sync_to_async(stack.new_tenant, thread_sensitive=False)("ring")
    count = {"conversation": "none", "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "count to twenty"}]}], **VOICE}
    async with Client(stack.realtime, key) as client:
        for _ in range(12):
            await client.send("response.create", response=count)
        for _ in range(12):
            await client.wait("response.created")
        await client.vanish()
        await asyncio.sleep(14)  # more than 1,000 frames by then, were they not held back
        created = await client.resume()
        assert created["resumption"]["gap"] is False and 800 < created["resumption"]["replayed"] <= 1000
        for _ in range(12 - [e["type"] for e in client.events].count("response.done")):
            assert (await client.answer(60))["status"] == "completed"
        client.order.finished()
