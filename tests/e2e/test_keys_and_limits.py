"""Client secrets, limits and endings as a connected client meets them."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from asgiref.sync import sync_to_async
from openai import AsyncOpenAI

from apps.agents.models import Agent
from apps.apikeys.models import ApiKey
from apps.apikeys.services import api_key_issue, api_key_revoke
from apps.common.actors import SYSTEM
from apps.conversations.models import VoiceSession
from apps.conversations.services import voice_session_end
from apps.tenants.context import bound, bound_public
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_override, tenant_suspend
from tests.e2e.client import Client, Refused


def public(function):
    """Run a database function in a thread with the public schema bound."""

    def inside(*args, **kwargs):
        with bound_public():
            return function(*args, **kwargs)

    return sync_to_async(inside, thread_sensitive=False)


@pytest.fixture
def own(stack):
    """(tenant, key) of the test's own."""
    return stack.new_tenant("limits")


def mint(stack, secret: str, **body) -> httpx.Response:
    return httpx.post(f"{stack.base_url}/v1/realtime/client_secrets", headers={"Authorization": f"Bearer {secret}"}, json=body)


async def test_a_client_secret_opens_the_session_it_was_made_for(stack, own):
    answer = mint(stack, own[1], expires_after={"anchor": "created_at", "seconds": 60}, session={"type": "realtime", "instructions": "Be a pirate.", "audio": {"output": {"voice": "ash"}}})
    made = answer.json()
    assert answer.status_code == 200 and made["value"].startswith("ek_") and 0 < made["expires_at"] - time.time() <= 61
    assert made["session"]["instructions"] == "Be a pirate." and made["session"]["object"] == "realtime.session"
    async with AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=made["value"]).realtime.connect(model="default") as connection:
        created = await connection.recv()
        assert created.session.instructions == "Be a pirate." and created.session.audio.output.voice == "ash"
    assert mint(stack, made["value"]).status_code == 401  # only a real key may mint


async def test_client_secrets_are_refused_when_they_should_be(stack, own):
    assert mint(stack, own[1], expires_after={"seconds": 5}).status_code == 400
    assert mint(stack, own[1], session={"type": "realtime", "audio": {"output": {"voice": "nobody"}}}).json()["error"]["param"] == "session.audio.output.voice"
    assert mint(stack, own[1], session={"type": "other"}).status_code == 400
    assert mint(stack, "vv_wrong").status_code == 401
    short = mint(stack, own[1], expires_after={"seconds": 10}).json()["value"]
    await asyncio.sleep(10.5)
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, short)
    assert refused.value.status == 401 and refused.value.code == "ephemeral_key_expired"


async def test_revoking_a_key_ends_its_sessions_and_those_of_its_secrets(stack, own):
    secret = mint(stack, own[1]).json()["value"]
    first, second = await Client.connect(stack.realtime, own[1]), await Client.connect(stack.realtime, secret)
    began = time.monotonic()
    key = await public(lambda: ApiKey.objects.select_related("tenant").get(prefix=own[1][3:11]))()
    await public(api_key_revoke)(key=key, actor=SYSTEM)
    for client in (first, second):
        await asyncio.wait_for(client.socket.wait_closed(), 5)
        assert client.socket.close_code == 1008
    assert time.monotonic() - began < 5
    for dead in (own[1], secret):
        with pytest.raises(Refused):
            await Client.connect(stack.realtime, dead)


async def test_suspending_a_workspace_ends_every_session(stack, own):
    clients = [await Client.connect(stack.realtime, own[1]) for _ in range(10)]
    began, times = time.monotonic(), []
    await public(tenant_suspend)(tenant=own[0], reason="unpaid", actor=SYSTEM)
    for client in clients:
        await asyncio.wait_for(client.socket.wait_closed(), 5)
        times.append(time.monotonic() - began)
    assert max(times) < 5
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, own[1])
    assert refused.value.status == 403 and refused.value.code == "account_deactivated"


async def test_a_lost_message_does_not_keep_a_revoked_key_alive(stack, own):
    """The row alone says so: the patrol of the gateway sees it."""
    client = await Client.connect(stack.realtime, own[1])
    await public(lambda: Tenant.objects.filter(pk=own[0].pk).update(status="suspended"))()
    await asyncio.wait_for(client.socket.wait_closed(), 8)


async def test_fifty_racing_clients_never_hold_more_sessions_than_allowed(stack, own):
    await public(tenant_override)(tenant=own[0], limits={"concurrent_sessions": 7}, plan="", until=None, actor=SYSTEM)

    async def race():
        try:
            return await Client.connect(stack.realtime, own[1])
        except Refused as refused:
            assert refused.status == 429 and refused.code == "session_limit_reached" and int(refused.headers["retry-after"]) > 0
            return None

    held = [c for c in await asyncio.gather(*(race() for _ in range(50))) if c]
    assert len(held) == 7
    await held.pop().close()
    await asyncio.sleep(0.5)
    async with await Client.connect(stack.realtime, own[1]):
        with pytest.raises(Refused):
            await Client.connect(stack.realtime, own[1])


async def test_fifty_racing_requests_never_pass_the_limit(stack, own):
    await public(tenant_override)(tenant=own[0], limits={"requests_per_minute": 13}, plan="", until=None, actor=SYSTEM)
    async with httpx.AsyncClient(base_url=stack.base_url, headers={"Authorization": f"Bearer {own[1]}"}) as client:
        answers = await asyncio.gather(*(client.get("/v1/models") for _ in range(50)))
    good = [a for a in answers if a.status_code == 200]
    assert len(good) == 13 and all(a.status_code == 429 for a in answers if a not in good)
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded" and 0 < int(refused.headers["retry-after"]) <= 61
    assert min(int(a.headers["x-ratelimit-remaining"]) for a in good) == 0


async def test_responses_of_many_sessions_share_the_tenants_limit(stack, own):
    """And a limit that changes counts without reconnecting."""
    clients = [await Client.connect(stack.realtime, own[1]) for _ in range(10)]
    await public(tenant_override)(tenant=own[0], limits={"requests_per_minute": 6}, plan="", until=None, actor=SYSTEM)
    await asyncio.sleep(4)

    async def ask(client):
        await client.type("what is two plus three", output_modalities=["text"])
        return await client.answer(30)

    done = await asyncio.gather(*(ask(c) for c in clients))
    assert [d["status"] for d in done].count("completed") == 6
    failed = next(d for d in done if d["status"] == "failed")
    assert failed["status_details"]["error"]["code"] == "rate_limit_exceeded"
    for client in clients:
        await client.close()


async def test_audio_minutes_and_tokens_are_limited(stack, own):
    await public(tenant_override)(tenant=own[0], limits={"audio_minutes_per_day": 0, "tokens_per_minute": 1}, plan="", until=None, actor=SYSTEM)
    async with await Client.connect(stack.realtime, own[1]) as client:
        await client.send("session.update", session={"audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": False}}}})
        await client.speak("samples/question.wav")
        failed = await client.wait("conversation.item.input_audio_transcription.failed")
        assert failed["error"]["code"] == "insufficient_quota"
        await client.type("hello", output_modalities=["text"])
        first = await client.answer(30)
        assert first["status"] == "completed"  # nothing was used before it
        await asyncio.sleep(0.5)
        await client.type("hello", output_modalities=["text"])
        assert (await client.answer(30))["status_details"]["error"]["code"] == "rate_limit_exceeded"


async def test_a_killed_gateway_frees_its_places(stack, own):
    await public(tenant_override)(tenant=own[0], limits={"concurrent_sessions": 2}, plan="", until=None, actor=SYSTEM)
    url, process = stack.extra_gateway()
    for _ in range(2):
        await Client.connect(url, own[1])
    with pytest.raises(Refused):
        await Client.connect(stack.realtime, own[1])
    process.kill()
    began = time.monotonic()
    while True:
        try:
            client = await Client.connect(stack.realtime, own[1])
            break
        except Refused:
            assert time.monotonic() - began < 15
            await asyncio.sleep(0.5)
    await client.close()


async def test_origins_of_a_key(stack, own):
    _, secret = await public(api_key_issue)(tenant=own[0], name="web", actor=SYSTEM, allowed_origins=["https://app.example.com"])
    async with await Client.connect(stack.realtime, secret, origin="https://app.example.com"):
        pass
    async with await Client.connect(stack.realtime, secret):  # no browser
        pass
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, secret, origin="https://evil.example.com")
    assert refused.value.status == 403 and refused.value.code == "origin_not_allowed"


@pytest.fixture
def other(stack):
    """(key, agent) of somebody else."""
    tenant, key = stack.new_tenant("others")
    with bound(tenant):
        return key, Agent.objects.values_list("id", flat=True).get()


async def test_ids_of_others_are_unknown_on_the_socket(stack, own, other):
    """Items, agents and prompts of another workspace: as if they did not exist."""
    key, theirs = other
    async with await Client.connect(stack.realtime, key) as foreign:
        await foreign.send("conversation.item.create", item={"id": "item_theirs", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "secret"}]})
        await foreign.wait("conversation.item.done")
        async with await Client.connect(stack.realtime, own[1]) as client:
            for event in ("retrieve", "delete", "truncate"):
                more = {"content_index": 0, "audio_end_ms": 0} if event == "truncate" else {}
                await client.send(f"conversation.item.{event}", item_id="item_theirs", **more)
                error = await client.error()
                assert error["code"] == f"item_{event}_invalid_item_id" and "secret" not in str(error)
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, own[1], f"assistant={theirs}")
    assert refused.value.status == 404
    assert mint(stack, own[1], session={"type": "realtime", "prompt": {"id": theirs}}).status_code == 404


async def test_a_session_ended_in_the_portal_says_goodbye_in_its_voice(stack, own):
    tenant, key = own

    def end(session_id: str) -> None:
        with bound(tenant):
            voice_session_end(session=VoiceSession.objects.get(pk=session_id), actor=SYSTEM)

    async with Client(stack.realtime, key) as client:
        await client.type("hello")
        await client.answer()
        before = len(client.audio())
        await sync_to_async(end, thread_sensitive=False)(client.events[0]["session"]["id"])
        done = await client.answer()
        assert done["status"] == "completed" and "Goodbye" in done["output"][0]["content"][0]["transcript"]
        assert len(client.audio()) - before > 48000  # more than a second of speech
        assert (await client.error())["code"] == "session_ended"
        await client.socket.wait_closed()
        assert client.socket.close_code == 1008


async def test_events_too_many_and_too_large_are_dropped_by_name_and_the_session_stays(stack, own):
    await public(tenant_override)(tenant=own[0], limits={"events_per_second": 5, "frame_kib": 32}, plan="", until=None, actor=SYSTEM)
    async with await Client.connect(stack.realtime, own[1]) as client:
        for n in range(54):  # ten seconds' worth at once, then no more
            await client.send("input_audio_buffer.clear", event_id=f"e{n}")
        dropped = await client.wait("error")
        assert dropped["error"]["code"] == "rate_limit_exceeded" and dropped["error"]["type"] == "rate_limit_error"
        assert int(dropped["error"]["event_id"][1:]) >= 50
        await asyncio.sleep(2)
        await client.append(bytes(48 * 1000))  # 62 KiB of base64
        large = (await client.wait("error"))["error"]
        while large["code"] == "rate_limit_exceeded":
            large = (await client.wait("error"))["error"]
        assert large["code"] == "invalid_value" and "at most 32" in large["message"]
        await client.type("what is seven plus five")
        assert (await client.answer())["status"] == "completed"
