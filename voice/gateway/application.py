"""The gateway's ASGI application: /v1/realtime as WebSocket, everything else to Django with the gateway's URLs."""

from __future__ import annotations

import gc
import sys

from voice.gateway.admission import admission
from voice.gateway.consumer import RealtimeConsumer
from voice.gateway.rest.uploads import capped

PATH = "/v1/realtime"
SWITCH_S = 0.0005  # a thread that writes to the database gives the event loop its turn after so long; Python's own 5 ms would hold up every session


def build(django):
    """`django`: its ASGI handler, whose settings name the gateway's URLconf."""
    realtime = RealtimeConsumer.as_asgi()

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await capped(django, scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"].rstrip("/") == PATH:
            await realtime(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)

    return application


async def say_draining(send) -> None:
    """So that a load balancer sends nobody here any more."""
    await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"status": "draining"}'})


async def lifespan(receive, send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            settle_memory()
            sys.setswitchinterval(SWITCH_S)
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def settle_memory() -> None:
    """What was imported stays for good: the collector need not walk it again, which would stop every session for a moment."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 5)  # what rings are left (Django's queries, errors) must not wait for millions of others
