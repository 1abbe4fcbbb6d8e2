"""The whole product on a Redis behind Sentinels: the master dies, another takes over, callers are answered again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redis

from apps.common.launch.servers import Redis, die_with_parent, free_port, new_secret
from tests.e2e.client import Client, Refused
from tests.infrastructure import Stack

FAIL_OVER_S = 30


class Guarded:
    """A master, a replica and three Sentinels, which give a dead master up after a second."""

    def __init__(self, folder: Path):
        self.password = new_secret()
        self.servers = [Redis(folder / name, free_port(), self.password, folder / f"{name}.log", durable=False) for name in ("one", "two")]
        for server in self.servers:
            server.folder.mkdir(parents=True)
            server.start()
            server._client().config_set("masterauth", self.password)
        self.servers[1]._client().replicaof("127.0.0.1", self.servers[0].port)
        self.ports = [free_port() for _ in range(3)]
        self.sentinels = [self._sentinel(folder, port) for port in self.ports]
        self.url = f"redis+sentinel://:{self.password}@{','.join(f'127.0.0.1:{port}' for port in self.ports)}/vivavoce/0"
        self._wait()

    def _sentinel(self, folder: Path, port: int) -> subprocess.Popen:
        config = folder / f"sentinel-{port}.conf"
        config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor vivavoce 127.0.0.1 {self.servers[0].port} 2\n"
                          f"sentinel auth-pass vivavoce {self.password}\nsentinel down-after-milliseconds vivavoce 1000\n"
                          "sentinel failover-timeout vivavoce 5000\n")  # fmt: skip
        with open(folder / f"sentinel-{port}.log", "ab") as log:
            return subprocess.Popen([self.servers[0]._binary(), str(config), "--sentinel"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                    preexec_fn=die_with_parent(), start_new_session=True)  # fmt: skip

    def _wait(self) -> None:
        """Until all Sentinels know each other and the replica."""
        until = time.monotonic() + 30
        for port in self.ports:
            while True:
                try:
                    state = redis.Redis(port=port, socket_timeout=1).sentinel_master("vivavoce")
                    if state["num-other-sentinels"] == 2 and state["num-slaves"] == 1:
                        break
                except redis.RedisError:
                    pass
                assert time.monotonic() < until, "the Sentinels do not find each other"
                time.sleep(0.1)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
            sentinel.wait(5)
        for server in self.servers:
            if server.process.poll() is None:
                server.stop()


class GuardedStack(Stack):
    """Its processes know Redis by its Sentinels only."""

    def __init__(self, folder: Path, url: str):
        super().__init__(folder)
        self.redis_url = url

    def run(self, child, **environment: str) -> subprocess.Popen:
        return super().run(child, REDIS_URL=self.redis_url, **environment)


@pytest.fixture(scope="module")
def guarded(database):
    folder = Path(tempfile.mkdtemp(prefix="vivavoce-sentinel-"))
    servers = Guarded(folder)
    stack = GuardedStack(folder, servers.url)
    stack.external = False
    try:
        stack.start()
        yield stack, servers
    finally:
        stack.stop()
        servers.stop()


async def test_callers_are_answered_again_after_a_fail_over(guarded):
    stack, servers = guarded
    _, secret = await asyncio.to_thread(stack.new_tenant, "sentinel")
    async with Client(stack.realtime, secret) as client:
        await client.type("what is seven plus five")
        assert "twelve" in (await client.answer())["output"][0]["content"][0]["transcript"].lower()
    os.kill(servers.servers[0].process.pid, signal.SIGKILL)
    killed = time.monotonic()
    while True:
        assert time.monotonic() - killed < FAIL_OVER_S, f"not answered {FAIL_OVER_S} s after the master died\n{stack.logs()}"
        try:
            async with Client(stack.realtime, secret) as client:
                await client.type("what is seven plus five")
                answer = await client.answer()
                if answer["status"] == "completed" and "twelve" in answer["output"][0]["content"][0]["transcript"].lower():
                    break
        except (Refused, AssertionError, OSError):
            pass
        await asyncio.sleep(0.5)
    assert servers.servers[1]._client().role()[0] == b"master"
