"""`python -m voice.gateway.serve`: the gateway on uvicorn (uvloop, websockets without its own I/O)."""

from __future__ import annotations

import argparse
import os

GRACE_S = 4


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the realtime gateway.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=25000)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")
    os.environ["VIVAVOCE_URLCONF"] = "config.urls.gateway"
    import uvicorn
    from django.conf import settings

    class Server(uvicorn.Server):
        """uvicorn's, which finishes running turns before it closes."""

        async def shutdown(self, sockets=None) -> None:
            from voice.gateway.drain import drain

            await drain()
            await super().shutdown(sockets)

    voice = settings.VOICE
    wanted = uvicorn.Config("config.asgi:gateway", host=options.host, port=options.port, loop="uvloop",
                ws="voice.gateway.socket:RealtimeProtocol", http="voice.gateway.socket:HandshakeProtocol",
                ws_max_size=voice.MAX_FRAME_BYTES, ws_ping_interval=voice.PING_SECONDS, ws_ping_timeout=2 * voice.PING_SECONDS,
                ws_per_message_deflate=voice.WEBSOCKET_COMPRESSION, timeout_graceful_shutdown=GRACE_S,
                access_log=False, log_config=None, server_header=False)  # fmt: skip
    Server(wanted).run()


if __name__ == "__main__":
    main()
