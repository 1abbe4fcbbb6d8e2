"""/health (the process lives), /ready (what it needs answers, each within a second), /metrics (Prometheus)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextvars import copy_context

import prometheus_client
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse

from apps.common.queues import STAGES, client, worker_report
from apps.tenants.context import bound_public

CHECK_S = 1.0
_pool = ThreadPoolExecutor(8, thread_name_prefix="ready")


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


def _postgres() -> dict:
    try:
        with bound_public(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()
    return {}


def _redis() -> dict:
    client.ping()
    return {}


def _workers(stage: str) -> Callable[[], dict]:
    def check() -> dict:
        report = worker_report(stage)
        if not report["workers"]:
            raise RuntimeError(f"no {stage} worker has reported in the last 3 s")
        return report

    return check


def readiness(with_workers: bool) -> tuple[bool, dict]:
    """(all well, {dependency: {ok, ms, …}}); the checks run side by side, each gives up after CHECK_S."""
    checks = {"postgres": _postgres, "redis": _redis}
    if with_workers:
        checks |= {f"workers.{s}": _workers(s) for s in STAGES}
    began = time.monotonic()
    futures = {name: _pool.submit(copy_context().run, check) for name, check in checks.items()}
    report = {}
    for name, future in futures.items():
        try:
            report[name] = {"ok": True, **future.result(max(0.01, began + CHECK_S - time.monotonic()))}
        except Late:
            report[name] = {"ok": False, "error": f"no answer within {CHECK_S:.0f} s"}
        except Exception as error:  # a check says why; nothing it raises may break the page
            report[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:200]}
        report[name]["ms"] = round((time.monotonic() - began) * 1000, 1)
    return all(r["ok"] for r in report.values()), report


def ready_gateway(request: HttpRequest) -> JsonResponse:
    ok, report = readiness(with_workers=True)
    return JsonResponse({"status": "ready" if ok else "not_ready", "checks": report}, status=200 if ok else 503)


def ready_portal(request: HttpRequest) -> JsonResponse:
    ok, report = readiness(with_workers=False)
    return JsonResponse({"status": "ready" if ok else "not_ready", "checks": report}, status=200 if ok else 503)


def metrics(request: HttpRequest) -> HttpResponse:
    return HttpResponse(prometheus_client.generate_latest(), content_type=prometheus_client.CONTENT_TYPE_LATEST)
