"""Audio between the client's format and the PCM16 24 kHz inside, for one connection."""

from __future__ import annotations

from voice.audio.telephony import FromTelephone, ToTelephone

PCM = "audio/pcm"


class Sound:
    def __init__(self) -> None:
        self._incoming: FromTelephone | None = None
        self._outgoing: ToTelephone | None = None
        self._speaks = ("", "")  # item and format the encoder is at

    def incoming(self, raw: bytes, format: str) -> bytes:
        if format == PCM:
            return raw
        if self._incoming is None or self._incoming.law != format:
            self._incoming = FromTelephone(format)
        return self._incoming.push(raw)

    def outgoing(self, pcm: bytes, format: str, item_id: str) -> bytes:
        if format == PCM:
            return pcm
        if self._outgoing is None or self._speaks != (item_id, format):
            self._outgoing, self._speaks = ToTelephone(format), (item_id, format)
        return self._outgoing.push(pcm)
