"""`manage.py up`: every part of the product in the foreground, started in order, watched, stopped together.

Standard library only until the servers run, so that it starts at once and can say what is wrong.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from apps.common.launch import processes
from apps.common.launch.servers import LaunchError, Postgres, Redis, check_disk, die_with_parent, new_secret, port_taken

PARTS = ("gateway", "portal", "stt", "llm", "tts", "default", "beat", "billing_sandbox")
STOP_S = 8
READY_S = 90
LOG_BYTES = 20 * 2**20
STEADY_S = 10  # a child that lived this long is started again at once


class Running:
    """A child process that is started again when it dies."""

    def __init__(self, child: processes.Child, environment: dict[str, str], log: Path):
        self.child, self.environment, self.log = child, environment, log
        self.process: subprocess.Popen | None = None
        self.started_at = 0.0
        self.delay = 0.1
        self.next_start = 0.0

    def start(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.child.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            preexec_fn=die_with_parent(), start_new_session=True)  # fmt: skip
        self.started_at = time.monotonic()

    def watch(self, say) -> None:
        """Start it again after its back-off when it has died."""
        if self.process is None or self.process.poll() is None:
            return
        now = time.monotonic()
        if not self.next_start:
            lived = now - self.started_at
            self.delay = 0.1 if lived > STEADY_S else min(10.0, self.delay * 2)
            self.next_start = now + self.delay
            say(f"{self.child.name} ended ({self.process.returncode}); starting it again. Its log: {self.log}")
        elif now >= self.next_start:
            self.next_start = 0.0
            self.start()


ROOT = Path(__file__).resolve().parents[3]


class Up:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.began = time.monotonic()
        self.var = Path(os.environ.get("VIVAVOCE_VAR", ROOT / "var"))
        self.logs = self.var / "log"
        self.gateway_port = int(os.environ.get("GATEWAY_PORT", "25000"))
        self.portal_port = int(os.environ.get("PORTAL_PORT", "28000"))
        self.sandbox_port = int(os.environ.get("BILLING_SANDBOX_PORT", "12111"))
        if os.environ.get("STRIPE_SECRET_KEY") or os.environ.get("STRIPE_SECRET_KEY_FILE"):
            options.parts = [p for p in options.parts if p != "billing_sandbox"]  # Stripe itself is asked
        self.servers: list[Postgres | Redis] = []
        self.running: list[Running] = []
        self.stopping = threading.Event()
        self.extra: dict[str, str] = {}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)

    # Steps

    def run(self) -> int:
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda *_: self.stopping.set())
        try:
            self.prepare_folder()
            self.start_servers()
            demo = self.migrate()
            self.start_children()
            if self.wait_ready() and not self.stopping.is_set():
                self.finish(demo)
            self.watch()
            return 0
        except LaunchError as error:
            print(f"\nVivavoce did not start: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            self.stop()

    def prepare_folder(self) -> None:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.var / ".write").write_text("x" * 4096)
            (self.var / ".write").unlink()
        except OSError as error:
            raise LaunchError(f"{self.var} cannot be written ({error.strerror}); free space or fix its owner, then start again.") from error
        check_disk(self.var, 100)
        self._lock = open(self.var / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LaunchError(f"Vivavoce runs already in {self.var}. Stop it (Ctrl-C where it runs), or use another folder with VIVAVOCE_VAR=…") from None
        self.secrets = self._load_secrets()

    def _load_secrets(self) -> dict[str, str]:
        path = self.var / "secrets.json"
        try:
            found = json.loads(path.read_text()) if path.exists() else {}
            if not isinstance(found, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise LaunchError(f"{path} is damaged ({error}). It holds the password of the database beside it: restore it from a backup, or move "
                              f"{self.var} away to begin anew.") from error  # fmt: skip
        wanted = ("secret_key", "postgres_password", "redis_password", "billing_sandbox_key", "stripe_webhook_secret")
        kinds = {"billing_sandbox_key": "sk_test_", "stripe_webhook_secret": "whsec_"}
        if not all(found.get(name) for name in wanted):
            if (self.var / "postgres" / "PG_VERSION").exists() and not found.get("postgres_password"):
                raise LaunchError(f"{path} is gone, but {self.var / 'postgres'} needs the password in it: restore it from a backup, or move {self.var} away.")
            found = {**{name: kinds.get(name, "") + new_secret(alphanumeric=name in kinds) for name in wanted}, **found}
            self._write_private(path, json.dumps(found))
        return found

    @staticmethod
    def _write_private(path: Path, text: str) -> None:
        temporary = path.with_name(path.name + ".new")
        temporary.touch(mode=0o600)
        temporary.chmod(0o600)
        temporary.write_text(text)
        temporary.replace(path)

    def start_servers(self) -> None:
        for name, port in self._wanted_ports():
            if port_taken(port):
                raise LaunchError(f"port {port} ({name}) is in use by another program; stop it, or choose another with {name.upper()}_PORT=…")
        self.extra = {"VIVAVOCE_VAR": str(self.var)}
        if "DATABASE_URL" not in os.environ:
            server = Postgres(self.var, int(os.environ.get("POSTGRES_PORT", "15432")), self.secrets["postgres_password"], self.logs / "postgres.log")
            self.say("PostgreSQL …")
            self.servers.append(server)
            server.start()
            self.extra["DATABASE_URL"] = server.url
        if "REDIS_URL" not in os.environ:
            server = Redis(self.var, int(os.environ.get("REDIS_PORT", "16379")), self.secrets["redis_password"], self.logs / "redis.log")
            self.say("Redis …")
            self.servers.append(server)
            server.start()
            self.extra["REDIS_URL"] = server.url
        self.extra |= {"GATEWAY_URL": f"http://localhost:{self.gateway_port}", "GATEWAY_WS_URL": f"ws://localhost:{self.gateway_port}",
                       "PORTAL_URL": f"http://localhost:{self.portal_port}", "BILLING_SANDBOX_PORT": str(self.sandbox_port)}  # fmt: skip
        if "billing_sandbox" in self.options.parts:
            self.extra |= {"BILLING_SANDBOX_SECRET_KEY": self.secrets["billing_sandbox_key"],
                           "BILLING_SANDBOX_WEBHOOK_SECRET": os.environ.get("STRIPE_WEBHOOK_SECRET") or self.secrets["stripe_webhook_secret"]}  # fmt: skip

    def _wanted_ports(self) -> list[tuple[str, int]]:
        ports = {"gateway": self.gateway_port, "portal": self.portal_port, "billing_sandbox": self.sandbox_port}
        return [(name, port) for name, port in ports.items() if name in self.options.parts]

    def migrate(self) -> dict[str, str]:
        self.say("database: migrations and the demo workspace …")
        known = self._read_demo()
        command = [sys.executable, "manage.py", "bootstrap", "--demo", "--json"]
        result = subprocess.run(command, cwd=ROOT, env=processes.environment(self.extra), input=json.dumps(known), text=True, capture_output=True, timeout=600)
        if result.returncode:
            raise LaunchError(f"the database could not be prepared:\n{result.stderr.strip()[-1500:]}")
        return json.loads(result.stdout.strip().splitlines()[-1])

    def _read_demo(self) -> dict[str, str]:
        try:
            lines = (self.var / "demo.env").read_text().splitlines()
        except OSError:
            return {}
        values = dict(line.split("=", 1) for line in lines if "=" in line)
        return {"password": values.get("PORTAL_PASSWORD", ""), "api_key": values.get("VOICE_API_KEY", "")}

    def start_children(self) -> None:
        table = {
            "stt": processes.worker("stt"), "llm": processes.worker("llm"), "tts": processes.worker("tts"),
            "gateway": processes.gateway(self.gateway_port), "portal": processes.portal(self.portal_port),
            "default": processes.default_worker(), "beat": processes.beat(self.var),
            "billing_sandbox": processes.billing_sandbox(self.sandbox_port, self.var / "billing_sandbox", f"http://127.0.0.1:{self.portal_port}/stripe/webhook"),
        }  # fmt: skip
        names = [n for n in table if n in self.options.parts]
        if not names:
            return
        self.say("starting " + ", ".join(names) + " …")
        environment = processes.environment(self.extra)
        # the portal, mail worker and beat are not needed for the first answer: a moment later, so that it comes sooner
        for name in names:
            running = Running(table[name], environment, self.logs / f"{name}.log")
            self.running.append(running)
            if name not in ("default", "beat"):
                running.start()

    def wait_ready(self) -> bool:
        """Wait until each part answers; start what could wait."""
        until = time.monotonic() + READY_S
        waiting = [r for r in self.running if r.child.ready]
        if {"gateway", "stt", "llm", "tts"} <= set(self.options.parts):
            self._wait_url(f"http://127.0.0.1:{self.gateway_port}/ready", until)
        for running in waiting:
            self._wait_url(f"http://127.0.0.1:{running.child.port}{running.child.ready}", until)
        for running in self.running:
            if running.process is None:
                running.start()
        return not self.stopping.is_set()

    def _wait_url(self, url: str, until: float) -> None:
        problem = ""
        while not self.stopping.wait(0.1):
            if time.monotonic() > until:
                raise LaunchError(f"{url} does not answer well after {READY_S} s ({problem}); the logs are in {self.logs}")
            for running in self.running:
                running.watch(self.say)
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except urllib.error.HTTPError as error:
                problem = error.read().decode(errors="replace")[:300]
            except OSError as error:
                problem = str(error)

    def finish(self, demo: dict[str, str]) -> None:
        values = {
            "VOICE_BASE_URL": f"http://localhost:{self.gateway_port}/v1", "VOICE_WS_URL": f"ws://localhost:{self.gateway_port}/v1/realtime",
            "VOICE_API_KEY": demo["api_key"], "PORTAL_URL": f"http://localhost:{self.portal_port}", "PORTAL_EMAIL": demo["email"],
            "PORTAL_PASSWORD": demo["password"],
        }  # fmt: skip
        self._write_private(self.var / "demo.env", "".join(f"{k}={v}\n" for k, v in values.items()))
        if self.options.talk and set(PARTS[:1] + PARTS[2:5]) <= set(self.options.parts):
            self._talk(values)
        print(f"ready: voice {values['VOICE_WS_URL']}  portal {values['PORTAL_URL']}  sign in as {demo['email']} / {demo['password']}  "
              f"key in {self.var / 'demo.env'}  ({time.monotonic() - self.began:.1f} s)", flush=True)  # fmt: skip

    def _talk(self, values: dict[str, str]) -> None:
        self.say("asking a spoken question through the gateway …")
        command = [sys.executable, "-m", "voice.gateway.talk", "samples/question.wav", "--url", values["VOICE_WS_URL"]]
        environment = processes.environment(self.extra | {"VOICE_API_KEY": values["VOICE_API_KEY"]})
        result = subprocess.run(command, cwd=ROOT, env=environment, timeout=60)
        if result.returncode:
            raise LaunchError(f"the spoken question was not answered; the logs are in {self.logs}")

    def watch(self) -> None:
        while not self.stopping.wait(0.2):
            for running in self.running:
                running.watch(self.say)
            for server in self.servers:
                if server.process and server.process.poll() is not None:
                    self.say(f"{type(server).__name__} ended ({server.process.returncode}); starting it again")
                    server.start()

    def stop(self) -> None:
        """Everything ends within 10 s: children first, then the servers they use."""
        alive = [r.process for r in self.running if r.process and r.process.poll() is None]
        if alive or any(s.process for s in self.servers):
            self.say("stopping …")
        for process in alive:
            process.terminate()
        until = time.monotonic() + STOP_S - 2
        for process in alive:
            try:
                process.wait(max(0.05, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(1)
        for server in self.servers:
            server.stop()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="manage.py up", description="Start every part of Vivavoce in the foreground.")
    parser.add_argument("--only", help=f"comma-separated parts to start, of: {', '.join(PARTS)} (databases start unless their URL is set)")
    parser.add_argument("--no-workers", action="store_true", help="start no engine workers")
    parser.add_argument("--no-talk", dest="talk", action="store_false", help="do not ask the spoken question")
    options = parser.parse_args(arguments)
    options.parts = list(PARTS)
    if options.only is not None:
        options.parts = [p.strip() for p in options.only.split(",") if p.strip()]
        if unknown := set(options.parts) - set(PARTS):
            parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    if options.no_workers:
        options.parts = [p for p in options.parts if p not in ("stt", "llm", "tts")]
    return options


def main(arguments: list[str]) -> int:
    return Up(parse(arguments)).run()
