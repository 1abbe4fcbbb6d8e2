"""Usage held ahead for one live session under a cap: a task beside the session, so that its audio path asks nobody.

While the cap allows it the task holds AHEAD_MS more than was used. When it does not, the session uses up what it holds, asks again and
again (others give back), and ends at the last held unit. What it used beyond, in the tenth of a second between two looks, is not billed:
the ledger takes no more than was held (apps/usage/reservations.py: within).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from django.db import Error as DatabaseError

from apps.tenants.context import Bound, in_tenant
from apps.usage.alerts import cap_reached
from apps.usage.reservations import SECOND, hold

log = logging.getLogger("voice.purse")
AHEAD_MS = 3000
LOOK_S, DRY_S = 0.5, 0.1
RENEW_LOOKS = 40


class Purse:
    def __init__(self, tenant: Bound, session_id: str, used: Callable[[], Mapping[str, int]], end: Callable[[str, str], None]):
        """`used`: meter -> units of the session so far; `end(code, message)`: the cap is reached."""
        self._tenant, self._session_id, self._used, self._end = tenant, session_id, used, end
        self._before = dict(used())  # the cap came later than the session: what it used until now is in the ledger, or soon will be
        self._held: dict[str, int] = {}  # all that was ever held
        self._dry = False

    async def run(self) -> None:
        """Until the cap is reached; cancel it when the session is over."""
        looks = 0
        while True:
            try:
                await self._look(renew=looks % RENEW_LOOKS == 0)
            except (DatabaseError, OSError) as error:  # the session goes on; what cannot be held now is held when its turn is written
                log.warning("purse of %s: %s", self._session_id, type(error).__name__)
            used = self._spent()
            if self._dry and any(used[m] >= held for m, held in self._held.items()):
                return self._end(*await self._reason())
            looks += 1
            await asyncio.sleep(DRY_S if self._dry else LOOK_S)

    def _spent(self) -> dict[str, int]:
        return {m: units - self._before.get(m, 0) for m, units in self._used().items()}

    async def _look(self, renew: bool) -> None:
        used = self._spent()
        ahead = {m: used[m] + (AHEAD_MS if m in SECOND else 0) - self._held.get(m, 0) for m in used}
        if not renew and not self._dry and all(units <= AHEAD_MS // 2 if m in SECOND else units <= 0 for m, units in ahead.items()):
            return
        for wanted in (ahead, {m: units - AHEAD_MS + SECOND[m] if m in SECOND else units for m, units in ahead.items()}):
            allowed, units = await in_tenant(self._tenant, hold, session_id=self._session_id, units=wanted)
            for meter in units:
                self._held[meter] = self._held.get(meter, 0) + (units[meter] if allowed else 0)
            self._dry = not allowed
            if allowed:
                return

    async def _reason(self) -> tuple[str, str]:
        try:
            return await in_tenant(self._tenant, cap_reached)
        except (DatabaseError, OSError):
            return "insufficient_quota", "The usage of this workspace is used up."
