from __future__ import annotations

from celery import shared_task

from apps.teams.liveness import identities_check


@shared_task(name="teams.identities_check")
def check() -> None:
    identities_check()
