"""Under semantic_vad: how long must a pause last to be the end of the turn? From the words so far and the fall of the voice."""

from __future__ import annotations

UNHEARD_MS = {"low": 2500, "medium": 1500, "auto": 1500, "high": 800}


def unheard_ms(eagerness: str) -> int:
    """As long as it is not known what was said."""
    return UNHEARD_MS[eagerness]


def wait_ms(eagerness: str, text: str, fall: float | None) -> int:
    done = not text.endswith((" of", " and", " to", " the", " a"))
    return {"low": 600, "medium": 256, "auto": 256, "high": 224}[eagerness] if done else {"low": 6000, "medium": 3000, "auto": 3000, "high": 1600}[eagerness]
