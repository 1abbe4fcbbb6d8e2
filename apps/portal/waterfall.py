from __future__ import annotations


def bars(segments: list[list], overlapped: list[list] = ()) -> list[dict]:
    """Segments of a turn as bars: name, ms, and left and width in percent of the whole; what was done `inside` the first of them follows it."""
    total = sum(ms for _, ms in segments) or 1.0

    def rows(part: list[list], before: float, inside: bool) -> list[dict]:
        made = []
        for name, ms in part:
            made.append({"name": name.replace("_", " "), "ms": ms, "left": round(before / total * 100, 2), "width": max(0.3, round(ms / total * 100, 2)),
                         "inside": inside})  # fmt: skip
            before += ms
        return made

    return rows(segments[:1], 0.0, False) + rows(list(overlapped), 0.0, True) + rows(segments[1:], segments[0][1] if segments else 0.0, False)
