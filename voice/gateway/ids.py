"""Ids inside a session: 80 random bits, short enough for call ids (at most 32 characters)."""

from __future__ import annotations

import secrets

BYTES, AT_ONCE = 10, 256
_ready: list[str] = []


def make_id(prefix: str) -> str:
    """E.g. "item_9f2c…" (20 hex digits). The kernel is asked for many at a time: each time, another thread may take the interpreter."""
    if not _ready:
        many = secrets.token_hex(BYTES * AT_ONCE)
        _ready.extend(many[at : at + 2 * BYTES] for at in range(0, len(many), 2 * BYTES))
    return f"{prefix}_{_ready.pop()}"
