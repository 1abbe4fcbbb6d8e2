"""PostgreSQL: what the services write and read, tenants apart, and the end of a long conversation at once.

Runs against whatever DATABASE_URL names; the workspaces it makes are its own.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from apps.agents.models import Agent
from apps.agents.selectors import agent_for_session
from apps.audit.models import AuditEntry
from apps.audit.services import audit_record
from apps.common.actors import SYSTEM
from apps.conversations.models import Item, TurnTrace, VoiceSession
from apps.conversations.services import item_save, trace_save, voice_session_close, voice_session_open
from apps.onboarding.services import workspace_create
from apps.tenants.context import NoTenantBound, bound, bound_public, in_tenant
from apps.tenants.models import Tenant
from apps.tenants.services import tenant_close, tenant_erase

LAST, OF, BAR_MS = 100, 5000, 100


@pytest.fixture(scope="module")
def tenants(database) -> list[Tenant]:
    with bound_public():
        return [workspace_create(name=word, slug=f"{word}-{time.time_ns() % 10**10}") for word in ("alpha", "beta")]


@pytest.fixture
def tenant(tenants):
    with bound(tenants[0]):
        yield tenants[0]


def message(text: str, number: int = 0) -> dict:
    return {"id": f"item_{number}", "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def open_session(name: str) -> str:
    session_id = f"sess_{name}_{time.time_ns()}"
    voice_session_open(session_id=session_id, agent_id="agt_x", agent_version=1, key_id="key_x", model="default", client="tests")
    return session_id


def test_a_session_is_opened_filled_and_closed_and_each_step_may_be_repeated(tenant):
    session_id = open_session("life")
    voice_session_open(session_id=session_id, agent_id="other", agent_version=2, key_id="key_y", model="x", client="y")
    for text in ("first", "second"):
        item_save(session_id=session_id, item=message(text), previous_item_id=None)
    turn = {"turn_id": f"turn_{session_id}", "response_id": "resp_1", "user_item_id": "item_0", "status": "completed", "reason": "",
            "segments": [("stt", 40.0), ("llm", 5.0)]}  # fmt: skip
    for _ in range(2):
        trace_save(session_id=session_id, turn=turn)
        voice_session_close(session_id=session_id, reason="client")
    row = VoiceSession.objects.get(pk=session_id)
    assert (row.agent_id, row.state, row.close_reason) == ("agt_x", "closed", "client")
    assert [i.item["content"][0]["text"] for i in row.items.all()] == ["second"]
    assert [(t.first_ms, t.segments) for t in TurnTrace.objects.filter(session=row)] == [(45.0, [["stt", 40.0], ["llm", 5.0]])]


def test_text_of_any_kind_is_kept_as_it_was(tenant):
    session_id = open_session("text")
    text = "ü 漢字 🎙 \" ' \\ %s {} \u200b" + "x" * 100_000
    item_save(session_id=session_id, item=message(text + "\0"), previous_item_id=None)
    assert Item.objects.get(session_id=session_id).item["content"][0]["text"] == text  # PostgreSQL keeps no NUL


def test_a_transaction_that_fails_leaves_nothing(tenant):
    before = AuditEntry.objects.count()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        audit_record(actor=SYSTEM, action="test.undone", target="x")
        raise ZeroDivisionError
    assert AuditEntry.objects.count() == before


def test_rules_are_kept_by_the_database_itself(tenant):
    session_id = open_session("rules")
    Item.objects.create(session_id=session_id, item_id="once", type="message", item={})
    with pytest.raises(IntegrityError), transaction.atomic():
        Item.objects.create(session_id=session_id, item_id="once", type="message", item={})
    with pytest.raises(IntegrityError), transaction.atomic():  # one default agent
        Agent.objects.create(name="second", is_default=True)
    audit_record(actor=SYSTEM, action="test.kept", target="x")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEntry.objects.all().update(action="changed")


def test_one_row_is_written_by_many_at_once(tenant):
    session_id = open_session("race")

    def write(number: int) -> None:
        with bound(tenant):
            item_save(session_id=session_id, item=message(str(number), 7), previous_item_id=None)
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert Item.objects.filter(session_id=session_id).count() == 1


def test_the_last_hundred_items_of_a_long_conversation_are_there_at_once(tenant):
    session_id = open_session("long")
    words = "a sentence of some length, as people say it " * 4
    Item.objects.bulk_create([Item(session_id=session_id, item_id=f"item_{n}", type="message", role="user", item=message(words, n)) for n in range(OF)])
    times = []
    for _ in range(20):
        began = time.perf_counter()
        rows = list(Item.objects.filter(session_id=session_id).order_by("-id")[:LAST])
        times.append((time.perf_counter() - began) * 1000)
    assert [r.item_id for r in rows] == [f"item_{OF - 1 - n}" for n in range(LAST)]
    assert statistics.median(times) < BAR_MS, times
    plan = connection.cursor()
    plan.execute("EXPLAIN SELECT * FROM conversations_item WHERE session_id = %s ORDER BY id DESC LIMIT 100", [session_id])
    assert "Seq Scan" not in str(plan.fetchall())


def test_each_tenant_sees_its_own_rows_and_no_other(tenants):
    for tenant in tenants:
        with bound(tenant):
            item_save(session_id=open_session("own"), item=message(f"canary {tenant.id}"), previous_item_id=None)
    for mine, other in (tenants, tenants[::-1]):
        with bound(mine):
            text = str(list(Item.objects.values_list("item", flat=True)))
            assert f"canary {mine.id}" in text and f"canary {other.id}" not in text
            assert agent_for_session().agent_id != _agent(other)


def _agent(tenant: Tenant) -> str:
    with bound(tenant):
        return agent_for_session().agent_id


async def test_the_asynchronous_door_binds_for_one_call_only(tenants):
    def read() -> list[str]:
        return list(Agent.objects.values_list("id", flat=True))

    first, second = await in_tenant(tenants[0], read), await in_tenant(tenants[1], read)
    assert first and second and not set(first) & set(second)
    with pytest.raises(NoTenantBound):
        await Agent.objects.acount()


def test_nothing_bound_reads_nothing_and_public_has_no_tenants_tables(database):
    with pytest.raises(NoTenantBound):
        Item.objects.count()
    with bound_public(), pytest.raises(DatabaseError, match="conversations_item"):
        Item.objects.count()


def test_what_is_erased_is_gone_and_the_others_stay(tenants):
    with bound_public():
        gone = workspace_create(name="Gone", slug=f"gone-{time.time_ns() % 10**10}")
        tenant_close(tenant=gone, actor=SYSTEM)
        tenant_erase(tenant=gone, actor=SYSTEM)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_schema = %s", [gone.schema_name])
            assert cursor.fetchone() == (0,)
        assert AuditEntry.objects.filter(target=gone.id, action="tenant.erased").exists()
    with bound(tenants[0]):
        assert Agent.objects.exists()
