from __future__ import annotations

import pytest

from tests.e2e.client import Client


@pytest.fixture(scope="session")
def caller(stack):
    """(tenant, secret) of a workspace for calls that need no tenant of their own."""
    return stack.new_tenant("calls")


@pytest.fixture
def dial(stack, caller):
    """dial(query="") -> a client to enter with `async with`."""
    return lambda query="", key=None: Client(stack.realtime, key or caller[1], query)
