from __future__ import annotations


def bars(segments: list[list]) -> list[dict]:
    """Segments of a turn as bars: name, ms, and left and width in percent of the whole."""
    total = sum(ms for _, ms in segments) or 1.0
    rows, before = [], 0.0
    for name, ms in segments:
        rows.append({"name": name.replace("_", " "), "ms": ms, "left": round(before / total * 100, 2), "width": max(0.3, round(ms / total * 100, 2))})
        before += ms
    return rows
