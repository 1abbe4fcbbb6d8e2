"""The billing sandbox as a process of its own, with a client of stripe-python's and a listener for its webhooks."""

from __future__ import annotations

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import stripe

from apps.common.launch.servers import die_with_parent, free_port, new_secret

ROOT = Path(__file__).resolve().parent.parent


class Listener:
    """A webhook endpoint: verifies and keeps events; `refusals` first answers are 500."""

    def __init__(self):
        self.secret = "whsec_" + new_secret()
        self.refusals = 0
        self.events: list[stripe.Event] = []
        self._news = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(outer.take(body, self.headers["Stripe-Signature"]))
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, body: bytes, signature: str) -> int:
        event = stripe.Webhook.construct_event(body, signature, self.secret)
        with self._news:
            if self.refusals:
                self.refusals -= 1
                return 500
            self.events.append(event)
            self._news.notify_all()
        return 200

    def wait(self, check, timeout_s: float = 20) -> None:
        """Until `check(events)`. Raises AssertionError."""
        with self._news:
            assert self._news.wait_for(lambda: check(self.events), timeout_s), [e.type for e in self.events]

    def stop(self) -> None:
        self._server.shutdown()


class RunningSandbox:
    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.key = "sk_test_" + new_secret(alphanumeric=True)
        self.url = f"http://127.0.0.1:{self.port}"
        self.listener = Listener()
        self.process: subprocess.Popen | None = None
        self.client = stripe.StripeClient(self.key, base_addresses={"api": self.url}, max_network_retries=0, http_client=stripe.RequestsClient(timeout=30)).v1

    def start(self) -> None:
        command = [sys.executable, "-m", "tools.billing_sandbox", "--port", str(self.port), "--data", str(self.folder), "--secret-key", self.key,
                   "--webhook-url", self.listener.url, "--webhook-secret", self.listener.secret]  # fmt: skip
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent(), start_new_session=True)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(self.url + "/_sandbox/health", timeout=2)
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("the sandbox did not start: " + (self.folder / "log").read_text()[-2000:])

    def end(self, sig: int = signal.SIGTERM) -> None:
        self.process.send_signal(sig)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.end()
        self.listener.stop()

    def door(self, path: str, **values) -> dict:
        request = urllib.request.Request(f"{self.url}/_sandbox/{path}", json.dumps(values).encode() if values else None, {"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def now(self) -> int:
        return self.door("clock")["now"]

    def pass_days(self, days: float) -> None:
        self.door("clock", advance=int(days * 86_400))
