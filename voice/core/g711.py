"""G.711 (ITU-T), the audio of telephones: one byte a sample at 8 kHz. Decoding by two byte tables, so it costs next to nothing."""

from __future__ import annotations

RATE_HZ = 8000
LAWS = ("audio/pcmu", "audio/pcma")


def _ulaw(code: int) -> int:
    code = ~code & 0xFF
    value = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return -value if code & 0x80 else value


def _alaw(code: int) -> int:
    code ^= 0x55
    exponent, value = (code & 0x70) >> 4, ((code & 0x0F) << 4) + 8
    if exponent:
        value = value + 0x100 << exponent - 1
    return value if code & 0x80 else -value


VALUES = {"audio/pcmu": tuple(map(_ulaw, range(256))), "audio/pcma": tuple(map(_alaw, range(256)))}
_LOW = {law: bytes(v & 0xFF for v in values) for law, values in VALUES.items()}
_HIGH = {law: bytes(v >> 8 & 0xFF for v in values) for law, values in VALUES.items()}


def decode(data: bytes, law: str) -> bytes:
    """PCM16 little-endian mono at 8 kHz."""
    pcm = bytearray(2 * len(data))
    pcm[0::2], pcm[1::2] = data.translate(_LOW[law]), data.translate(_HIGH[law])
    return bytes(pcm)
