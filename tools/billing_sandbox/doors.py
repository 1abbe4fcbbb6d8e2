"""/_sandbox: what Stripe does not have. Test doors (JSON, with the secret key) and the pages that stand for Stripe's own.

    GET  /_sandbox/health                     open
    GET  /_sandbox/clock    POST {advance: seconds} or {to: unix seconds}
    POST /_sandbox/outage   {seconds}         503 on /v1 and no webhooks until then (sandbox clock); 0 ends it
    POST /_sandbox/settings {retry_days, dunning_end, webhooks_paused}
    GET  /_sandbox/webhooks POST /_sandbox/webhooks/redeliver {events: [ids] | since: unix seconds, copies, shuffle}
    POST /_sandbox/webhooks/send {type, object}   a signed event of any kind about an object
"""

from __future__ import annotations

import json
import random
from urllib.parse import parse_qs

from tools.billing_sandbox import pages
from tools.billing_sandbox.errors import NotFound, StripeError, Unauthorized

SETTINGS = {"retry_days": list, "dunning_end": str, "webhooks_paused": bool}
DUNNING_ENDS = ("unpaid", "canceled", "past_due")
MAX_ADVANCE_S = 5 * 366 * 86_400


def answer(server, method: str, path: str, query: str, headers: dict[str, str], body: bytes):
    name = path.removeprefix("/_sandbox").strip("/")
    if name == "health":
        return _json(200, {"status": "ok", "what": "billing sandbox, a local stand-in for Stripe", "now": server.sandbox.now()})
    if name in pages.PAGES:
        return pages.answer(server, name, method, {k: v[0] for k, v in parse_qs(body.decode(errors="replace") if method == "POST" else query).items()})
    try:
        if headers.get("authorization", "").partition(" ")[2] != server.secret_key:
            raise Unauthorized("The doors of the sandbox take its secret key: Authorization: Bearer sk_test_…")
        door = DOORS.get((method, name))
        if door is None:
            raise NotFound("door", f"{method} /_sandbox/{name}")
        try:
            given = json.loads(body or b"{}")
        except ValueError as error:
            raise StripeError(f"Invalid JSON: {error}") from error
        if not isinstance(given, dict):
            raise StripeError("Invalid JSON: expected an object")
        return _json(200, door(server, given))
    except StripeError as error:
        return _json(error.status, error.body("door"))


def _json(status: int, content: dict):
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _number(given: dict, name: str, high: int = 1 << 40) -> int:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise StripeError(f"{name}={value!r}: expected whole seconds from 0 to {high}", name)
    return value


def clock_get(server, given: dict) -> dict:
    return {"now": server.sandbox.now(), "offset": server.store.setting("offset", 0)}


def clock_move(server, given: dict) -> dict:
    """Forward only. What falls due on the way happens in order, each at its own time."""
    now = server.sandbox.now()
    to = _number(given, "to") if "to" in given else now + _number(given, "advance", MAX_ADVANCE_S)
    if to > now + MAX_ADVANCE_S:
        raise StripeError(f"to={to}: at most five years ahead of {now}", "to")
    server._kept(lambda: server.sandbox.advance(to))
    return {"now": to, "fired": server.happen()}


def outage(server, given: dict) -> dict:
    until = server.sandbox.now() + _number(given, "seconds", 30 * 86_400)
    server.store.set("outage_until", until)
    return {"until": until}


def settings(server, given: dict) -> dict:
    for name, value in given.items():
        if name not in SETTINGS or not isinstance(value, SETTINGS[name]):
            raise StripeError(f"{name}={value!r}: there are {', '.join(SETTINGS)}", name)
    if given.get("dunning_end", "unpaid") not in DUNNING_ENDS or not all(isinstance(d, int) and 0 < d < 60 for d in given.get("retry_days", [])):
        raise StripeError(f"dunning_end is one of {', '.join(DUNNING_ENDS)}; retry_days are whole days", "dunning_end")
    for name, value in given.items():
        server.store.set(name, value)
    return {name: server.store.setting(name) for name in SETTINGS}


def deliveries(server, given: dict) -> dict:
    return server.store.delivery_states()


def redeliver(server, given: dict) -> dict:
    """Send events again, `copies` times each; `shuffle`: in random order."""
    since, wanted = given.get("since", 0), given.get("events")
    found = [server.sandbox.get("event", id) for id in wanted] if wanted is not None else [e for e in server.sandbox.find("event")[::-1] if e["created"] >= since]
    rows = [(e["id"], endpoint["id"]) for e in found for endpoint in server.sandbox.find("webhook_endpoint") for _ in range(min(10, given.get("copies", 1)))]
    if given.get("shuffle"):
        random.shuffle(rows)
    server._kept(lambda: [server.store.queue_delivery(*row) for row in rows])
    server.deliveries.wake.set()
    return {"queued": len(rows)}


def send(server, given: dict) -> dict:
    """An event of any kind about an object that exists, to reach handlers that no flow here reaches."""
    item = server.store.get(given.get("object", ""))
    if item is None or not isinstance(given.get("type"), str):
        raise StripeError("expected {type: an event's type, object: the id of an object}", "object")
    server._kept(lambda: server.sandbox.emit(given["type"], item))
    server.deliveries.wake.set()
    return {"id": server.sandbox.find("event")[0]["id"]}


DOORS = {
    ("GET", "clock"): clock_get,
    ("POST", "clock"): clock_move,
    ("POST", "outage"): outage,
    ("POST", "settings"): settings,
    ("GET", "webhooks"): deliveries,
    ("POST", "webhooks/redeliver"): redeliver,
    ("POST", "webhooks/send"): send,
}
