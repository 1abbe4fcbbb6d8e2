"""Structured logs: one JSON object a line with tenant, session, turn and request id; secrets are cut out."""

from __future__ import annotations

import logging
import logging.config
import re
import sys

import structlog

_SECRETS = re.compile(
    r"(/invitations/)[^\s\"']{20,}|((?:vv|vo|ek)_[A-Za-z0-9]{8})[A-Za-z0-9]{20,}|(access_token=)[^&\s\"']+|(openai-insecure-api-key\.)[^\s,\"']+|(Bearer\s+)\S+|(://[^:/@\s]*:)[^@/\s]+(?=@)",
    re.IGNORECASE,
)

# Their debug lines hold frames, statements and bodies: with them what people say and what opens doors would be in the logs
TALKATIVE = ("uvicorn", "uvicorn.error", "websockets", "daphne", "django.db.backends", "httpx", "httpcore", "urllib3", "openai", "celery", "kombu")


def redact(text: str) -> str:
    return _SECRETS.sub(lambda m: next(g for g in m.groups() if g is not None) + "…", text)


def _redact_event(logger, method, event):
    return {k: redact(v) if isinstance(v, str) else v for k, v in event.items()}


def _add_tenant(logger, method, event):
    from apps.tenants.context import label

    event.setdefault("tenant", label())
    return event


def logging_config(level: str) -> None:
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_tenant,
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.PositionalArgumentsFormatter(), *shared,
                    structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger, cache_logger_on_first_use=True,
    )  # fmt: skip
    logging.config.dictConfig({
        "version": 1, "disable_existing_loggers": False,
        "formatters": {"json": {"()": structlog.stdlib.ProcessorFormatter, "processor": structlog.processors.JSONRenderer(),
                                "foreign_pre_chain": shared}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": sys.stderr, "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level},
        # uvicorn's and daphne's access lines hold whole URLs: off, our own metrics count requests
        "loggers": {"stripe": {"level": "WARNING"},  # it tells each request
                    "uvicorn.access": {"handlers": [], "propagate": False, "level": "WARNING"},
                    "daphne.access": {"handlers": [], "propagate": False, "level": "WARNING"},
                    "django.server": {"handlers": [], "propagate": False, "level": "WARNING"},
                    **{name: {"level": "INFO" if level == "DEBUG" else level} for name in TALKATIVE}},
    })  # fmt: skip
