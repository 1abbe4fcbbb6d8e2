"""Fifty live sessions race one spend cap: all end aloud, and the ledger has used it to the last second, never more."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta

import pytest
from websockets.exceptions import ConnectionClosed

from apps.accounts.models import User
from apps.common.actors import SYSTEM
from apps.tenants.context import in_public, in_tenant
from apps.teams.models import Membership, Role
from apps.usage import accounts, rollups
from apps.usage.models import Reservation
from apps.usage.money import line_micros
from apps.usage.reservations import reserve
from tests.e2e.client import Client, Refused

SESSIONS = 50
RATE = (1_000_000, 60_000)  # a euro a minute of a session
CAP_S = 400


async def test_fifty_live_sessions_race_one_cap(stack, default_worker, mailbox):
    tenant, secret = await asyncio.to_thread(stack.new_tenant, "capped")
    address = f"owner-{os.getpid()}@example.com"
    now = datetime.now(UTC)
    cap = line_micros(CAP_S * 1000, RATE)

    def prepare() -> None:
        accounts.account_set_terms(currency="eur", period_start=now, period_end=now + timedelta(days=30), rates={"session_ms": RATE}, included={})
        accounts.account_set_cap(cap_micros=cap, alerts=[50, 100], actor=SYSTEM)

    await in_public(lambda: Membership.objects.create(tenant=tenant, user=User.objects.create_user(email=address, password=None), role=Role.OWNER))
    await in_tenant(tenant, prepare)
    clients: list[Client] = []
    ends = []

    async def talk(number: int) -> None:
        try:
            client = await Client.connect(stack.realtime, secret)
        except Refused as refused:  # the machine is slow, and the cap was reached before it came
            assert (refused.status, refused.code) == (429, "insufficient_quota")
            return
        clients.append(client)
        if number == 0:
            await client.type("tell me a story")
        with pytest.raises(ConnectionClosed):
            while True:
                await client.next(timeout_s=90)
        ends.append((client.socket.close_code, client.events[-1]["type"], client.events[-1].get("error", {}).get("code")))

    await asyncio.gather(*(talk(n) for n in range(SESSIONS)))
    assert len(ends) > SESSIONS // 2 and set(ends) == {(1008, "error", "billing_hard_limit_reached")}
    for client in clients:
        last = [e["response"] for e in client.events if e["type"] == "response.done"][-1]
        assert last["status"] == "completed" and "budget" in last["output"][0]["content"][0]["transcript"]
    with pytest.raises(Refused) as refused:
        await Client.connect(stack.realtime, secret)
    assert (refused.value.status, refused.value.code) == (429, "insufficient_quota")

    def look():
        rollups.roll()
        left = Reservation.objects.count()  # first: others roll meanwhile, and none left now is none held afterwards
        return left, accounts.account_spend(), rollups.differences()

    for _ in range(100):  # the last writes are on their way
        left, spend, differences = await in_tenant(tenant, look)
        if not left:
            break
        await asyncio.sleep(0.1)
    assert differences == [] and left == 0 and spend.held_micros == 0
    assert cap - line_micros(1000, RATE) <= spend.spent_micros <= cap
    assert "100 %" in await asyncio.to_thread(mailbox.wait, address, "100 %")
    assert len(mailbox.of(address)) <= 2  # each share once

    def more() -> bool:
        return reserve(session_id="sess_more", units={"session_ms": 1000})

    assert not await in_tenant(tenant, more)
