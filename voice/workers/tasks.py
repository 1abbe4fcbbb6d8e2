"""The three Celery tasks, thin: queue = stage, no result, JSON in, chunks out over the bus."""

from __future__ import annotations

from celery import shared_task

from voice.core.jobs import TASK_NAMES, Job, Stage
from voice.workers import stages
from voice.workers.run import Runner

_runner: Runner | None = None


def use(runner: Runner) -> None:
    """Set once by config.workers, before the first task."""
    global _runner
    _runner = runner


@shared_task(name=TASK_NAMES[Stage.STT], ignore_result=True)
def transcribe(job: dict, reply_to: str) -> None:
    _runner.run(Job.from_dict(job), reply_to, stages.transcribe)


@shared_task(name=TASK_NAMES[Stage.LLM], ignore_result=True)
def complete(job: dict, reply_to: str) -> None:
    _runner.run(Job.from_dict(job), reply_to, stages.complete)


@shared_task(name=TASK_NAMES[Stage.TTS], ignore_result=True)
def synthesize(job: dict, reply_to: str) -> None:
    _runner.run(Job.from_dict(job), reply_to, stages.synthesize)
