"""uvicorn's WebSocket protocol with a read-ahead in bytes.

The stock one pauses the socket after every message and resumes it when the message was taken: two system calls a frame
of audio. Here it pauses once READ_AHEAD_BYTES wait to be taken, so that memory stays bounded and a frame costs neither.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

READ_AHEAD_BYTES = 128 * 1024


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

    async def receive(self):
        message = await super().receive()
        if self.queue.empty():
            self.unread_bytes = 0
        return message
