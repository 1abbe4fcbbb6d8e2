"""Public ids: a prefix that says what it is, and 96 random bits."""

from __future__ import annotations

import secrets

PREFIXES = {"ten", "usr", "mem", "key", "agt", "sess", "item", "resp", "turn", "job", "event", "aud", "inv", "eks", "idp", "req", "ivc", "adj", "imp"}


def new_id(prefix: str) -> str:
    """E.g. "agt_9f2c…" (24 hex digits). Raises ValueError on a prefix nobody knows."""
    if prefix not in PREFIXES:
        raise ValueError(f"id prefix {prefix!r} is not one of {sorted(PREFIXES)}")
    return f"{prefix}_{secrets.token_hex(12)}"


def tenant_id() -> str:
    return new_id("ten")


def user_id() -> str:
    return new_id("usr")


def membership_id() -> str:
    return new_id("mem")


def key_id() -> str:
    return new_id("key")


def agent_id() -> str:
    return new_id("agt")


def audit_id() -> str:
    return new_id("aud")


def invitation_id() -> str:
    return new_id("inv")


def client_secret_id() -> str:
    return new_id("eks")


def issuer_id() -> str:
    return new_id("idp")


def invoice_id() -> str:
    return new_id("ivc")


def adjustment_id() -> str:
    return new_id("adj")


def impersonation_id() -> str:
    return new_id("imp")
