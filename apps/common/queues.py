"""What Prometheus is told of queues and workers: read from Redis at each scrape, within a second, by whichever process is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import redis
from django.conf import settings
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apps.common.errors import Overloaded

STAGES = ("stt", "llm", "tts")
QUEUES = (*STAGES, "default")
TIMEOUT_S = 1
client = settings.CONNECT_REDIS(socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)


def worker_states(stage: str) -> list[dict]:
    """`{stage, busy, slots, done, at}` of each worker that reported in the last three seconds. Raises redis.RedisError."""
    keys = list(client.scan_iter(f"voice:worker:{stage}:*", count=500))
    return [json.loads(value) for value in (client.mget(keys) if keys else []) if value]


def worker_report(stage: str) -> dict[str, int]:
    states = worker_states(stage)
    return {"workers": len(states), "busy": sum(s["busy"] for s in states), "slots": sum(s["slots"] for s in states)}


def queues() -> dict[str, dict]:
    """Each stage's queue: jobs that wait, and its workers. Raises Overloaded when Redis is away."""
    try:
        return {stage: {"waiting": client.llen(stage), **worker_report(stage)} for stage in STAGES}
    except redis.RedisError as error:
        raise Overloaded("Redis does not answer; try again.", retry_after_s=2) from error


def worker_rows() -> list[dict]:
    """Each worker that reported in the last three seconds: name (host:pid), stage, busy, slots, done. Raises Overloaded when Redis is away."""
    try:
        keys = sorted(k.decode() for k in client.scan_iter("voice:worker:*", count=500))
        values = client.mget(keys) if keys else []
    except redis.RedisError as error:
        raise Overloaded("Redis does not answer; try again.", retry_after_s=2) from error
    return [{"name": key.split(":", 3)[3], **json.loads(value)} for key, value in zip(keys, values, strict=True) if value]


def message_age_s(message: bytes, now: float) -> float:
    """Seconds since a Celery message was sent: the header `sent_at` that config/celery.py and config/workers.py write."""
    return max(0.0, now - json.loads(message)["headers"].get("sent_at", now))


class QueueCollector(Collector):
    """Depth and age of each queue; slots in use of each stage. Redis away: voice_redis_up 0 and none of the others."""

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            found = [*self._queues(), *self._workers()]
        except redis.RedisError:
            found = []
        yield GaugeMetricFamily("voice_redis_up", "Redis answered this scrape", value=float(bool(found)))
        yield from found

    def _queues(self) -> list[Metric]:
        depth = GaugeMetricFamily("voice_queue_depth", "Jobs waiting for a worker", labels=["queue"])
        age = GaugeMetricFamily("voice_queue_age_seconds", "How long the oldest waiting job has waited", labels=["queue"])
        now = time.time()
        for queue in QUEUES:
            oldest = client.lindex(queue, -1)
            depth.add_metric([queue], client.llen(queue))
            age.add_metric([queue], message_age_s(oldest, now) if oldest else 0.0)
        return [depth, age]

    def _workers(self) -> list[Metric]:
        count = GaugeMetricFamily("voice_workers", "Engine workers that reported in the last three seconds", labels=["stage"])
        busy = GaugeMetricFamily("voice_worker_busy", "Jobs the workers hold", labels=["stage"])
        slots = GaugeMetricFamily("voice_worker_slots", "Jobs the workers can hold", labels=["stage"])
        done = CounterMetricFamily("voice_worker_jobs", "Jobs done by the workers that live now", labels=["stage"])
        for stage in STAGES:
            states = worker_states(stage)
            count.add_metric([stage], len(states))
            for family, field in ((busy, "busy"), (slots, "slots"), (done, "done")):
                family.add_metric([stage], sum(state[field] for state in states))
        return [count, busy, slots, done]


REGISTRY.register(QueueCollector())
