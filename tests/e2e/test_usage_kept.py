"""What clients heard is in the ledger, once, though the gateway is killed with -9 as they hear it."""

from __future__ import annotations

import asyncio
import contextlib
import random

from websockets.exceptions import ConnectionClosed

from apps.conversations.models import TurnTrace, VoiceSession
from apps.tenants.context import in_tenant
from apps.usage import journal, rollups
from apps.usage.models import UsageEntry
from tests.e2e.client import Client

SESSIONS, TURNS = 6, 9


async def test_every_turn_a_client_was_told_of_is_in_the_ledger_after_kill_9(stack):
    tenant, secret = await asyncio.to_thread(stack.new_tenant, "kept")
    url, gateway = await asyncio.to_thread(stack.extra_gateway)
    heard = {"tokens_in": 0, "tokens_out": 0, "audio_out_ms": 0}
    turns = 0

    async def talk(client: Client) -> None:
        nonlocal turns
        with contextlib.suppress(ConnectionClosed):
            async with client:
                for _ in range(TURNS):
                    before = len(client.audio())
                    await client.type("what is two plus two")
                    usage = (await client.answer())["usage"]
                    heard["tokens_in"] += usage["input_token_details"]["text_tokens"]
                    heard["tokens_out"] += usage["output_token_details"]["text_tokens"]
                    heard["audio_out_ms"] += (len(client.audio()) - before) // 48
                    turns += 1
                    if turns == SESSIONS * TURNS // 2:
                        gateway.kill()  # the ledger has not this turn yet, nor perhaps the last of others

    clients = [await Client.connect(url, secret) for _ in range(SESSIONS)]
    ids = [c.events[0]["session"]["id"] for c in clients]
    await asyncio.wait_for(asyncio.gather(*(talk(c) for c in clients)), 90)
    assert turns >= SESSIONS * TURNS // 2 and gateway.wait(5)

    def replay() -> int:
        with contextlib.closing(journal.connection()) as redis:
            return journal.replay(redis, older_than_s=0) + journal.close_lost(redis, older_than_s=random.choice([0, 0.001]))

    written = await asyncio.to_thread(replay)
    assert written >= SESSIONS  # the ends of the sessions at least

    def look():
        sessions = VoiceSession.objects.filter(pk__in=ids)
        assert {(s.state, s.close_reason) for s in sessions} == {("closed", "lost")}
        lasted = {s.pk: s.session_ms for s in sessions}
        of_session = {}
        for session_id, units in UsageEntry.objects.filter(meter="session_ms").values_list("session_id", "quantity"):
            of_session[session_id] = of_session.get(session_id, 0) + units
        assert of_session == lasted and all(lasted.values())
        rollups.roll()
        return rollups.totals(), rollups.differences()

    totals, differences = await in_tenant(tenant, look)
    # a turn may be written whose end its client did not learn of any more, at most one a session; a response cut in its middle is not billed
    assert all(totals[m] >= units for m, units in heard.items()) and differences == []
    assert turns <= await in_tenant(tenant, TurnTrace.objects.count) <= turns + SESSIONS
    assert await asyncio.to_thread(replay) == 0 and await in_tenant(tenant, look) == (totals, [])
