"""Input audio that is not committed yet, in Redis, so that any gateway can go on with it. Keys share the session's hash tag:

`{sess_…}:tape`   list of pieces: where the piece begins in bytes since the session's start (8 bytes, big endian), then PCM16 mono 24 kHz
`{sess_…}:state`  field `heard`: bytes of input audio since the session's start
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from voice.bus.post import Post
from voice.bus.redis import Connect

KEEP_S = 3600  # longer than a session can be resumed
WRITTEN, NOT_OURS = 1, 0

# KEYS: owner, state, tape. ARGV: token, bytes heard, keep, anew, piece or ""
_WRITE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'heard', ARGV[2])
if ARGV[4] == '1' then redis.call('DEL', KEYS[3]) end
if ARGV[5] ~= '' then
  redis.call('RPUSH', KEYS[3], ARGV[5])
  redis.call('EXPIRE', KEYS[3], ARGV[3])
end
return 1
"""


@dataclass(slots=True)
class Piece:
    """What came since the last one. `anew`: what was kept before is not wanted any more."""

    session_id: str
    token: str
    heard: int
    start: int = 0
    pcm: bytes = b""
    anew: bool = False


class Tapes:
    """Raises the errors of CONNECTION_ERRORS and redis.RedisError."""

    def __init__(self, connect: Connect):
        self._post = Post(connect, timeout_s=1.5)
        self._redis = connect(max_connections=4, timeout=1, socket_timeout=1.5, socket_connect_timeout=1, retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1))
        self._script = self._redis.register_script(_WRITE)

    async def write(self, pieces: Sequence[Piece]) -> list[int]:
        """WRITTEN or NOT_OURS for each, in one round trip."""
        for _ in range(2):
            try:
                return await self._post.ask(*(("EVALSHA", self._script.sha, 3, *_arguments(piece)) for piece in pieces))
            except redis.exceptions.NoScriptError:  # Redis is a new one
                await self._redis.script_load(self._script.script)
        raise redis.RedisError("scripts do not stay loaded")

    async def read(self, session_id: str) -> tuple[int, bytes]:
        """(where it begins, the newest audio without a hole in it)."""
        start, parts = 0, []
        for piece in await self._redis.lrange(f"{{{session_id}}}:tape", 0, -1):
            begins, pcm = int.from_bytes(piece[:8], "big"), piece[8:]
            if not parts or begins != start + sum(map(len, parts)):
                start, parts = begins, []
            parts.append(pcm)
        return start, b"".join(parts)


def _arguments(piece: Piece) -> list[Any]:
    body = piece.start.to_bytes(8, "big") + piece.pcm if piece.pcm else b""
    keys = [f"{{{piece.session_id}}}:{name}" for name in ("owner", "state", "tape")]
    return [*keys, piece.token, piece.heard, KEEP_S, int(piece.anew), body]
