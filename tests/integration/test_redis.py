"""Redis: the places of live sessions with their time to live, heartbeats, and sliding-window limits that cost under 5 ms.

Runs against whatever REDIS_URL and the gateway's addresses name.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from asgiref.sync import sync_to_async

from apps.common.errors import InsufficientQuota, RateLimited, SessionLimitReached
from apps.usage.limits import SLOT_TTL_S, Level, Limiter
from config.redis import connect
from tests.e2e.client import Client

BAR_MS = 5


@pytest.fixture
def client(servers):
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@pytest.fixture
def limiter(servers):
    return limiter_at(os.environ["REDIS_URL"])


def limiter_at(url: str) -> Limiter:
    return Limiter(url, functools.partial(connect, url))


def level(**values: int) -> tuple[Level]:
    return (Level(f"test-{time.time_ns()}", values),)


# Sessions


async def test_a_live_session_holds_a_place_that_ends_with_it(stack, client):
    tenant, secret = await sync_to_async(stack.new_tenant, thread_sensitive=False)("places")
    key = f"limits:sessions:{tenant.id}"
    async with await Client.connect(stack.realtime, secret) as socket:
        session_id = socket.events[0]["session"]["id"]
        ends = client.zscore(key, session_id)
        assert 0 < ends - time.time() <= SLOT_TTL_S and 0 < client.ttl(key) <= 60
        await asyncio.sleep(4)
        assert client.zscore(key, session_id) > ends  # its gateway says that it lives
    for _ in range(50):
        if client.zscore(key, session_id) is None:
            break
        await asyncio.sleep(0.1)
    assert client.zscore(key, session_id) is None


def test_a_place_nobody_renews_is_free_after_its_time(limiter, client):
    levels = level(concurrent_sessions=1)
    limiter.enter(levels, "sess_lost")
    with pytest.raises(SessionLimitReached):
        limiter.enter(levels, "sess_new")
    client.zadd(f"limits:sessions:{levels[0].id}", {"sess_lost": time.time() - 0.001})  # as if SLOT_TTL_S had passed
    limiter.enter(levels, "sess_new")
    assert limiter.live_ids(levels[0].id) == {"sess_new"} and limiter.live(levels[0].id) == 1
    limiter.leave(levels, "sess_new")
    assert limiter.live(levels[0].id) == 0


def test_state_of_sessions_and_jobs_does_not_outlive_its_use(stack, client):
    """Whatever is kept for a session (`{sess_…}…`) has a time to live: a crash leaves nothing for ever."""
    async def talk() -> str:
        async with await Client.connect(stack.realtime, secret) as socket:
            await socket.type("what is two plus three", output_modalities=["text"])
            await socket.answer(30)
            return socket.events[0]["session"]["id"]

    _, secret = stack.new_tenant("state")
    session_id = asyncio.run(talk())
    keys = list(client.scan_iter(f"*{session_id}*", count=1000))
    assert all(client.ttl(key) > 0 for key in keys), [k for k in keys if client.ttl(k) <= 0]


async def test_the_sound_of_an_utterance_goes_once_its_text_is_known(stack, client):
    _, secret = await sync_to_async(stack.new_tenant, thread_sensitive=False)("sound")
    async with await Client.connect(stack.realtime, secret) as socket:
        await socket.speak("samples/question.wav")
        session_id = socket.events[0]["session"]["id"]
        assert (await socket.answer(30))["status"] == "completed"
        until, left = time.monotonic() + 5, [b""]
        while left and time.monotonic() < until:
            left = [key for key in client.scan_iter(f"*{session_id}*:in:*", count=1000) if client.ttl(key) > 60]  # those of cancelled jobs go within 60 s
            await asyncio.sleep(0.1)
        assert not left


# Heartbeats


def test_each_worker_says_every_second_that_it_lives(stack, client):
    for stage in ("stt", "llm", "tts"):
        keys = list(client.scan_iter(f"voice:worker:{stage}:*", count=1000))
        assert keys, f"no {stage} worker"
        state = json.loads(client.get(keys[0]))
        assert state["stage"] == stage and state["slots"] >= state["busy"] >= 0 and 0 < client.ttl(keys[0]) <= 3
        until = time.monotonic() + 5
        while json.loads(client.get(keys[0]))["at"] == state["at"]:
            assert time.monotonic() < until
            time.sleep(0.1)


# Limits


def test_a_window_slides_and_never_lets_more_through(limiter):
    levels = level(requests_per_minute=20)

    def hit(_) -> bool:
        try:
            return limiter.spend(levels, "requests_per_minute") is not None
        except RateLimited as error:
            assert 0 < error.retry_after_s <= 61
            return False

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(hit, range(200))) == 20


def test_the_tightest_level_counts_and_each_kind_has_its_error(limiter):
    key, tenant = level(requests_per_minute=2)[0], level(requests_per_minute=5, audio_minutes_per_day=1)[0]
    assert limiter.spend((key, tenant), "requests_per_minute").remaining == 1
    limiter.spend((key, tenant), "requests_per_minute")
    with pytest.raises(RateLimited):
        limiter.spend((key, tenant), "requests_per_minute")
    limiter.count((tenant,), "audio_minutes_per_day", 60)
    with pytest.raises(InsufficientQuota):
        limiter.check((tenant,), "audio_minutes_per_day")
    assert limiter.spend((tenant,), "tokens_per_minute") is None  # no limit is no limit


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_a_check_of_a_limit_takes_under_five_milliseconds(limiter, name):
    levels, times = level(**{name: 10**6}), []
    for _ in range(200):
        began = time.perf_counter()
        limiter.spend(levels, name)
        times.append((time.perf_counter() - began) * 1000)
    assert statistics.median(times) < BAR_MS, sorted(times)[-5:]


def test_without_redis_each_process_counts_for_itself_and_says_so(servers, caplog):
    from apps.common.launch.servers import free_port

    alone, levels = limiter_at(f"redis://127.0.0.1:{free_port()}/0"), level(requests_per_minute=3, concurrent_sessions=2)
    with caplog.at_level(logging.WARNING, "vivavoce.limits"):
        for _ in range(3):
            alone.spend(levels, "requests_per_minute")
        with pytest.raises(RateLimited):
            alone.spend(levels, "requests_per_minute")
        for session_id in ("a", "b"):
            alone.enter(levels, session_id)
        with pytest.raises(SessionLimitReached):
            alone.enter(levels, "c")
        alone.leave(levels, "a")
        alone.enter(levels, "c")
    assert sum("redis is away" in r.getMessage() for r in caplog.records) == 1  # once in ten seconds, not each time
