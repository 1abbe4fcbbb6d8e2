"""Messages from elsewhere to one session: its key was revoked, its workspace suspended (docs/architecture.md, "Control messages")."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from channels.layers import get_channel_layer

from voice.gateway.recorder import ERRORS

if TYPE_CHECKING:
    from voice.gateway.live import Live

log = logging.getLogger("voice.gateway")


async def listen(live: Live) -> None:
    """Until the session is ended or taken over."""
    layer = get_channel_layer()
    tenant_id, key_id = live.place.owner
    groups = (f"tenant.{tenant_id}", f"key.{key_id}", f"session.{live.id}")
    while True:
        try:
            channel = await layer.new_channel()
            for group in groups:
                await layer.group_add(group, channel)
            try:
                while True:
                    message = await layer.receive(channel)
                    if message["type"] == "session.end":
                        return live.end(message["code"], message["message"])
                    if message["type"] == "session.moved" and message["token"] != live.record.token:
                        return live.fenced()
            finally:
                for group in groups:
                    await layer.group_discard(group, channel)
        except ERRORS as error:
            log.warning("control messages: redis is away (%s)", type(error).__name__)
            await asyncio.sleep(1)
