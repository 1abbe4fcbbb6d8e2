"""uvicorn's WebSocket protocol with a read-ahead in bytes.

The stock one pauses the socket after every message and resumes it when the message was taken: two system calls a frame
of audio. Here it pauses once READ_AHEAD_BYTES wait to be taken, so that memory stays bounded and a frame costs neither.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

READ_AHEAD_BYTES = 128 * 1024
UNREADABLE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class RealtimeProtocol(WebSocketsSansIOProtocol):
    unread_bytes = 0

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
