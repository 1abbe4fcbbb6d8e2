"""Clients that lie at the level of bytes and of events: each is answered legally and the log tells of no unhandled exception.
The full form is `python -m bench.fuzz`."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.e2e.client import Client
from tests.fuzzing import attack, faults, noise, size, workspace
from tests.rfc6455 import cases, run

AT_ONCE = 10


@pytest.fixture(scope="module")
def key(stack):
    return workspace(stack)


@pytest.fixture
def address(stack):
    host, _, port = stack.ws_url.rpartition("/")[2].rpartition(":")
    return host, int(port)


@pytest.fixture
def log(stack):
    """Nothing unhandled may be in the gateway's log afterwards (where it is a gateway of ours)."""
    path = stack.folder / "gateway.log"
    offset = size(path)
    yield
    assert not path.exists() or faults(path, offset) == []


async def test_rfc_6455_case_by_case(address, key, log):
    wrong = []
    every = cases()
    for first in range(0, len(every), AT_ONCE):
        batch = every[first : first + AT_ONCE]
        for case, seen in zip(batch, await asyncio.gather(*(run(case, *address, key) for case in batch)), strict=True):
            if seen not in case.legal:
                wrong.append((case.name, case.legal, seen))
    assert len(every) >= 200 and wrong == []


async def test_noise_on_the_socket(address, key, log):
    ended = Counter()
    for first in range(0, 60, AT_ONCE):
        ended.update(await asyncio.gather(*(noise(*address, key, seed) for seed in range(first, first + AT_ONCE))))
    assert ended.total() == 60


async def test_mutated_events(stack, key, log):
    """Ten thousand over ten connections; at the end each session still answers."""
    answers = await asyncio.gather(*(attack(lambda: Client(stack.realtime, key), 1000, seed) for seed in range(10)))
    assert min(a.total() for a in answers) > 250
