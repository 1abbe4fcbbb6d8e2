"""What every resource needs: the time, ids, saving with events, look-ups, lists, expansion, timers, and the table of routes."""

from __future__ import annotations

import re
import secrets
import string
import time
from collections.abc import Callable
from typing import Any

from tools.billing_sandbox.errors import NotFound, StripeError
from tools.billing_sandbox.forms import Params
from tools.billing_sandbox.store import Store

API_VERSION = "2026-08-26.dahlia"
ALPHABET = string.ascii_letters + string.digits
CURRENCIES = ("usd", "eur", "gbp")
MAX_EXPAND_DEPTH = 4

Handler = Callable[..., Any]
ROUTES: list[tuple[str, re.Pattern, Handler]] = []
VIEWS: dict[str, Callable[[Sandbox, dict], dict]] = {}  # kind -> the public form of a stored object
INCLUDED: dict[tuple[str, str], Callable[[Sandbox, dict], Any]] = {}  # (kind, field) -> a field that only shows when expanded
COLUMNS: dict[str, Callable[[dict], dict]] = {}  # kind -> columns that are not plain fields
TIMERS: dict[str, Callable[[Sandbox, dict], None]] = {}  # name -> what happens to the owner when its time has come


def route(method: str, path: str):
    """`path` as in Stripe's reference, e.g. /v1/customers/{id}; the handler gets (sandbox, params, *ids)."""
    pattern = re.compile(re.sub(r"\{\w+\}", r"([A-Za-z0-9_%.-]+)", path) + r"/?")

    def register(handler: Handler) -> Handler:
        ROUTES.insert(len(ROUTES) if "{" in path else 0, (method, pattern, handler))  # /v1/customers/search before /v1/customers/{id}
        return handler

    return register


def view(kind: str):
    return lambda function: VIEWS.setdefault(kind, function)


def included(kind: str, field: str):
    return lambda function: INCLUDED.setdefault((kind, field), function)


def columns(kind: str):
    return lambda function: COLUMNS.setdefault(kind, function)


def timer(name: str):
    return lambda function: TIMERS.setdefault(name, function)


def listing(data: list[dict], url: str, has_more: bool = False) -> dict:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


class Sandbox:
    def __init__(self, store: Store, base_url: str = ""):
        self.store, self.base_url = store, base_url
        self.request_id, self.idempotency_key = "", None  # of the request under way, for its events
        self.previewing = False
        self._at: int | None = None
        self._seen = store.setting("now", 0)

    # Time

    def now(self) -> int:
        """Unix seconds of the sandbox's own clock: real time plus what it was advanced by; it never goes back."""
        if self._at is not None:
            return self._at
        self._seen = max(self._seen, int(time.time()) + self.store.setting("offset", 0))
        return self._seen

    def advance(self, to: int) -> None:
        """Raises StripeError when `to` lies in the past."""
        if to < self.now():
            raise StripeError(f"The clock cannot go back: it is {self.now()}, asked was {to}.", "to")
        self.store.set("offset", to - int(time.time()))

    def run_due(self, until: int | None = None) -> int:
        """Let happen, in order and each at its own time, what is due; how many timers fired."""
        until, fired = self.now() if until is None else until, 0
        while (row := self.store.next_timer(until)) is not None:
            owner, name, at = row
            self.store.set_timer(owner, name, None)
            self._at = at
            try:
                item = self.store.get(owner)
                if item is not None:
                    TIMERS[name](self, item)
            finally:
                self._at = None
            fired += 1
        self.store.set("now", until)
        return fired

    def at(self, moment: int | None):
        """`with sandbox.at(t):` the clock stands at t inside (previews of what will happen)."""
        return _Standing(self, moment)

    def timer(self, item: dict, name: str, at: int | None) -> None:
        """Set, move or (None) clear the timer `name` of `item`."""
        self.store.set_timer(item["id"], name, at)

    # Objects

    @staticmethod
    def new_id(prefix: str, length: int = 24) -> str:
        return f"{prefix}_{''.join(ALPHABET[byte % 62] for byte in secrets.token_bytes(length))}"

    def save(self, item: dict, event: str = "") -> dict:
        """Store `item`; with `event`, record the event of that type (with what changed) and send it to the webhook endpoints."""
        before = self.store.get(item["id"]) if event.endswith(".updated") else None
        self.store.put(item, **COLUMNS.get(item["object"], lambda _: {})(item))
        if before is not None:
            old, new = self.render(before), self.render(item)
            changed = {k: old.get(k) for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
            if changed:
                self.emit(event, item, changed)
        elif event:
            self.emit(event, item)
        return item

    def emit(self, type: str, item: dict, changed: dict | None = None) -> None:
        data: dict = {"object": self.render(item)}
        if changed is not None:
            data["previous_attributes"] = changed
        event = {
            "id": self.new_id("evt"), "object": "event", "account": None, "api_version": API_VERSION, "context": None, "created": self.now(), "data": data,
            "livemode": False, "pending_webhooks": 0, "request": {"id": self.request_id or None, "idempotency_key": self.idempotency_key}, "type": type,
        }  # fmt: skip
        for endpoint in self.store.all("webhook_endpoint"):
            if endpoint["status"] == "enabled" and ({type, "*"} & set(endpoint["enabled_events"])):
                self.store.queue_delivery(event["id"], endpoint["id"])
                event["pending_webhooks"] += 1
        self.store.put(event)

    def reload(self, item: dict) -> dict:
        """`item` as it is stored now, in place."""
        fresh = self.store.get(item["id"])
        item.clear()
        item.update(fresh)
        return item

    def get(self, kind: str, id: str | None, param: str = "id", name: str = "") -> dict:
        """Raises NotFound, also for a deleted one."""
        item = self.store.get(id) if id else None
        if item is None or item["object"] != kind or item.get("deleted"):
            raise NotFound(name or kind.replace("_", " ").replace(".", " "), id or "", param)
        return item

    def find(self, kind: str, **where: str) -> list[dict]:
        """Newest first, without the deleted."""
        return [item for item in self.store.all(kind, **where) if not item.get("deleted")]

    # Answers

    def render(self, item: Any, expand: list[str] | None = None, depth: int = 0) -> Any:
        """The public form: private fields (`_…`) dropped, `expand` paths filled in. Raises StripeError on a path that cannot be expanded."""
        if not isinstance(item, dict) or "object" not in item:
            return item
        shown = VIEWS[item["object"]](self, dict(item)) if item["object"] in VIEWS and not item.get("deleted") else dict(item)
        shown = {k: v for k, v in shown.items() if not k.startswith("_")}
        for path in expand or []:
            self._expand(item, shown, path, depth)
        return shown

    def _expand(self, item: dict, shown: dict, path: str, depth: int) -> None:
        if depth >= MAX_EXPAND_DEPTH:
            raise StripeError(f"You cannot expand more than {MAX_EXPAND_DEPTH} levels of a property. Property: {path}", "expand")
        field, _, rest = path.partition(".")
        if (item.get("object", ""), field) in INCLUDED and not isinstance(shown.get(field), dict):
            shown[field] = INCLUDED[item["object"], field](self, item)
        if field not in shown:
            raise StripeError(f"This property cannot be expanded ({field}).", "expand")
        shown[field] = self._expanded(shown[field], rest, depth + 1, path)

    def _expanded(self, value: Any, rest: str, depth: int, path: str) -> Any:
        if isinstance(value, list):
            return [self._expanded(v, rest, depth, path) for v in value]
        if isinstance(value, str):
            found = self.store.get(value)
            if found is None:
                raise StripeError(f"This property cannot be expanded ({path}).", "expand")
            return self.render(found, [rest] if rest else None, depth)
        if isinstance(value, dict) and rest:
            self._expand(value, value, rest, depth if value.get("object") != "list" and "object" in value else depth - 1)
        return value

    def page(self, params: Params, kind: str, keep: Callable[[dict], bool] = lambda item: True, url: str = "", **where: str | None) -> dict:
        """A Stripe list, newest first: `limit`, `starting_after`, `ending_before`; `where` columns with value None are not asked for."""
        limit = params.integer("limit", 10, low=1, high=100)
        after, before = params.text("starting_after"), params.text("ending_before")
        cursors = {name: self._cursor(value, name) for name, value in (("after", after), ("before", before)) if value}
        found: list[dict] = []
        for item in self.store.find(kind, **cursors, **{k: v for k, v in where.items() if v}):
            if not item.get("deleted") and keep(item):
                found.append(item)
                if len(found) > limit:
                    break
        shown = found[:limit]
        return listing(shown[::-1] if before else shown, url or f"/v1/{kind}s", len(found) > limit)

    def _cursor(self, id: str, param: str) -> int:
        sequence = self.store.sequence(id)
        if sequence is None:
            raise NotFound("object", id, "starting_after" if param == "after" else "ending_before")
        return sequence

    def created_filter(self, params: Params) -> Callable[[dict], bool]:
        """The `created` parameter of lists: a moment, or gt/gte/lt/lte."""
        if "created" not in params:
            return lambda item: True
        try:
            exact = params.integer("created")
            return lambda item: item["created"] == exact
        except StripeError:
            span = params.child("created")
        low = max(span.integer("gte", 0), span.integer("gt", -1) + 1)
        high = min(span.integer("lte", 1 << 40), span.integer("lt", 1 << 40) - 1)
        return lambda item: low <= item["created"] <= high


class _Standing:
    def __init__(self, sandbox: Sandbox, moment: int | None):
        self.sandbox, self.moment = sandbox, moment

    def __enter__(self) -> None:
        self.before, self.sandbox._at = self.sandbox._at, self.moment if self.moment is not None else self.sandbox._at

    def __exit__(self, *_) -> None:
        self.sandbox._at = self.before
