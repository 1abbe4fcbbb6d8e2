"""The children `manage.py up` starts, as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
WORKER = ("--loglevel", "WARNING", "-P", "threads", "--prefetch-multiplier", "1", "--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True)
class Child:
    """One process: its command, and the URL path that answers 200 when it is up ("" = it has none)."""

    name: str
    command: tuple[str, ...]
    ready: str = ""
    port: int = 0


def script(name: str) -> str:
    return str(SCRIPTS / name)


def gateway(port: int, host: str = "127.0.0.1") -> Child:
    return Child("gateway", (sys.executable, "-m", "voice.gateway.serve", "--host", host, "--port", str(port)), "/health", port)


def portal(port: int, host: str = "127.0.0.1") -> Child:
    return Child("portal", (script("daphne"), "-b", host, "-p", str(port), "-v", "0", "--no-server-name", "config.asgi:portal"), "/health", port)


def billing_sandbox(port: int, folder: Path, webhook_url: str) -> Child:
    """The stand-in for Stripe; its keys come by BILLING_SANDBOX_SECRET_KEY and BILLING_SANDBOX_WEBHOOK_SECRET."""
    command = (sys.executable, "-m", "tools.billing_sandbox", "--port", str(port), "--data", str(folder), "--webhook-url", webhook_url)
    return Child("billing_sandbox", command, "/_sandbox/health", port)


def worker(stage: str, name: str | None = None) -> Child:
    name, slots = name or stage, os.environ.get("WORKER_SLOTS", "16") if stage == "llm" else os.environ.get("SPEECH_SLOTS", "128")
    command = (sys.executable, "-m", "celery", "-A", "config.workers:app", "worker", "-Q", stage, "-c", slots, "-n", f"{name}@%h", *WORKER)
    return Child(name, command)


def default_worker() -> Child:
    return Child("default", (sys.executable, "-m", "celery", "-A", "config.celery:app", "worker", "-Q", "default", "-c", "2", "-n", "default@%h", *WORKER))


def beat(folder: Path) -> Child:
    return Child("beat", (sys.executable, "-m", "celery", "-A", "config.celery:app", "beat", "--loglevel", "WARNING", "-s", str(folder / "beat"), "--pidfile="))


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What children get: ours plus `extra`, with one thread per maths library (16 threads share few cores)."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return {**threads, **os.environ, **extra}
