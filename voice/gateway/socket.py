"""uvicorn's WebSocket protocol with a read-ahead in bytes.

The stock one pauses the socket after every message and resumes it when the message was taken: two system calls a frame
of audio. Here it pauses once READ_AHEAD_BYTES wait to be taken, so that memory stays bounded and a frame costs neither.
"""

from __future__ import annotations

import os
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

READ_AHEAD_BYTES = 128 * 1024
SEND_BYTES = 128 * 1024  # the kernel holds twice this for a client: two seconds of sound, and not the megabytes it would grow to
UNREADABLE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HandshakeProtocol(HttpToolsProtocol):
    """uvicorn's HTTP, which lets go of its parser when a WebSocket takes the connection over: they know each other."""

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self.parser = None


class RealtimeProtocol(WebSocketsSansIOProtocol):
    unread_bytes = 0

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:  # uvloop's object cannot be set
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)

    def send_receive_event_to_app(self) -> None:
        self.unread_bytes += sum(len(part) for part in self.frames)
        paused, self.read_paused = self.read_paused, True  # so that the base class does not pause
        super().send_receive_event_to_app()
        self.read_paused = paused
        if not paused and self.unread_bytes >= READ_AHEAD_BYTES and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """A request that cannot be read is answered; the stock protocol says nothing and keeps the connection."""
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(UNREADABLE)
            self.transport.close()

    async def send(self, message) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # refused by its status: that is an answer, too

    async def receive(self):
        message = await super().receive()
        if self.queue.empty():
            self.unread_bytes = 0
        return message
