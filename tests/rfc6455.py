"""RFC 6455 at the byte level, as data: what a client sends after (or as) its handshake, and every answer that is legal.

Expectations: "answer" (the session answers the probe event), "pong:<hex>", "close:<code>" (a close frame with it), "close" (an empty one),
"eof" (the connection ends), "status:<code>" (an HTTP answer), "silence" (nothing is due). Several may be legal.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import struct
from dataclasses import dataclass

PROBE = json.dumps({"type": "x", "event_id": "probe"}).encode()
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
WAIT_S = 6.0
PATIENCE_S = 60.0
RETRY_AFTER = re.compile(rb"\r\nretry-after: (\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    name: str
    parts: tuple[bytes, ...]  # written one after the other
    legal: tuple[str, ...]
    handshake: bytes | None = None  # instead of the good one; then `parts` is not sent
    end: str = ""  # "": wait; "eof": half-close after writing; "reset": drop the connection


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, key: bytes = b"\x11\x22\x33\x44", form: int = 0,
          length: int | None = None) -> bytes:  # fmt: skip
    """`form`: 16 or 64 forces that length encoding; `length` announces another one than the payload's."""
    size = len(payload) if length is None else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask = 0x80 if masked else 0
    if form == 64 or not form and size > 0xFFFF:
        head += bytes([mask | 127]) + struct.pack("!Q", size)
    elif form == 16 or not form and size > 125:
        head += bytes([mask | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask | size])
    if not masked:
        return head + payload
    return head + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))


def padded(size: int) -> bytes:
    """The probe as a message of exactly `size` bytes."""
    return PROBE + b" " * (size - len(PROBE))


def text_of(raw: bytes) -> bytes:
    """A probe with these bytes inside its JSON string."""
    return PROBE[:-1] + b', "z": "' + raw + b'"}'


def cases() -> list[Case]:
    made: list[Case] = []

    def add(name: str, data: bytes | tuple[bytes, ...], *legal: str, end: str = "") -> None:
        made.append(Case(name, data if isinstance(data, tuple) else (data,), legal, end=end))

    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for fin in (True, False):
            for payload in (b"", b"x"):
                add(f"reserved opcode {opcode} fin={fin} {len(payload)} bytes", frame(opcode, payload, fin=fin), "close:1002")
    for rsv in range(1, 8):
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG):
            add(f"rsv {rsv:03b} on opcode {opcode}", frame(opcode, b"", rsv=rsv), "close:1002")
    for opcode in (CONT, TEXT, BINARY, CLOSE, PING, PONG):
        add(f"unmasked frame, opcode {opcode}", frame(opcode, PROBE if opcode == TEXT else b"", masked=False), "close:1002")
    for size in (0, 1, 4, 125):
        add(f"ping of {size} bytes", frame(PING, b"p" * size), f"pong:{(b'p' * size).hex()}")
        add(f"pong of {size} bytes nobody asked for", frame(PONG, b"p" * size) + frame(TEXT, PROBE), "answer")
    for opcode in (PING, PONG, CLOSE):
        for size in (126, 127, 65536):
            add(f"control frame {opcode} of {size} bytes", frame(opcode, b"p" * size), "close:1002")
        add(f"fragmented control frame {opcode}", frame(opcode, b"", fin=False), "close:1002")
    for i, n in enumerate((2, 10, 100)):
        add(f"{n} pings at once", b"".join(frame(PING, bytes([k % 256, i])) for k in range(n)), f"pong:{bytes([(n - 1) % 256, i]).hex()}")
    add("close without a code", frame(CLOSE), "close")
    add("close with one byte", frame(CLOSE, b"\x03"), "close:1002")
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4409, 4999):
        add(f"close {code}", frame(CLOSE, struct.pack("!H", code)), f"close:{code}", "close:1000")
        add(f"close {code} with a reason", frame(CLOSE, struct.pack("!H", code) + "schön".encode()), f"close:{code}", "close:1000")
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        add(f"close {code}, which may not be sent", frame(CLOSE, struct.pack("!H", code)), "close:1002")
    add("close with a reason of 123 bytes", frame(CLOSE, struct.pack("!H", 1000) + b"r" * 123), "close:1000")
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"):
        add(f"close with the reason {bad.hex()}", frame(CLOSE, struct.pack("!H", 1000) + bad), "close:1007", "close:1002")
    add("data after a close", frame(CLOSE, struct.pack("!H", 1000)) + frame(TEXT, PROBE), "close:1000")
    add("two closes", frame(CLOSE, struct.pack("!H", 1000)) * 2, "close:1000")

    for count in (2, 3, 5, len(PROBE)):
        pieces = [PROBE[i * len(PROBE) // count : (i + 1) * len(PROBE) // count] for i in range(count)]
        whole = [frame(TEXT if i == 0 else CONT, piece, fin=i == count - 1) for i, piece in enumerate(pieces)]
        add(f"a text in {count} fragments", b"".join(whole), "answer")
        add(f"a text in {count} fragments and as many writes", tuple(whole), "answer")
        add(f"a text in {count} fragments, pings between", frame(PING, b"a").join(whole), "answer")
    add("empty fragments", frame(TEXT, b"", fin=False) + frame(CONT, PROBE, fin=False) + frame(CONT, b""), "answer")
    add("continuation of nothing", frame(CONT, b"x"), "close:1002")
    add("unfinished continuation of nothing", frame(CONT, b"x", fin=False), "close:1002")
    add("continuation after a whole text", frame(TEXT, PROBE) + frame(CONT, b"x"), "close:1002")
    add("a text inside a text", frame(TEXT, b"{", fin=False) + frame(TEXT, PROBE), "close:1002")
    add("a binary inside a text", frame(TEXT, b"{", fin=False) + frame(BINARY, b"x"), "close:1002")
    add("a close inside a text", frame(TEXT, b"{", fin=False) + frame(CLOSE, struct.pack("!H", 1000)), "close:1000", "close:1002")
    add("a text that never ends", frame(TEXT, b"{", fin=False) + frame(PING, b"z"), "pong:7a")

    for raw in ("é", "日本語", "\U0001f600", "\u2028", "\ufeff", "\U0010ffff", "\uffff", "\u0080", "\u07ff", "\u0800"):
        data = text_of(raw.encode())
        add(f"valid UTF-8 {raw.encode().hex()}", frame(TEXT, data), "answer")
        cut = len(data) - 3
        add(f"valid UTF-8 {raw.encode().hex()}, cut inside", frame(TEXT, data[:cut], fin=False) + frame(CONT, data[cut:]), "answer")
    for bad in ("80", "bf", "8080", "c080", "c1bf", "c2", "c220", "e0808080", "e08080", "e09fbf", "e282", "eda080", "edbfbf", "edaf80edb080", "f0808080", "f08fbfbf",
                "f09f98", "f4908080", "f5808080", "f7bfbfbf", "f888808080", "fbbfbfbfbf", "fc8480808080", "fe", "ff", "fefeffff", "cebae1bdb9cf83cebcceb5eda080656469746564"):
        add(f"invalid UTF-8 {bad}", frame(TEXT, text_of(bytes.fromhex(bad))), "close:1007")
    add("invalid UTF-8 across fragments", frame(TEXT, b"\xe2\x82", fin=False) + frame(CONT, b"\x28"), "close:1007")

    for size in (len(PROBE), 125, 126, 127, 128, 255, 256, 1000, 65535, 65536, 65537, 200_000):
        add(f"a text of {size} bytes", frame(TEXT, padded(size)), "answer")
    for form in (16, 64):
        add(f"a length that is not minimal ({form} bits)", frame(TEXT, PROBE, form=form), "answer", "close:1002")
    for length in (2**63, 2**64 - 1, 2**62, 2**40, 22 * 2**20):
        add(f"an announced length of {length}", frame(TEXT, b"", length=length, form=64), "close:1009", "close:1002")
    for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0", os.urandom(4)):
        add(f"mask {key.hex()}", frame(TEXT, PROBE, key=key), "answer")
    for payload in (b"", b"x", bytes(range(256))):
        add(f"binary of {len(payload)} bytes", frame(BINARY, payload), "close:1003")
    add("binary in fragments", frame(BINARY, b"a", fin=False) + frame(CONT, b"b"), "close:1003")
    for name, payload in (("empty text", b""), ("a text that is no JSON", b"{"), ("a NUL", b"\0"), ("a deep array", b"[" * 5000)):
        add(name, frame(TEXT, payload) + frame(TEXT, PROBE), "answer")

    whole = frame(TEXT, PROBE)
    add("byte by byte", tuple(bytes([b]) for b in whole), "answer")
    for at in (1, 2, 5, 7, len(whole) - 1):
        add(f"cut after {at} bytes, then the end", whole[:at], "eof", "close:1006", "close:1002", "close", end="eof")
        add(f"cut after {at} bytes, then a reset", whole[:at], "silence", end="reset")
    made += handshakes()
    return made


GOOD = {"Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}


def request(headers: dict[str, str], line: str = "GET /v1/realtime HTTP/1.1", more: str = "") -> bytes:
    return (f"{line}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + f"{more}\r\n").encode("latin-1")


def handshakes() -> list[Case]:
    """KEY stands for the caller's key."""
    auth = {**GOOD, "Authorization": "Bearer KEY"}

    def bad(name: str, raw: bytes, *legal: str) -> Case:
        return Case(f"handshake: {name}", (), legal, raw)

    def without(header: str) -> dict[str, str]:
        return {k: v for k, v in auth.items() if k != header}

    made = [bad(f"without {h}", request(without(h)), "status:400", "status:426", "status:404", "eof")
            for h in ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")]  # fmt: skip
    made += [bad(f"version {v}", request({**auth, "Sec-WebSocket-Version": v}), "status:426", "status:400") for v in ("0", "8", "12", "14", "x", "")]
    made += [bad(f"key {k!r}", request({**auth, "Sec-WebSocket-Key": k}), "status:400") for k in ("", "short", "!!!!", "dGhlIHNhbXBsZQ==", "A" * 200)]
    made += [bad("without Host", request(without("Host")), "status:400", "status:101", "eof"), bad("no key of ours", request(GOOD), "status:401"),
             bad("a wrong key of ours", request({**GOOD, "Authorization": "Bearer vv_x"}), "status:401"),
             bad("HTTP/1.0", request(auth, "GET /v1/realtime HTTP/1.0"), "status:400", "status:426", "status:101", "eof"),
             bad("POST", request(auth, "POST /v1/realtime HTTP/1.1"), "status:400", "status:405", "status:501", "status:426", "eof"),
             bad("another path", request(auth, "GET /v1/nothing HTTP/1.1"), "status:403", "status:404"),
             bad("nonsense", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), "status:400", "eof"),
             bad("a bare line", b"GET\r\n\r\n", "status:400", "eof"), bad("an empty line first", b"\r\n" + request(auth), "status:101", "status:400"),
             bad("a header without a colon", request(auth, more="nocolon\r\n"), "status:400", "eof"),
             bad("a header of 100 KiB", request(auth, more="X-Long: " + "x" * 102400 + "\r\n"), "status:400", "status:431", "status:101", "eof"),
             bad("two keys", request(auth, more="Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), "status:400", "status:101"),
             bad("a subprotocol nobody speaks", request({**auth, "Sec-WebSocket-Protocol": "chat"}), "status:101"),
             bad("an extension nobody knows", request({**auth, "Sec-WebSocket-Extensions": "x-none; a=1"}), "status:101"),
             bad("a broken extension", request({**auth, "Sec-WebSocket-Extensions": ";;;"}), "status:400", "status:101")]  # fmt: skip
    return made


# Running them


class Raw:
    """A WebSocket client that sends bytes and reads frames."""

    def __init__(self, host: str, port: int, key: str):
        self.host, self.port, self.key = host, port, key

    async def open(self, handshake: bytes | None = None) -> bytes:
        """The head of the HTTP answer; b"" when there is none. A gateway that has too much to do (503) is asked again when it said."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                head = await self._open(handshake)
                wait = RETRY_AFTER.search(head)
                if b" 503 " not in head.partition(b"\r\n")[0] or wait is None:
                    return head
                self.close()
                await asyncio.sleep(int(wait[1]))

    async def _open(self, handshake: bytes | None) -> bytes:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=2**24)
        good = request({**GOOD, "Authorization": "Bearer KEY", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()})
        self.writer.write((handshake if handshake is not None else good).replace(b"KEY", self.key.encode()))
        try:
            return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S * 2)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    async def frame(self) -> tuple[int, bytes]:
        first, second = await self.reader.readexactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
        return first & 0x0F, await self.reader.readexactly(size)

    def close(self) -> None:
        self.writer.transport.abort()


async def run(case: Case, host: str, port: int, key: str) -> str:
    """What happened, in the words of the expectations."""
    raw = Raw(host, port, key)
    head = await raw.open(case.handshake)
    try:
        if case.handshake is not None:
            return f"status:{head.split()[1].decode()}" if len(head.split()) > 1 else "eof"
        if b" 101 " not in head:
            return f"status:{head.split()[1].decode() if head else 'none'}"
        while True:  # the session stands
            opcode, payload = await asyncio.wait_for(raw.frame(), WAIT_S * 2)
            if opcode == TEXT and json.loads(payload)["type"] == "conversation.created":
                break
        return await _outcome(case, raw)
    finally:
        raw.close()


async def _outcome(case: Case, raw: Raw) -> str:
    try:
        for part in case.parts:
            raw.writer.write(part)
            await raw.writer.drain()
            if len(case.parts) > 1:
                await asyncio.sleep(0)
        if case.end == "reset":
            sock = raw.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
            return "silence"
        if case.end == "eof":
            raw.writer.write_eof()
        async with asyncio.timeout(WAIT_S):
            while True:
                opcode, payload = await raw.frame()
                if opcode == PONG and f"pong:{payload.hex()}" in case.legal:
                    return f"pong:{payload.hex()}"
                if opcode == CLOSE:
                    return f"close:{int.from_bytes(payload[:2], 'big')}" if payload else "close"
                if opcode == TEXT and "answer" in case.legal and json.loads(payload).get("error", {}).get("event_id") == "probe":
                    return "answer"
    except TimeoutError:
        return "silence"
    except (asyncio.IncompleteReadError, ConnectionError):
        return "eof"
