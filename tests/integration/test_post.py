"""One connection to Redis for many tasks: everybody has their own reply, whoever else fails, is cancelled or comes late."""

from __future__ import annotations

import asyncio
import functools
import os

import pytest
import redis

from config.redis import connect_async
from voice.bus.post import CONNECTION_ERRORS, MUTE_S, Post


@pytest.fixture
async def post(servers):
    made = Post(functools.partial(connect_async, os.environ["REDIS_URL"]), timeout_s=2)
    yield made
    await made.close()


def echo(post: Post, *values: int) -> asyncio.Task:
    return asyncio.create_task(post.ask(*(("ECHO", value) for value in values)))


async def test_each_asker_has_its_own_replies_in_their_order(post):
    found = await asyncio.gather(*(echo(post, n, n + 1000) for n in range(200)))
    assert found == [[b"%d" % n, b"%d" % (n + 1000)] for n in range(200)]


async def test_what_redis_refuses_is_the_error_of_who_asked_it(post):
    good, bad, last = echo(post, 1), asyncio.create_task(post.ask(("ECHO", 2), ("NO_SUCH_COMMAND",))), echo(post, 3)
    with pytest.raises(redis.ResponseError):
        await bad
    assert await good == [b"1"] and await last == [b"3"]


@pytest.mark.parametrize("first", [True, False], ids=["who goes there itself", "who waits for the next trip"])
async def test_who_is_cancelled_takes_nobody_with_it(post, first):
    await echo(post, 0)
    slow = asyncio.create_task(post.ask(("BLPOP", "test:no_such_list", 1)))
    gone = slow if first else echo(post, 1)
    others = [echo(post, n) for n in range(2, 20)]
    await asyncio.sleep(0.05)
    gone.cancel()
    assert await asyncio.wait_for(asyncio.gather(*others), 5) == [[b"%d" % n] for n in range(2, 20)]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_connection_that_is_lost_is_made_again(post):
    (own,) = await post.ask(("CLIENT", "ID"))
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as other:
        other.client_kill_filter(_id=own)
    found = await asyncio.gather(*(echo(post, n) for n in range(5)))
    assert found == [[b"%d" % n] for n in range(5)] and (await post.ask(("CLIENT", "ID")))[0] != own


async def test_a_redis_that_does_not_answer_is_an_error_in_time_for_all_who_wait(servers):
    post = Post(functools.partial(connect_async, os.environ["REDIS_URL"]), timeout_s=0.3, retries=0)
    await echo(post, 0)
    slow = asyncio.create_task(post.ask(("BLPOP", "test:no_such_list", 5)))
    await asyncio.sleep(0)
    waits = asyncio.create_task(post.ask(("BLPOP", "test:no_such_list", 5)))
    for task in (slow, waits):
        with pytest.raises(CONNECTION_ERRORS):
            await asyncio.wait_for(task, 5)
    assert await echo(post, 1) == [b"1"]
    await post.close()


async def test_a_redis_that_does_not_answer_is_noticed_before_it_is_an_error(servers):
    post = Post(functools.partial(connect_async, os.environ["REDIS_URL"]), timeout_s=5)
    await echo(post, 0)
    assert not post.mute(lately_s=60)
    slow = asyncio.create_task(post.ask(("BLPOP", "test:no_such_list", MUTE_S + 0.5)))
    await asyncio.sleep(MUTE_S - 0.3)
    assert not post.mute()
    await asyncio.sleep(0.5)
    assert post.mute()
    await slow
    assert not post.mute() and post.mute(lately_s=1)
    await post.close()


async def test_an_answer_that_cannot_be_read_is_the_error_of_all_who_wait_for_it():
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):  # the login is answered well
            writer.write(b"?\r\n" if b"ECHO" in data else b"+OK\r\n" * (b"\r\n" + data).count(b"\r\n*"))
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    post = Post(functools.partial(connect_async, f"redis://127.0.0.1:{port}/0?protocol=2"), timeout_s=2, retries=0)
    asked = [echo(post, n) for n in range(3)]
    for task in asked:
        with pytest.raises(redis.InvalidResponse):
            await asyncio.wait_for(task, 5)
    await post.close()
    server.close()
    await server.wait_closed()


async def test_who_waits_when_it_is_closed_is_cancelled(servers):
    post = Post(functools.partial(connect_async, os.environ["REDIS_URL"]), timeout_s=20, retries=3)
    await echo(post, 0)
    tasks = [asyncio.create_task(post.ask(("BLPOP", "test:no_such_list", 10))) for _ in range(3)]
    await asyncio.sleep(0.05)
    await post.close()
    done, _ = await asyncio.wait(tasks, timeout=5)
    assert len(done) == 3 and all(task.cancelled() for task in done)
