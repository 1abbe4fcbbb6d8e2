"""Stripe's form encoding: `items[0][price]=…&metadata[a]=b&expand[]=x` to nested values, and reading them strictly.

A parameter nobody read is refused at the end (`Params.refuse_unread`), so nothing a caller asks for is ignored in silence.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from urllib.parse import parse_qsl

from tools.billing_sandbox.errors import StripeError, missing

MAX_FIELDS = 1000
MAX_INTEGER = 99_999_999_999  # larger than any amount Stripe takes
PART = re.compile(r"\[([^\[\]]*)\]")


def decode(text: str) -> dict:
    """Nested dicts and lists of strings. Raises StripeError on a malformed or oversized form."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise StripeError(f"Invalid request body: {error}") from error
    root: dict = {}
    for name, value in pairs:
        head, _, rest = name.partition("[")
        keys = [head, *PART.findall("[" + rest)] if rest else [head]
        _put(root, keys, value)
    return _listed(root)


def _put(node: dict, keys: list[str], value: str) -> None:
    for key in keys[:-1]:
        child = node.setdefault(key or str(len(node)), {})
        if not isinstance(child, dict):
            raise StripeError(f"Invalid parameter nesting: {key}", key)
        node = child
    node[keys[-1] or str(len(node))] = value


def _listed(node):
    """Dicts whose keys are 0, 1, 2 … become lists."""
    if not isinstance(node, dict):
        return node
    if node and all(key.isascii() and key.isdigit() for key in node):
        return [_listed(node[key]) for key in sorted(node, key=int)]
    return {key: _listed(value) for key, value in node.items()}


class Params:
    """One level of a request's parameters. An empty string means "unset" and reads as None; `name in params` tells absent from unset."""

    def __init__(self, values: dict, path: str = ""):
        self._values, self._path = values, path
        self._unread = set(values)
        self._children: list[Params] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def label(self, name: str) -> str:
        return f"{self._path}[{name}]" if self._path else name

    def _take(self, name: str):
        self._unread.discard(name)
        value = self._values.get(name)
        return None if value == "" else value

    def text(self, name: str, default: str | None = None, choices: tuple[str, ...] = (), required: bool = False, limit: int = 5000) -> str | None:
        value = self._take(name)
        if value is None:
            if required:
                raise missing(self.label(name))
            return default
        if not isinstance(value, str):
            raise StripeError(f"Invalid string: {value}", self.label(name))
        if choices and value not in choices:
            raise StripeError(f"Invalid {self.label(name)}: must be one of {', '.join(choices)}", self.label(name))
        if len(value) > limit:
            raise StripeError(f"Invalid string: {value[:40]}…; must be at most {limit} characters", self.label(name))
        return value

    def integer(self, name: str, default: int | None = None, low: int | None = None, high: int = MAX_INTEGER, required: bool = False) -> int | None:
        value = self.text(name, required=required)
        if value is None:
            return default
        if not re.fullmatch(r"-?[0-9]{1,15}", value):
            raise StripeError(f"Invalid integer: {value}", self.label(name), "parameter_invalid_integer")
        number = int(value)
        if low is not None and number < low:
            raise StripeError(f"This value must be greater than or equal to {low}.", self.label(name), "parameter_invalid_integer")
        if number > high:
            raise StripeError(f"This value must be less than or equal to {high}.", self.label(name), "parameter_invalid_integer")
        return number

    def decimal(self, name: str, default: Decimal | None = None) -> Decimal | None:
        """At most 12 decimal places, as Stripe's unit_amount_decimal."""
        value = self.text(name)
        if value is None:
            return default
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or abs(number) > MAX_INTEGER or number != round(number, 12):
            raise StripeError(f"Invalid decimal: {value}", self.label(name))
        return number

    def boolean(self, name: str, default: bool | None = None) -> bool | None:
        value = self.text(name)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise StripeError(f"Invalid boolean: {value}", self.label(name))
        return value.lower() == "true"

    def child(self, name: str) -> Params:
        """An empty one when absent or unset."""
        value = self._take(name)
        if value is not None and not isinstance(value, dict):
            raise StripeError("Invalid object", self.label(name))
        child = Params(value or {}, self.label(name))
        self._children.append(child)
        return child

    def children(self, name: str) -> list[Params]:
        value = self._take(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, dict) for v in value)):
            raise StripeError("Invalid array", self.label(name))
        found = [Params(item, f"{self.label(name)}[{index}]") for index, item in enumerate(value or [])]
        self._children += found
        return found

    def texts(self, name: str, default: list[str] | None = None) -> list[str] | None:
        value = self._take(name)
        if value is None:
            return [] if name in self._values else default
        if not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise StripeError("Invalid array", self.label(name))
        return [v for v in value if v]

    def mapping(self, name: str, known: dict | None = None) -> dict[str, str]:
        """Metadata: given keys over `known`; a key set to "" is removed, the whole set to "" is emptied."""
        value = self._take(name)
        if value is None:
            return {} if name in self._values else dict(known or {})
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise StripeError("Invalid object", self.label(name))
        merged = {**(known or {}), **value}
        if len(merged) > 50 or any(len(k) > 40 or len(v) > 500 for k, v in merged.items()):
            raise StripeError("Metadata can have up to 50 keys of 40 characters and values of 500.", self.label(name))
        return {k: v for k, v in merged.items() if v != ""}

    def moment(self, name: str, now: int, default: int | None = None) -> int | None:
        """Unix seconds; the word `now` is taken too."""
        if self._values.get(name) == "now":
            self._take(name)
            return now
        return self.integer(name, default, low=0)

    def refuse_unread(self) -> None:
        """Raises StripeError for a parameter that nothing read: unknown to Stripe, or not done by the sandbox."""
        for name in sorted(self._unread):
            raise StripeError(f"Received unknown parameter: {self.label(name)} (the billing sandbox does not know it)", self.label(name), "parameter_unknown")
        for child in self._children:
            child.refuse_unread()
