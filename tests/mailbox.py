"""An SMTP server that keeps what it is given."""

from __future__ import annotations

import email
import threading
from email.policy import default

from aiosmtpd.controller import Controller

from apps.common.launch.servers import free_port


class Mailbox:
    def __init__(self):
        self._mails: list[tuple[str, str]] = []
        self._news = threading.Condition()
        self._controller = Controller(self, hostname="127.0.0.1", port=free_port())
        self._controller.start()
        self.url = f"smtp+plain://127.0.0.1:{self._controller.port}"

    async def handle_DATA(self, server, session, envelope) -> str:
        message = email.message_from_bytes(envelope.content, policy=default)
        with self._news:
            self._mails += [(to.lower(), f"{message['subject']}\n{message.get_content()}") for to in envelope.rcpt_tos]
            self._news.notify_all()
        return "250 kept"

    def of(self, address: str) -> list[str]:
        return [text for to, text in self._mails if to == address.lower()]

    def wait(self, address: str, having: str = "", timeout_s: float = 30) -> str:
        """The newest mail to an address whose text holds `having`. Raises AssertionError when none comes."""
        def newest():
            return next((t for t in reversed(self.of(address)) if having in t), None)

        with self._news:
            assert self._news.wait_for(newest, timeout_s), f"no mail with {having!r} to {address}: {self.of(address)}"
            return newest()

    def stop(self) -> None:
        self._controller.stop()
