"""The gateway's side of limits: places of live sessions, what a turn may spend, and a patrol that reads standings anew.

Every PATROL_S one query tells for all keys with a live session whether they may go on and under which limits: a changed limit
counts within seconds, and a revoked key ends its sessions even when the message about it was lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from django.db import Error as DatabaseError

from apps.apikeys.services import Principal
from apps.common.errors import RateLimited
from apps.tenants.context import in_public
from apps.usage.limits import Level, Standing, Window, limiter, standings
from voice.gateway import clock

log = logging.getLogger("voice.limits")
PATROL_S = 3.0
LOOK_S = 5.0
WORDS = {"account_deactivated": "This workspace is not active.", "invalid_api_key": "The API key is no longer valid."}


def nobody(code: str, message: str) -> None:
    """Ends a place whose session does not run: nothing to end."""


def nothing() -> None:
    """Nobody is told."""


@dataclass(eq=False)
class Place:
    """A live session: whose it is, and how to end it."""

    session_id: str
    principal: Principal
    levels: tuple[Level, ...]
    end: Callable[[str, str], None] = nobody
    capped: bool = False  # its usage is held ahead
    on_cap: Callable[[], None] = nothing  # `capped` has changed

    @property
    def owner(self) -> tuple[str, str]:
        return self.principal.tenant.tenant_id, self.principal.key_id

    def told(self, name: str) -> list[tuple[str, int]]:
        """(holder, limit) of the levels that have this one."""
        return [(level.id, level.values[name]) for level in self.levels if level.values.get(name) is not None]

    async def spend(self, name: str, cost: int = 1) -> Window | None:
        """Raises RateLimited, InsufficientQuota."""
        return await asyncio.to_thread(limiter().spend, self.levels, name, cost)

    async def check(self, name: str) -> Window | None:
        return await asyncio.to_thread(limiter().check, self.levels, name)

    async def quota(self) -> dict[str, int | None]:
        """What is left of the day's audio and of sessions at once, of the workspace."""
        def look() -> dict[str, int | None]:
            window = limiter().check(self.levels, "audio_minutes_per_day")
            own = next((level for level in self.levels if level.id == self.owner[0]), None)
            return {"audio_seconds_left": window.remaining * 60 if window else None, "sessions_active": limiter().live(self.owner[0]),
                    "sessions_limit": own.values.get("concurrent_sessions") if own else None}  # fmt: skip

        return await asyncio.to_thread(look)

    async def count(self, name: str, cost: int) -> None:
        await asyncio.to_thread(limiter().count, self.levels, name, cost)


def window_of(levels: tuple[Level, ...], default: int) -> int:
    """Seconds a lost connection may come back: the smallest of the levels that say so, 10 to 3600."""
    told = [level.values["resume_seconds"] for level in levels if "resume_seconds" in level.values]
    return max(10, min(3600, *(told or [default])))


class Patrol:
    """`away_since`: PostgreSQL does not answer since then (unix seconds); 0: it does."""

    def __init__(self) -> None:
        self.away_since = 0.0
        self.listeners: list[Callable[[bool], None]] = []  # told when it goes and comes
        self._places: set[Place] = set()
        self._task: asyncio.Task | None = None

    async def enter(self, place: Place) -> None:
        """Raises SessionLimitReached."""
        await asyncio.to_thread(limiter().enter, place.levels, place.session_id)
        self._places.add(place)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._walk(), name="patrol")

    def drop(self, place: Place) -> None:
        """It is another process's now."""
        self._places.discard(place)
        place.end, place.on_cap = nobody, nothing  # it keeps its session no longer

    async def leave(self, place: Place) -> None:
        self.drop(place)
        await asyncio.to_thread(limiter().leave, place.levels, place.session_id)

    async def _walk(self) -> None:
        while self._places:
            await asyncio.sleep(PATROL_S)
            try:
                await asyncio.wait_for(self._look(), LOOK_S)
                self._tell(0.0)
            except (DatabaseError, OSError) as error:  # the latter: it takes too long
                log.warning("patrol: %s; limits stay as they were", type(error).__name__)
                self._tell(self.away_since or clock.now())

    def _tell(self, away_since: float) -> None:
        changed, self.away_since = bool(away_since) != bool(self.away_since), away_since
        for listener in self.listeners if changed else ():
            listener(bool(away_since))

    async def _look(self) -> None:
        places = list(self._places)
        found: dict[tuple[str, str], Standing] = await in_public(standings, sorted({p.owner for p in places}))
        for place in places:
            standing = found[place.owner]
            if standing.refused:
                place.end(standing.refused, WORDS[standing.refused])
            else:
                place.levels = standing.levels
                if place.capped != standing.capped:
                    place.capped = standing.capped
                    place.on_cap()
        await asyncio.to_thread(limiter().hold, {p.session_id: p.levels for p in self._places})


patrol = Patrol()
