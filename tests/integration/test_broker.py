"""config/broker.py: a Redis that goes away ends no worker."""

from __future__ import annotations

import pytest
import redis
from kombu import Connection

from apps.common.launch.servers import Redis, free_port, new_secret
from config.redis import broker


@pytest.fixture
def own(tmp_path):
    server = Redis(tmp_path, free_port(), new_secret(), tmp_path / "redis.log")
    server.start()
    yield server
    server.stop()



def take(connection, count: int):
    """(a channel, messages fetched by it and in nobody else's hands)."""
    channel = connection.channel()
    channel.queue_declare("q")
    got: list = []
    channel.basic_qos(prefetch_count=count)
    channel.basic_consume("q", no_ack=False, callback=got.append, consumer_tag="t")
    while len(got) < count:
        connection.drain_events(timeout=5)
    return channel, got


@pytest.mark.parametrize("safe", [True, False], ids=["kept", "in hand"])
def test_acknowledging_and_closing_while_redis_is_away(own, safe):
    url, options = broker(own.url)
    with Connection(url, transport_options=options | {"ack_emulation": safe}) as connection:
        with connection.SimpleQueue("q") as queue:
            for n in range(4):
                queue.put({"n": n})
        channel, got = take(connection, 3)
        own.stop()
        got[0].ack()
        channel.close()
        got[1].ack()  # as a thread does that took it before the connection broke
    own.start()
    with Connection(url, transport_options=options | {"ack_emulation": safe}) as connection:
        channel, (last,) = take(connection, 1)
        assert last.payload == {"n": 3}
        last.ack()
        channel.close()
    kept = redis.Redis.from_url(own.url)
    assert kept.hlen("unacked") == kept.zcard("unacked_index") == (1 if safe else 0)  # the one nobody said was done; the others' late word was heard


def test_what_was_fetched_and_not_begun_goes_back_when_a_worker_ends(own):
    url, options = broker(own.url)
    for safe in (True, False):
        with Connection(url, transport_options=options | {"ack_emulation": safe}) as connection:
            with connection.SimpleQueue("q") as queue:
                queue.put({"safe": safe})
            channel, _ = take(connection, 1)
            channel.close()
            channel, (again,) = take(connection, 1)
            assert again.payload == {"safe": safe}
            again.ack()
            channel.close()
