"""`manage.py up` as its user meets it: starts, stops, starts again, and says plainly what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from apps.common.launch.servers import LaunchError, check_disk, free_port
from tests.infrastructure import ROOT

PORTS = ("POSTGRES_PORT", "REDIS_PORT", "GATEWAY_PORT", "PORTAL_PORT", "BILLING_SANDBOX_PORT")
START_S = 120
pytestmark = pytest.mark.timeout(300)


class Launched:
    def __init__(self, var: Path, ports: dict[str, str], *arguments: str):
        hidden = ("DATABASE_URL", "REDIS_URL", "VIVAVOCE_VAR", "SECRET_KEY", "DJANGO_SETTINGS_MODULE")
        environment = {k: v for k, v in os.environ.items() if k not in hidden} | ports | {"VIVAVOCE_VAR": str(var)}
        self.began = time.monotonic()
        self.file = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([sys.executable, "manage.py", "up", *arguments], cwd=ROOT, env=environment, stdout=self.file,
                                        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # fmt: skip

    @property
    def output(self) -> str:
        return Path(f"/proc/self/fd/{self.file.fileno()}").read_text()

    def until(self, words: str) -> float:
        while words not in self.output:
            assert time.monotonic() - self.began < START_S and self.process.poll() is None, self.output
            time.sleep(0.05)
        return time.monotonic() - self.began

    def refused(self) -> str:
        """What it said when it did not start."""
        assert self.process.wait(60) in (1, 2), self.output
        assert "Traceback" not in self.output
        return self.output

    def end(self, sig: int = signal.SIGTERM) -> float:
        began = time.monotonic()
        self.process.send_signal(sig)
        self.process.wait(15)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("var")
    for path in (folder, *folder.parents):
        if path != Path("/tmp") and path.stat().st_uid == os.getuid() and path.is_relative_to("/tmp"):
            path.chmod(0o755)
    return folder, {name: str(free_port()) for name in PORTS}


def children(var: Path) -> list[str]:
    """Processes whose environment or arguments name this var folder."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            text = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
            if str(var).encode() in text and int(proc.name) != os.getpid() and (proc / "stat").read_text().split(")")[1].split()[0] != "Z":
                found.append((proc / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_everything_starts_answers_stops_and_starts_again(place):
    var, ports = place
    up = Launched(var, ports)
    up.until("\nready:")
    assert "what is seven plus five" in up.output and "Seven plus five is twelve." in up.output and "█" in up.output
    values = dict(line.split("=", 1) for line in (var / "demo.env").read_text().splitlines())
    assert set(values) == {"VOICE_BASE_URL", "VOICE_WS_URL", "VOICE_API_KEY", "PORTAL_URL", "PORTAL_EMAIL", "PORTAL_PASSWORD"}
    health = urllib.request.urlopen(f"http://127.0.0.1:{ports['BILLING_SANDBOX_PORT']}/_sandbox/health", timeout=5).read()
    assert b"stand-in for Stripe" in health
    assert (var / "demo.env").stat().st_mode & 0o077 == 0 and (var / "secrets.json").stat().st_mode & 0o077 == 0
    second = Launched(var, {**ports, **{n: str(free_port()) for n in ("GATEWAY_PORT", "PORTAL_PORT", "BILLING_SANDBOX_PORT")}})
    assert "runs already" in second.refused()
    assert up.end(signal.SIGINT) < 10 and up.process.returncode == 0
    assert children(var) == []

    again = Launched(var, ports)
    seconds = again.until("\nready:")
    print(f"second start: {seconds:.1f} s")
    assert dict(line.split("=", 1) for line in (var / "demo.env").read_text().splitlines()) == values  # the key still works
    again.process.kill()  # killed: what it started goes with it, and the next start is a normal one
    again.process.wait(5)
    until = time.monotonic() + 10
    while children(var) and time.monotonic() < until:
        time.sleep(0.1)
    assert children(var) == []
    third = Launched(var, ports, "--no-talk")
    third.until("\nready:")
    assert third.end() < 10


def test_parts_can_be_started_alone(place):
    var, ports = place
    up = Launched(var, ports, "--only", "portal")
    up.until("\nready:")
    assert "gateway" not in up.output.split("starting ")[1].split("…")[0]
    assert up.end() < 10


def test_an_unknown_part_is_refused(place):
    up = Launched(*place, "--only", "gatway")
    assert "gateway, portal" in up.refused()


@pytest.mark.parametrize("name", PORTS)
def test_a_port_in_use_is_named(place, name):
    var, ports = place
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(ports[name])))
        other.listen()
        text = Launched(var, ports).refused()
    assert f"port {ports[name]}" in text and name in text


def test_damaged_secrets_are_not_overwritten(place):
    var, ports = place
    path = var / "secrets.json"
    good = path.read_text()
    for bad in ("{", "[]"):
        path.write_text(bad)
        assert "restore it from a backup" in Launched(var, ports).refused()
        assert path.read_text() == bad
    path.unlink()
    if os.geteuid():  # as root the database may lie elsewhere
        assert "restore" in Launched(var, ports).refused()
    path.write_text(good)
    assert json.loads(good)


def test_a_damaged_database_folder_is_left_alone(tmp_path):
    tmp_path.chmod(0o755)
    for path in tmp_path.parents:
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "precious").write_text("data")
    (tmp_path / "secrets.json").write_text(json.dumps({"secret_key": "a", "postgres_password": "b", "redis_password": "c"}))
    text = Launched(tmp_path, {name: str(free_port()) for name in PORTS}).refused()
    assert "not a complete database folder" in text
    assert (tmp_path / "postgres" / "precious").read_text() == "data"


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(LaunchError, match="Free some space"):
        check_disk(tmp_path, need_mb=10**9)
