"""The Celery app of the `default` queue (mail, roll-ups, retention): Django inside, tenant bound per task by header."""

from __future__ import annotations

import os
import time

from celery import Celery
from celery.signals import before_task_publish, task_postrun, task_prerun

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")  # dj-stripe's check asks the database, where a worker that starts has no tenant bound

from config import voice  # noqa: E402
from config.redis import broker  # noqa: E402

BROKER, TRANSPORT = broker(voice.REDIS_URL)
app = Celery("vivavoce", broker=BROKER)
app.conf.update(
    task_serializer="json", accept_content=["json"], task_ignore_result=True, task_default_queue="default",
    worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, enable_utc=True, broker_transport_options=TRANSPORT,
    beat_schedule={"close-lost-sessions": {"task": "conversations.close_lost", "schedule": 60.0},
                   "sweep": {"task": "onboarding.sweep", "schedule": 20.0},
                   "sum-usage": {"task": "usage.sweep", "schedule": 15.0, "options": {"expires": 15}},
                   "billing": {"task": "billing.sweep", "schedule": 30.0, "options": {"expires": 30}},
                   "report-usage": {"task": "billing.report", "schedule": 20.0, "options": {"expires": 20}},
                   "replay-usage": {"task": "usage.replay", "schedule": 10.0, "options": {"expires": 10}},
                   "identities": {"task": "teams.identities_check", "schedule": 10.0, "options": {"expires": 30}}},
)  # fmt: skip
app.set_default()
app.autodiscover_tasks(["apps.conversations", "apps.onboarding", "apps.teams", "apps.usage", "apps.billing"], related_name="tasks")
app.autodiscover_tasks(["apps.common"], related_name="mail")
_tokens: dict[str, object] = {}


@before_task_publish.connect
def carry_tenant(headers=None, **kwargs) -> None:
    from apps.tenants.context import bound_or_none

    headers["sent_at"] = time.time()  # for voice_queue_age_seconds
    found = bound_or_none()
    if found is not None and found.tenant_id:
        headers["tenant"] = [found.tenant_id, found.schema, found.slug]


@task_prerun.connect
def bind_tenant(task_id=None, task=None, **kwargs) -> None:
    from apps.tenants.context import PUBLIC, Bound, _bound

    carried = (task.request.headers or {}).get("tenant") or getattr(task.request, "tenant", None)
    _tokens[task_id] = _bound.set(Bound(*carried) if carried else PUBLIC)


@task_postrun.connect
def unbind_tenant(task_id=None, **kwargs) -> None:
    from apps.tenants.context import _bound

    if token := _tokens.pop(task_id, None):
        _bound.reset(token)
