"""HTTPS functions of an agent: one POST to an allowed host, its answer as the call's output.

Safe against being led into our own network: the name is resolved once, every address must be public, the connection goes to the
address that was checked, and redirects are not followed. Nothing here raises: what goes wrong is the output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from typing import Any

import certifi
import httpcore
from django.conf import settings

from apps.common.addresses import is_public
from voice.core.effects import CallTool

log = logging.getLogger("voice.tools")
TOTAL_S = 12.0
TIMEOUTS = {"connect": 4.0, "read": 10.0, "write": 5.0, "pool": 2.0}
MAX_BYTES = 64 * 1024
_pool: httpcore.AsyncConnectionPool | None = None


class ToolFailed(Exception):
    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class _Outside(httpcore.AsyncNetworkBackend):
    """Connects to public addresses, and to those that the installation's operator names."""

    def __init__(self) -> None:
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, timeout=None, local_address=None, socket_options=None):
        address, port = await _resolve(host, port)
        return await self._inner.connect_tcp(address, port, timeout=timeout, local_address=local_address, socket_options=socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _resolve(host: str, port: int) -> tuple[str, int]:
    """Raises ToolFailed."""
    if named := settings.TOOL_HOSTS_INTERNAL.get(host):
        address, _, other = named.rpartition(":")
        return address, int(other)
    try:
        found = await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM), TIMEOUTS["connect"])
    except (OSError, UnicodeError, TimeoutError) as error:
        raise ToolFailed("host_not_found", f"The host {host[:100]} has no address.") from error
    addresses = [info[4][0] for info in found]
    if not addresses or not all(map(is_public, addresses)):
        raise ToolFailed("host_not_public", f"The host {host[:100]} is not a public one.")
    return addresses[0], port


def _connections() -> httpcore.AsyncConnectionPool:
    global _pool
    if _pool is None:
        context = ssl.create_default_context(cafile=certifi.where())
        if settings.TOOL_CA_FILE:
            context.load_verify_locations(settings.TOOL_CA_FILE)
        _pool = httpcore.AsyncConnectionPool(ssl_context=context, max_connections=64, max_keepalive_connections=16, keepalive_expiry=20,
                                             network_backend=_Outside())  # fmt: skip
    return _pool


async def call(effect: CallTool, session_id: str) -> str:
    """The function's output, or {"error": {code, message}} as JSON text."""
    try:
        async with asyncio.timeout(TOTAL_S):
            return await _post(effect, session_id)
    except ToolFailed as error:
        failure = error
    except (TimeoutError, httpcore.TimeoutException):
        failure = ToolFailed("timeout", f"The function gave no answer within {TOTAL_S:.0f} s.")
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError) as error:
        failure = ToolFailed("unreachable", f"The function could not be reached ({type(error).__name__}).")
    except Exception:  # the edge: the answer must go on
        log.exception("function %s", effect.name)
        failure = ToolFailed("failed", "The function could not be called.")
    log.info("function %s: %s", effect.name, failure.code)
    return json.dumps({"error": {"code": failure.code, "message": failure.message}})


async def _post(effect: CallTool, session_id: str) -> str:
    try:
        arguments: Any = json.loads(effect.arguments)
    except ValueError:
        arguments = effect.arguments
    body = json.dumps({"name": effect.name, "arguments": arguments, "call_id": effect.call_id, "session_id": session_id}).encode()
    headers = {"content-type": "application/json", "accept": "application/json, text/plain", "user-agent": "Vivavoce", "idempotency-key": effect.call_id}
    async with _connections().stream("POST", effect.url, headers=headers, content=body, extensions={"timeout": TIMEOUTS}) as response:
        if 300 <= response.status < 400:
            raise ToolFailed("redirected", "The function redirects; redirects are not followed.")
        if not 200 <= response.status < 300:
            raise ToolFailed("refused", f"The function answered with status {response.status}.")
        parts, size = [], 0
        async for part in response.aiter_stream():
            size += len(part)
            if size > MAX_BYTES:
                raise ToolFailed("too_large", f"The function's answer has more than {MAX_BYTES} bytes.")
            parts.append(part)
    return b"".join(parts).decode(errors="replace").replace("\0", "")
