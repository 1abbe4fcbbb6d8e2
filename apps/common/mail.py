"""Mail, sent after the transaction by the `default` worker; without one (commands, tests) by the caller."""

from __future__ import annotations

import logging

from celery import current_app, shared_task
from django.core.mail import send_mail
from django.db import transaction
from kombu.exceptions import OperationalError

log = logging.getLogger("vivavoce.mail")


@shared_task(name="common.send_mail", autoretry_for=(OSError,), retry_backoff=True, max_retries=8)
def deliver(kind: str, to: str, subject: str, body: str) -> None:
    send_mail(subject, body, None, [to])


def mail_later(kind: str, to: str, subject: str, body: str) -> None:
    """`kind` names the mail in logs; the address and the text stay out of them."""

    def hand_over() -> None:
        try:
            current_app.send_task("common.send_mail", args=(kind, to, subject, body), queue="default", ignore_result=True, retry=False)
        except (OSError, OperationalError) as error:  # Redis is away
            log.error("mail %s not queued: %s", kind, error)

    transaction.on_commit(hand_over)
