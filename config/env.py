"""Readers of environment variables: a working default beside each, a bad value refused at start with its remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("VIVAVOCE_VAR", ROOT / "var"))


class BadSetting(ValueError):
    """A setting that cannot be used; the message names the value and what is expected."""


def envstr(name: str, default: str = "") -> str:
    return os.environ.get(name, default)


def _number(name: str, default, kind, expected: str):
    raw = os.environ.get(name)
    if raw is None or raw == "":
        return default
    try:
        return kind(raw)
    except ValueError:
        raise BadSetting(f"{name}={raw!r}: expected {expected}, e.g. {default}") from None


def envint(name: str, default: int) -> int:
    return _number(name, default, int, "a whole number")


def envfloat(name: str, default: float) -> float:
    return _number(name, default, float, "a number")


def envbool(name: str, default: bool) -> bool:
    raw = os.environ.get(name, "").strip().lower()
    if raw == "":
        return default
    if raw in ("1", "true", "yes", "on"):
        return True
    if raw in ("0", "false", "no", "off"):
        return False
    raise BadSetting(f"{name}={raw!r}: expected 1 or 0")


def envlist(name: str, default: list[str]) -> list[str]:
    raw = os.environ.get(name)
    return default if raw is None else [part.strip() for part in raw.split(",") if part.strip()]


def envsecret(name: str, default: str = "") -> str:
    """From NAME, or from the file NAME_FILE names."""
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise BadSetting(f"{name}_FILE={path!r}: cannot be read ({error.strerror})") from None
    return os.environ.get(name, default)


def embedded_secret(name: str) -> str:
    """A secret the launcher made for the embedded servers (var/secrets.json); "" before the first start."""
    try:
        return json.loads((VAR / "secrets.json").read_text()).get(name, "")
    except (OSError, ValueError):
        return ""
