"""The time of sessions: unix seconds that never go back within a process, so that another process can go on with a session's times."""

from __future__ import annotations

import time

_EPOCH = time.time() - time.monotonic()


def now() -> float:
    return time.monotonic() + _EPOCH
