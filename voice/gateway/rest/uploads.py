"""A cap on request bodies, counted while they arrive: Django would put any amount on the disk first."""

from __future__ import annotations

import asyncio

import orjson

MAX_BYTES = 26 * 1024 * 1024  # 25 MiB of recording, and the form around it
DRAIN_BYTES, DRAIN_S = 4 * MAX_BYTES, 10


class _TooLarge(Exception):
    pass


async def capped(django, scope, receive, send) -> None:
    count, started = 0, False

    async def counted():
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > MAX_BYTES:
            raise _TooLarge
        return message

    async def noted(message):
        nonlocal started
        started = True
        await send(message)

    length = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
    try:
        if length.isdigit() and int(length) > MAX_BYTES:
            raise _TooLarge
        await django(scope, counted, noted)
    except _TooLarge:
        if not started:
            await _drain(receive)
            await _refuse(send)


async def _drain(receive) -> None:
    """Most clients read no answer before they have sent all: take the rest and forget it, within reason."""
    count = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while count < DRAIN_BYTES:
                message = await receive()
                count += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        pass


async def _refuse(send) -> None:
    error = {"message": f"The body has more than {MAX_BYTES} bytes.", "type": "invalid_request_error", "code": "request_too_large", "param": None}
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": error})})
