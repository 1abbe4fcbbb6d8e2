"""HTTP: a plain ASGI application. /v1 is Stripe-shaped; /_sandbox (doors.py) are test doors and the pages that stand for Stripe's own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import time
from urllib.parse import unquote

import tools.billing_sandbox.resources  # noqa: F401 - fills the tables of routes
from tools.billing_sandbox import doors, forms
from tools.billing_sandbox.errors import IdempotencyError, StripeError, Unauthorized
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.sandbox import API_VERSION, ROUTES, Sandbox
from tools.billing_sandbox.webhooks import Deliveries

MAX_BODY_BYTES = 2**20
CLIENT_ROUTES = ("/v1/setup_intents/", "/v1/payment_intents/")  # what a browser may ask with a publishable key and a client secret
LOG = logging.getLogger("billing_sandbox")

Answer = tuple[int, dict[str, str], bytes]


class Server:
    def __init__(self, sandbox: Sandbox, secret_key: str):
        self.sandbox, self.store, self.secret_key = sandbox, sandbox.store, secret_key
        self.deliveries = Deliveries(sandbox)

    # ASGI

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            body = await self._body(receive)
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if body is None:
                status, out, content = 413, {}, b"too large"
            else:
                status, out, content = self.answer(scope["method"], scope["path"], scope["query_string"].decode(), headers, body)
            lines = [(b"content-length", str(len(content)).encode())] + [(k.lower().encode(), v.encode()) for k, v in out.items()]
            await send({"type": "http.response.start", "status": status, "headers": lines})
            await send({"type": "http.response.body", "body": content})
            self.deliveries.wake.set()

    @staticmethod
    async def _body(receive) -> bytes | None:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                return None
            if not message.get("more_body"):
                return b"".join(parts)

    async def _lifespan(self, receive, send) -> None:
        tasks = []
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                tasks = [asyncio.create_task(self.deliveries.run()), asyncio.create_task(self._tick())]
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                for task in tasks:
                    task.cancel()
                self.store.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _tick(self) -> None:
        """Time passes also when nobody asks."""
        while True:
            await asyncio.sleep(1)
            try:
                self.happen()
            except Exception:
                LOG.exception("what was due failed")

    def happen(self) -> int:
        """Let happen what is due, as one transaction; how many timers fired."""
        if self.store.next_timer(self.sandbox.now()) is None:
            return 0
        return self._kept(self.sandbox.run_due)

    def _kept(self, act):
        """`act()` in one transaction; an error takes it back unless it says that it stands."""
        self.store.begin()
        try:
            result = act()
        except StripeError as error:
            self.store.commit() if error.keep else self.store.rollback()
            raise
        except BaseException:
            self.store.rollback()
            raise
        self.store.commit()
        return result

    # Requests

    def answer(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Answer:
        path = unquote(path)
        if path.startswith("/_sandbox"):
            return doors.answer(self, method, path, query, headers, body)
        request_id = self.sandbox.new_id("req", 14)
        out = {"Content-Type": "application/json", "Request-Id": request_id, "Stripe-Version": headers.get("stripe-version", API_VERSION)}
        if self.sandbox.now() < self.store.setting("outage_until", 0):
            error = {"error": {"type": "api_error", "message": "The billing sandbox plays an outage."}}
            return 503, out | {"Stripe-Should-Retry": "true"}, json.dumps(error).encode()
        try:
            self.happen()
            status, content, more = self._handle(method, path, query, headers, body, request_id)
            return status, out | more, content
        except StripeError as error:
            return error.status, out | {"Stripe-Should-Retry": "false"}, json.dumps(error.body(request_id)).encode()
        except Exception:
            LOG.exception("%s %s", method, path)
            error = {"error": {"type": "api_error", "message": "An unknown error occurred in the billing sandbox; its log says more."}}
            return 500, out, json.dumps(error).encode()

    def _handle(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, request_id: str) -> tuple[int, bytes, dict]:
        try:
            text = body.decode() if method == "POST" else query
        except UnicodeDecodeError as error:
            raise StripeError("Invalid request body: it must be UTF-8.") from error
        values = forms.decode(text)
        self._authenticate(headers, path, values)
        key = headers.get("idempotency-key") if method == "POST" else None
        if key is None:
            return 200, self._run(method, path, values, request_id, None), {}
        fingerprint = hashlib.sha256(f"{method} {path}\n{text}".encode()).hexdigest()
        if known := self.store.answered(key):
            if known[0] != fingerprint:
                raise IdempotencyError("Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than "
                                       f"'{key}' if you meant to execute a different request.")  # fmt: skip
            return known[1], known[2].encode(), {"Idempotency-Key": key, "Idempotent-Replayed": "true"}
        if len(key) > 255:
            raise StripeError("Idempotency keys can be up to 255 characters.", "Idempotency-Key")
        return self._run_once(method, path, values, request_id, key, fingerprint)

    def _run_once(self, method: str, path: str, values: dict, request_id: str, key: str, fingerprint: str) -> tuple[int, bytes, dict]:
        """Run and remember the answer under `key`, in the same transaction as the change; refusals that changed nothing are not remembered."""
        content = self._run(method, path, values, request_id, key, lambda status, text: self.store.remember(key, fingerprint, status, text, int(time.time())))
        return 200, content, {"Idempotency-Key": key}

    def _authenticate(self, headers: dict[str, str], path: str, values: dict) -> None:
        """Raises Unauthorized."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            given = base64.b64decode(given).decode(errors="replace").partition(":")[0]
        given = given or values.pop("key", "")
        if not given:
            raise Unauthorized("You did not provide an API key.")
        if given == self.secret_key:
            return
        if given.startswith("pk_test_") and path.startswith(CLIENT_ROUTES):
            found = self.store.get(path.split("/")[3])
            if found and values.get("client_secret") == found.get("client_secret"):
                return
        raise Unauthorized(f"Invalid API Key provided: {given[:8]}{'*' * 8}{given[-4:]}")

    def _run(self, method: str, path: str, values: dict, request_id: str, key: str | None, remember=None) -> bytes:
        for verb, pattern, handler in ROUTES:
            if verb == method and (match := pattern.fullmatch(path)):
                break
        else:
            raise _unknown(method, path)
        params = Params(values)
        self.sandbox.request_id, self.sandbox.idempotency_key = request_id, key

        def act() -> bytes:
            try:
                expand = params.texts("expand")
                result = handler(self.sandbox, params, *match.groups())
                params.refuse_unread()
                content = json.dumps(self._shown(result, expand)).encode()
            except StripeError as error:
                if error.keep and remember:
                    remember(error.status, json.dumps(error.body(request_id)))
                raise
            if remember:
                remember(200, content.decode())
            return content

        try:
            return self._kept(act)
        finally:
            self.sandbox.request_id, self.sandbox.idempotency_key = "", None

    def _shown(self, result: dict, expand: list[str] | None) -> dict:
        if result.get("object") in ("list", "search_result"):
            rest = [path[5:] for path in expand or [] if path.startswith("data.")]
            if len(rest) != len(expand or []):
                raise StripeError("Paths to expand in a list begin with `data.`.", "expand")
            return result | {"data": [self.sandbox.render(row, rest) for row in result["data"]]}
        return self.sandbox.render(result, expand)


def _unknown(method: str, path: str) -> StripeError:
    error = StripeError(f"Unrecognized request URL ({method}: {path}). The billing sandbox does not know it; see docs/operations.md for what it does.")
    error.status = 404
    return error
