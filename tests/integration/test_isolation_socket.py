"""The socket: every client event x {own, other, none}, generated from the table of events. An event without a row fails the test.

Mine asks with the ids of theirs, which are live at the time; no frame, log line or value in Redis may carry their canary to it.
"""

from __future__ import annotations

import os

import pytest
import redis

from apps.apikeys.services import SCOPES, api_key_issue
from apps.common.actors import SYSTEM
from apps.tenants.context import bound, bound_public
from tests.e2e.client import Client, Refused
from tests.houses import contents
from voice.core.events import CLIENT_EVENTS

SCOPE = "realtime:connect"
TEXT = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
# event -> (its fields, what it is answered with when the ids in it are one's own, and when they are another's); "" = no answer
EVENTS = {
    "session.update": (lambda ids: {"session": {"type": "realtime", "prompt": {"id": ids["agent"]}}}, "session.updated", "error"),
    "input_audio_buffer.append": (lambda ids: {"audio": "AAAA"}, "", ""),
    "input_audio_buffer.commit": (lambda ids: {}, "error", "error"),  # nothing to commit
    "input_audio_buffer.clear": (lambda ids: {}, "input_audio_buffer.cleared", "input_audio_buffer.cleared"),
    "conversation.item.create": (lambda ids: {"item": TEXT, "previous_item_id": ids["item"]}, "conversation.item.done", "error"),
    "conversation.item.retrieve": (lambda ids: {"item_id": ids["item"]}, "conversation.item.retrieved", "error"),
    "conversation.item.truncate": (lambda ids: {"item_id": ids["item"], "content_index": 0, "audio_end_ms": 0}, "error", "error"),  # a user's item
    "conversation.item.delete": (lambda ids: {"item_id": ids["item"]}, "conversation.item.deleted", "error"),
    "response.create": (lambda ids: {"response": {"conversation": "none", "output_modalities": ["text"],
                                                  "input": [{"type": "item_reference", "id": ids["item"]}]}}, "response.done", "error"),
    "response.cancel": (lambda ids: {"response_id": ids["response"]}, "error", "error"),  # over already
    "output_audio_buffer.clear": (lambda ids: {}, "", ""),
}  # fmt: skip


def test_every_event_has_a_row():
    assert set(EVENTS) == set(CLIENT_EVENTS)


class Party:
    """A workspace with a canary in its agent and a live conversation."""

    def __init__(self, stack, word: str):
        from apps.agents.models import Agent
        from apps.agents.services import agent_publish, draft_save

        self.tenant, self.secret = stack.new_tenant(word)
        self.canary = f"canary-{word}-{self.tenant.id}"
        with bound(self.tenant):
            agent = Agent.objects.get()
            draft_save(agent=agent, actor=SYSTEM, tool_hosts=[], instructions=f"Answer briefly. {self.canary}")
            agent_publish(agent=agent, actor=SYSTEM)
        self.ids = {"agent": agent.id}
        self.url = stack.realtime

    async def talk(self) -> Client:
        client = await Client.connect(self.url, self.secret)
        self.ids |= {"item": f"item_{self.tenant.id[-20:]}", "session": client.events[0]["session"]["id"]}
        item = {"id": self.ids["item"], "type": "message", "role": "user", "content": [{"type": "input_text", "text": f"hello {self.canary}"}]}
        await client.send("conversation.item.create", item=item)
        await client.send("response.create", response={"output_modalities": ["text"]})
        self.ids["response"] = (await client.wait("response.done"))["response"]["id"]
        await client.wait("rate_limits.updated")
        return client


@pytest.fixture(scope="module")
def parties(stack):
    return Party(stack, "mine"), Party(stack, "theirs")


async def settle(client: Client) -> list[dict]:
    """What came since the last call: an event that is always answered tells that all before it was."""
    before = len(client.events)
    await client.send("session.update", session={"type": "realtime", "instructions": "."}, event_id="settle")
    while (await client.next())["type"] != "session.updated" or client.events[-1]["session"]["instructions"] != ".":
        pass
    return client.events[before:-1]


async def answer(client: Client, kinds: set[str]) -> str:
    """The type of the next event that is one of these."""
    while (event := await client.next())["type"] not in kinds:
        pass
    return event["type"]


@pytest.mark.parametrize("event", EVENTS)
async def test_an_event_reaches_only_its_own_session(parties, event):
    mine, theirs = parties
    fields, own, foreign = EVENTS[event]
    async with await theirs.talk() as other:
        for party, expected in ((mine, own), (theirs, foreign)):
            async with await mine.talk() as client:
                await client.send(event, **fields(party.ids))
                if expected:
                    assert (await answer(client, {*own.split("|"), foreign})) in expected.split("|"), (event, client.events[-1])
                await settle(client)
                assert theirs.canary not in str(client.events), (event, "frames")
        heard = await settle(other)
        assert heard == [] and mine.canary not in str(other.events)
        await other.send("conversation.item.retrieve", item_id=theirs.ids["item"])
        assert theirs.canary in str(await other.wait("conversation.item.retrieved"))  # still there, unharmed


async def test_addresses_in_the_query_reach_only_ones_own(parties):
    """An agent, a session to resume or a conversation of another workspace is unknown, or a new session begins."""
    mine, theirs = parties
    async with await theirs.talk():
        for query in (f"assistant={theirs.ids['agent']}", f"session_id={theirs.ids['session']}", f"conversation_id={theirs.ids['session']}"):
            try:
                async with await Client.connect(mine.url, mine.secret, query) as client:
                    assert client.events[0]["session"]["id"] != theirs.ids["session"] and theirs.canary not in str(client.events)
            except Refused as refused:
                assert refused.status == 404


@pytest.fixture
def keys(parties):
    """scope -> a key with nothing else."""
    with bound_public():
        return {scope: api_key_issue(tenant=parties[0].tenant, name=scope, scopes=[scope], actor=SYSTEM)[1] for scope in SCOPES}


async def test_the_door_asks_for_the_scope(parties, keys):
    mine, _ = parties
    for scope, secret in keys.items():
        if scope == SCOPE:
            async with await Client.connect(mine.url, secret):
                continue
        with pytest.raises(Refused) as refused:
            await Client.connect(mine.url, secret)
        assert refused.value.status == 403 and refused.value.code == "insufficient_scope"
    for nobody in ("", "vv_wrong", "vo_wrong", "a.b.c"):
        with pytest.raises(Refused) as refused:
            await Client.connect(mine.url, nobody)
        assert refused.value.status == 401


def test_no_canary_of_another_in_logs_and_redis(parties, stack):
    mine, theirs = parties
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    for key in client.scan_iter(count=1000):
        for text in contents(client, key):
            assert not (mine.canary in text and theirs.canary in text), key
    for path in stack.folder.glob("*.log"):
        text = path.read_text(errors="replace")
        assert mine.canary not in text and theirs.canary not in text, path.name
