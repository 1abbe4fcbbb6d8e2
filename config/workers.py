"""The Celery app of the engine workers (queues stt, llm, tts). No Django: a worker holds no database and starts in a second."""

from __future__ import annotations

import os
import socket

from celery import Celery
from celery.signals import celeryd_after_setup, worker_shutdown

from config import voice as settings

EXPIRES_S = 30  # a job nobody took by then has no session waiting for it
STAGES = ("stt", "llm", "tts")

app = Celery("vivavoce-engines", broker=settings.REDIS_URL, include=["voice.workers.tasks"])
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
    broker_transport_options={"socket_keepalive": True, "socket_timeout": 30, "socket_connect_timeout": 2},
    enable_utc=True,
)


def submit(job: dict, reply_to: str) -> None:
    """Put a job on its stage's queue; blocks about 1.5 ms, so never on an event loop. Raises kombu's and redis' errors."""
    from voice.core.jobs import TASK_NAMES

    app.send_task(TASK_NAMES[job["stage"]], args=(job, reply_to), queue=str(job["stage"]), expires=EXPIRES_S, ignore_result=True, retry=False)


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
    _runner = Runner(RedisWorkerBus(settings.REDIS_URL), cache, f"{socket.gethostname()}:{os.getpid()}", settings.WORKER_SLOTS)
    for stage in stages:
        _runner.serve(stage)
    tasks.use(_runner)


@worker_shutdown.connect
def shut_down(**kwargs) -> None:
    if _runner is not None:
        _runner.close()
