"""Under semantic_vad: how long must a pause last to be the end of the turn? The surer the end, the shorter (docs/protocol.md)."""

from __future__ import annotations

UNHEARD_MS = {"low": 2500, "medium": 1500, "auto": 1500, "high": 800}  # while it is not known what was said
# (at least this chance that the user has finished, ms): the first that holds; else OPEN_MS, within the limits of eagerness
STEPS = {
    "high": ((0.75, 192), (0.5, 500), (0.25, 1000)),
    "medium": ((0.95, 192), (0.9, 1350)),
    "low": ((0.97, 400), (0.9, 1300), (0.6, 2000)),
}
STEPS["auto"] = STEPS["medium"]
OPEN_MS = {"low": 3500, "medium": 2000, "auto": 2000, "high": 1600}
NOTHING_MS = 400  # nothing was understood: a noise


def unheard_ms(eagerness: str) -> int:
    return UNHEARD_MS[eagerness]


def wait_ms(eagerness: str, text: str, ended: float | None) -> int:
    """`ended`: 0..1, the recogniser's chance that the user has finished; None where it tells none."""
    if not text:
        return NOTHING_MS
    if ended is None:
        return UNHEARD_MS[eagerness]
    return next((ms for least, ms in STEPS[eagerness] if ended >= least), OPEN_MS[eagerness])
