"""HTTP to addresses that others name: resolved once and held to it, private networks refused, no redirects, no endless answers (SSRF)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter

from apps.common.addresses import resolve_public
from apps.common.errors import BadRequest

MAX_BYTES = 1_000_000


class _Held(HTTPAdapter):
    """Speaks TLS with one address as the host it was found for."""

    def __init__(self, host: str):
        self._host = host
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, server_hostname=self._host, assert_hostname=self._host, **kwargs)


def call(method: str, url: str, *, public_only: bool, timeout_s: float, **kwargs: Any) -> requests.Response:
    """One request, its answer read whole (at most MAX_BYTES).

    `public_only`: https to a public address. Raises BadRequest when the address is not one, requests.RequestException when nothing
    (or too much) comes back.
    """
    with requests.Session() as session:
        session.trust_env = False
        headers = dict(kwargs.pop("headers", {}))
        if public_only:
            parts = urlsplit(url)
            if parts.scheme != "https" or not parts.hostname:
                raise BadRequest(f"{url[:100]!r}: expected an https:// address", param="url")
            address = resolve_public(parts.hostname)[0]
            host = f"[{address}]" if ":" in address else address
            headers["Host"] = parts.hostname if parts.port in (None, 443) else f"{parts.hostname}:{parts.port}"
            url = urlunsplit(parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}"))
            session.mount("https://", _Held(parts.hostname))
        answer = session.request(method, url, headers=headers, timeout=timeout_s, allow_redirects=False, stream=True, **kwargs)
        body = answer.raw.read(MAX_BYTES + 1, decode_content=True)
        if len(body) > MAX_BYTES:
            raise requests.exceptions.ContentDecodingError(f"more than {MAX_BYTES} bytes")
        answer._content = body
        return answer
