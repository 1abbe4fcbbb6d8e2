"""What a reasoning model thinks aloud, `<think>…</think>`, is neither said nor shown."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class Thoughts:
    """`feed()` gives what may be said; what could be the beginning of a tag is held back until it is certain."""

    def __init__(self) -> None:
        self._held, self._inside, self._fresh = "", False, False

    def feed(self, text: str) -> str:
        self._held += text
        said = ""
        while True:
            tag = CLOSE if self._inside else OPEN
            at = self._held.find(tag)
            if at < 0:
                break
            said += "" if self._inside else self._held[:at]
            self._held = self._held[at + len(tag) :]
            self._inside = not self._inside
            self._fresh = True
        keep = next((n for n in range(len(tag) - 1, 0, -1) if self._held.endswith(tag[:n])), 0)
        if not self._inside:
            said += self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return self._trimmed(said)

    def rest(self) -> str:
        """What was held back and is no tag after all."""
        said, self._held = "" if self._inside else self._held, ""
        return self._trimmed(said)

    def _trimmed(self, said: str) -> str:
        """The empty lines between the thoughts and the answer belong to neither."""
        if self._fresh:
            said = said.lstrip("\n")
            self._fresh = not said
        return said
