"""How many sessions this process takes, and whether it is draining."""

from __future__ import annotations

from apps.common.errors import Overloaded

RETRY_AFTER_S = 2


class Admission:
    def __init__(self, limit: int):
        self.limit, self.live, self.draining = limit, 0, False

    def enter(self) -> None:
        """Count one more session. Raises Overloaded."""
        if self.draining:
            raise Overloaded("This gateway is shutting down; connect again.", retry_after_s=RETRY_AFTER_S)
        if self.live >= self.limit:
            raise Overloaded(f"This gateway holds {self.limit} sessions already; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        self.live += 1

    def leave(self) -> None:
        self.live -= 1
