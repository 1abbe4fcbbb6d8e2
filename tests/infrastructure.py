"""The product as tests use it: real processes on free ports, with tenants of the tests' own."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from apps.apikeys.services import api_key_issue
from apps.common.actors import SYSTEM
from apps.common.launch import processes
from apps.common.launch.servers import die_with_parent, free_port
from apps.onboarding.services import workspace_create
from apps.tenants.context import bound_public
from apps.tenants.models import Tenant

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("stt", "llm", "tts")
START_S = 180


class Stack:
    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: dict[str, subprocess.Popen] = {}
        self.external = "GATEWAY_URL" in os.environ and "GATEWAY_WS_URL" in os.environ
        self.base_url = os.environ.get("GATEWAY_URL", "")
        self.ws_url = os.environ.get("GATEWAY_WS_URL", "")
        self.portal_url = os.environ.get("PORTAL_URL", "")
        self._count = 0

    def start(self) -> None:
        """Raises RuntimeError with the logs' ends when something does not come up."""
        if self.external:
            return
        port = free_port()
        self.base_url, self.ws_url = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
        self.gateway_port = port
        self.run(processes.gateway(port))
        for stage in STAGES:
            self.start_worker(stage)
        self.wait(f"{self.base_url}/ready")

    @property
    def realtime(self) -> str:
        return f"{self.ws_url}/v1/realtime"

    def run(self, child: processes.Child, **environment: str) -> subprocess.Popen:
        with open(self.folder / f"{child.name}.log", "ab") as log:
            process = subprocess.Popen(child.command, cwd=ROOT, env=processes.environment(environment), stdout=log, stderr=log,
                                       stdin=subprocess.DEVNULL, preexec_fn=die_with_parent(), start_new_session=True)  # fmt: skip
        self.processes[child.name] = process
        return process

    def start_worker(self, stage: str, python: str = "", **environment: str) -> tuple[str, subprocess.Popen]:
        """One more worker; (its name, its process). It serves a second or so later: see wait_workers."""
        self._count += 1
        name = f"{stage}-{self._count}"
        child = processes.worker(stage, name)
        if python:
            child = processes.Child(child.name, (python, *child.command[1:]))
        return name, self.run(child, **environment)

    def extra_gateway(self, wait: bool = True, **environment: str) -> tuple[str, subprocess.Popen]:
        """One more gateway: (the address of its WebSocket, its process), when it answers unless told not to `wait`."""
        self._count += 1
        port = free_port()
        process = self.run(processes.Child(f"gateway-{self._count}", processes.gateway(port).command), **environment)
        if wait:
            self.wait(f"http://127.0.0.1:{port}/health")
        return f"ws://127.0.0.1:{port}/v1/realtime", process

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def start_portal(self) -> str:
        if not self.portal_url:
            port = free_port()
            self.portal_url = f"http://127.0.0.1:{port}"
            self.run(processes.portal(port), GATEWAY_URL=self.base_url, GATEWAY_WS_URL=self.ws_url, PORTAL_URL=self.portal_url)
            self.wait(f"{self.portal_url}/health")
        return self.portal_url

    def wait_workers(self, stage: str, count: int) -> None:
        import redis

        client = redis.Redis.from_url(os.environ["REDIS_URL"])
        until = time.monotonic() + START_S
        while len(list(client.scan_iter(f"voice:worker:{stage}:*", count=1000))) < count:
            if time.monotonic() > until:
                raise RuntimeError(f"{count} {stage} workers did not come up\n{self.logs()}")
            time.sleep(0.1)

    def wait(self, url: str) -> None:
        until, problem = time.monotonic() + START_S, ""
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except urllib.error.HTTPError as error:
                problem = error.read().decode(errors="replace")[:300]
            except OSError as error:
                problem = str(error)
            time.sleep(0.1)
        raise RuntimeError(f"{url} is not ready after {START_S} s: {problem}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in self.folder.glob("*.log"))

    def new_tenant(self, slug: str) -> tuple[Tenant, str]:
        """A workspace of the test's own and the secret of its key."""
        with bound_public():
            tenant = workspace_create(name=slug.title(), slug=f"{slug}-{os.getpid()}-{time.time_ns() % 10**8}"[:40])
            return tenant, api_key_issue(tenant=tenant, name="test", actor=SYSTEM)[1]

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
