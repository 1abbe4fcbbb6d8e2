"""An orderly end of this process: no new sessions, running turns are finished, then each session moves to another gateway by 1012 and resume."""

from __future__ import annotations

import asyncio
import logging

from voice.gateway import clock
from voice.gateway.admission import admission
from voice.gateway.live import Live, lives

log = logging.getLogger("voice.drain")
DRAIN_S = 22.0  # after it a turn is moved in its middle; with the server's own closing the process ends within 30 s
WARNED_S = 0.5  # between the warning and the first close
STEP_S = 0.05
LEAVE_S = 3.0


async def drain() -> None:
    admission.draining = True
    until = clock.now() + DRAIN_S
    log.info("draining %d sessions", len(lives))
    if lives:
        for live in list(lives.values()):
            live.warn(round(DRAIN_S))
        await asyncio.sleep(WARNED_S)
    while lives and clock.now() < until:
        for live in [v for v in lives.values() if not v.busy]:
            await _move(live)
        await asyncio.sleep(STEP_S)
    for live in list(lives.values()):
        await _move(live)
    until = clock.now() + LEAVE_S
    while lives and clock.now() < until:
        await asyncio.sleep(STEP_S)
    log.info("drained; %d sessions were not moved in time", len(lives))


async def _move(live: Live) -> None:
    if live.connection is not None:
        live.connection.close(1012, "server_restarting")
    elif not live.over:
        await live.leave()
