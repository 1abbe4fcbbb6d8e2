"""The whole product as real processes that may be killed with -9 at any moment and are started again: durable PostgreSQL and Redis, the
billing sandbox, portal, gateways, engine workers, the `default` worker and beat."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from apps.common.launch import processes
from apps.common.launch.servers import LaunchError, Postgres, Redis, die_with_parent, free_port, new_secret

ROOT = Path(__file__).resolve().parent.parent
START_S = 120
SERVERS = ("postgres", "redis")


class House:
    """Make it before Django is set up: it chooses the addresses and puts them into the environment."""

    def __init__(self, folder: Path, gateways: int = 2, workers: int = 2):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.folder = folder
        self.postgres = Postgres(folder, free_port(), new_secret(), folder / "postgres.log")
        self.redis = Redis(folder, free_port(), new_secret(), folder / "redis.log")
        self.sandbox_port, self.portal_port = free_port(), free_port()
        self.gateway_ports = [free_port() for _ in range(gateways)]
        self.key, secret = "sk_test_" + new_secret(alphanumeric=True), "whsec_" + new_secret(alphanumeric=True)
        os.environ.update({
            "DATABASE_URL": self.postgres.url, "REDIS_URL": self.redis.url, "VIVAVOCE_VAR": str(folder), "SECRET_KEY": new_secret() + new_secret(),
            "DJANGO_SETTINGS_MODULE": "config.settings.test", "BILLING_SANDBOX_PORT": str(self.sandbox_port), "BILLING_SANDBOX_SECRET_KEY": self.key,
            "BILLING_SANDBOX_WEBHOOK_SECRET": secret, "STRIPE_WEBHOOK_SECRET": secret, "PORTAL_URL": f"http://127.0.0.1:{self.portal_port}",
            "GATEWAY_URL": f"http://127.0.0.1:{self.gateway_ports[0]}", "GATEWAY_WS_URL": f"ws://127.0.0.1:{self.gateway_ports[0]}",
        })  # fmt: skip
        os.environ.pop("STRIPE_SECRET_KEY", None)
        self.children = {
            "sandbox": processes.billing_sandbox(self.sandbox_port, folder / "sandbox", f"http://127.0.0.1:{self.portal_port}/stripe/webhook"),
            "portal": processes.portal(self.portal_port), "default": processes.default_worker(), "beat": processes.beat(folder),
            **{f"gateway-{n}": processes.gateway(port) for n, port in enumerate(self.gateway_ports, 1)},
            **{f"{stage}-{n}": processes.worker(stage, f"{stage}-{n}") for stage in ("stt", "llm", "tts") for n in range(1, workers + 1)},
        }  # fmt: skip
        self.running: dict[str, subprocess.Popen] = {}

    @property
    def gateways(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}/v1/realtime" for port in self.gateway_ports]

    def start_servers(self) -> None:
        self.postgres.start()
        self.redis.start()

    def start(self) -> None:
        """Everything else; returns when gateways, portal and sandbox answer."""
        for name in self.children:
            self.run(name)
        self.wait(f"http://127.0.0.1:{self.gateway_ports[0]}/ready")
        for child in self.children.values():
            if child.ready:
                self.wait(f"http://127.0.0.1:{child.port}{child.ready}")

    def run(self, name: str) -> None:
        child = self.children[name]
        with open(self.folder / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(child.command, cwd=ROOT, env=processes.environment({}), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                                  preexec_fn=die_with_parent(), start_new_session=True)  # fmt: skip

    def wait(self, url: str) -> None:
        until, problem = time.monotonic() + START_S, ""
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except OSError as error:
                problem = str(error)
            time.sleep(0.1)
        raise LaunchError(f"{url} does not answer: {problem}; the logs are in {self.folder}")

    @property
    def victims(self) -> list[str]:
        return ["postgres", "redis", *(name for name in self.children if not name.startswith("stt"))]

    def kill(self, *names: str, forget_s: float = 0.0) -> None:
        """SIGKILL, all in the same moment, and start them again. `forget_s`: Redis comes back without its last so many seconds."""
        kept = self.redis.folder / "appendonly.before"
        if forget_s and "redis" in names:
            shutil.copyfile(self.redis.folder / "appendonly.aof", kept)
            time.sleep(forget_s)
        processes = [getattr(self, n).process if n in SERVERS else self.running[n] for n in names]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait(10)
        if forget_s and "redis" in names:
            kept.replace(self.redis.folder / "appendonly.aof")
        for name in names:
            if name in SERVERS:
                self._again(getattr(self, name))
            else:
                self.run(name)

    @staticmethod
    def _again(server: Postgres | Redis) -> None:
        for attempt in range(20):
            try:
                return server.start()
            except LaunchError:  # its orphaned children have not let go yet
                if attempt == 19:
                    raise
                time.sleep(0.3)

    def supervise(self) -> list[str]:
        """As `manage.py up` and Kubernetes do: what ended by itself is started again. Their names."""
        ended = [name for name, process in self.running.items() if process.poll() is not None]
        for name in ended:
            self.run(name)
        return ended

    def end(self, *names: str) -> None:
        """SIGTERM, as an operator stops them."""
        for name in names:
            self.running[name].terminate()
        for name in names:
            try:
                self.running.pop(name).wait(30)
            except subprocess.TimeoutExpired:
                pass

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
        self.redis.stop()
        self.postgres.stop()
