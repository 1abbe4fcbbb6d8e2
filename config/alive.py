"""`python -m config.alive STAGE`: exit 0 while a worker of this host says it serves that stage; for liveness probes.

Redis away proves nothing against the worker: that counts as alive.
"""

from __future__ import annotations

import socket
import sys

import redis


def alive(client: redis.Redis, stage: str, host: str) -> bool:
    """Has a worker of this host reported in the last three seconds (voice/bus/redis.py: heartbeat)?"""
    try:
        return next(client.scan_iter(f"voice:worker:{stage}:{host}:*", count=1000), None) is not None
    except redis.RedisError as error:
        print(f"redis is away ({type(error).__name__}); nothing known against the worker", file=sys.stderr)
        return True


def main() -> int:
    from config.redis import connect
    from config.voice import REDIS_URL

    client = connect(REDIS_URL, socket_timeout=5, socket_connect_timeout=5)
    return 0 if alive(client, sys.argv[1], socket.gethostname()) else 1


if __name__ == "__main__":
    sys.exit(main())
