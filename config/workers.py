"""The Celery app of the engine workers (queues stt, llm, tts). No Django: a worker holds no database and starts in a second."""

from __future__ import annotations

import base64
import functools
import os
import socket
import sys
import time
import uuid
from datetime import UTC, datetime

import orjson
from celery import Celery
from celery.signals import celeryd_after_setup, worker_shutdown

from config import voice as settings
from config.redis import broker, connect
from voice.core.jobs import TASK_NAMES

EXPIRES_S = 30  # a job nobody took by then has no session waiting for it
STAGES = ("stt", "llm", "tts")
TASKS = {str(stage): name for stage, name in TASK_NAMES.items()}
ORIGIN = f"{os.getpid()}@{socket.gethostname()}"

# no fixups: Celery's own would load Django, and run its checks, wherever DJANGO_SETTINGS_MODULE is set
BROKER, TRANSPORT = broker(settings.REDIS_URL)
app = Celery("vivavoce-engines", broker=BROKER, include=["voice.workers.tasks"], fixups=[])
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=False,
    task_create_missing_queues=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=8,
    broker_transport_options={"ack_emulation": False, "socket_keepalive": True, "socket_timeout": 30, "socket_connect_timeout": 2, **TRANSPORT},
    enable_utc=True,
)


def message(job: dict, reply_to: str) -> tuple[str, bytes]:
    """(Redis list, message) that hand a job to its stage's queue: what `app.send_task` would write, without its 1.5 ms.

    Celery's message protocol 2 (docs.celeryq.dev, "Message Protocol") in the envelope of kombu's Redis transport. A test
    compares it with one that Celery wrote.
    """
    queue, task_id = str(job["stage"]), uuid.uuid4().hex
    body = orjson.dumps([[job, reply_to], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    now = time.time()
    expires = datetime.fromtimestamp(now + EXPIRES_S, UTC).isoformat()
    headers = {
        "lang": "py", "task": TASKS[queue], "id": task_id, "shadow": None, "eta": None, "expires": expires, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id, "parent_id": None, "argsrepr": "…",
        "kwargsrepr": "{}", "origin": ORIGIN, "ignore_result": True, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        "sent_at": now,
    }  # fmt: skip
    properties = {
        "correlation_id": task_id, "reply_to": ORIGIN, "delivery_mode": 2, "expiration": str(EXPIRES_S * 1000),
        "delivery_info": {"exchange": "", "routing_key": queue}, "priority": 0, "body_encoding": "base64", "delivery_tag": task_id,
    }  # fmt: skip
    return queue, orjson.dumps({"body": base64.b64encode(body).decode(), "content-encoding": "utf-8", "content-type": "application/json",
                                "headers": headers, "properties": properties})  # fmt: skip


def engine_settings():
    from voice.engines.base import EngineSettings

    return EngineSettings(tuple(settings.MODELS_DIRS), settings.DEVICE, settings.ENGINE_THREADS, settings.LLM_OPENAI_BASE_URL,
                          settings.LLM_OPENAI_API_KEY)  # fmt: skip


DEFAULTS = {
    "stt": (settings.STT_ENGINE, settings.STT_MODEL),
    "llm": (settings.LLM_ENGINE, settings.LLM_MODEL),
    "tts": (settings.TTS_ENGINE, settings.TTS_MODEL),
}
_runner = None


@celeryd_after_setup.connect
def prepare(sender, instance, **kwargs) -> None:
    """Load the default engine of each queue this worker serves, so that its first turn is warm."""
    global _runner
    from voice.bus.redis import RedisWorkerBus
    from voice.engines import EngineCache
    from voice.workers import tasks
    from voice.workers.run import Runner

    cache = EngineCache(engine_settings())
    stages = [stage for stage in STAGES if stage in instance.app.amqp.queues.consume_from]
    for stage in stages:
        cache.get(stage, *DEFAULTS[stage])
    _runner = Runner(RedisWorkerBus(functools.partial(connect, settings.REDIS_URL)), cache, f"{socket.gethostname()}:{os.getpid()}",
                     settings.WORKER_SLOTS if "llm" in stages else settings.SPEECH_SLOTS, start_anew)  # fmt: skip
    for stage in stages:
        _runner.serve(stage)
    tasks.use(_runner)


def start_anew() -> None:
    """The same process, from the beginning: whoever watches it sees no end of it. Its jobs fall silent and are opened elsewhere."""
    os.execv(sys.executable, sys.orig_argv)


@worker_shutdown.connect
def shut_down(**kwargs) -> None:
    if _runner is not None:
        _runner.close()
