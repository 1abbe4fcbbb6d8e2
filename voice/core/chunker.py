"""Cuts streamed text into sentences to speak. Pure and incremental; nothing is lost: the pieces join to the text."""

from __future__ import annotations

import re

MAX_CHARS = 220  # a longer stretch without an end is cut at a clause, or at a space
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof sr jr st vs etc e.g i.e no fig inc ltd co corp approx dept est jan feb mar apr jun jul aug sep sept "
    "oct nov dec mon tue wed thu fri sat sun u.s u.k a.m p.m".split()
)
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|\n+")
_CLAUSE = re.compile(r"[,;:—–](?=\s)")


class Chunker:
    """`feed()` gives sentences that are certainly over; `flush()` the rest."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> list[str]:
        self._text += text
        sentences = []
        while (end := self._boundary()) is not None:
            sentences.append(self._text[:end])
            self._text = self._text[end:]
        return sentences

    def flush(self) -> list[str]:
        rest, self._text = self._text, ""
        return [rest] if rest.strip() else []

    def _boundary(self) -> int | None:
        for match in _END.finditer(self._text):
            if not self._inside_sentence(match):
                return self._with_space(match.end())
        if len(self._text) > MAX_CHARS:
            return self._forced()
        return None

    def _inside_sentence(self, match: re.Match[str]) -> bool:
        """Is this full stop part of a word ("Dr."), an initial ("J. Smith") or a list number ("1. Do")?"""
        before = self._text[: match.start()]
        if not before.strip():
            return True
        if match.group().rstrip("\"'”’)]") != ".":
            return False
        word = before.split()[-1].lstrip("(\"'“‘[").lower()
        if word in _ABBREVIATIONS or len(word) == 1 and word.isalpha() and word != "i":
            return True
        return word.isdigit() and not before[: -len(word)].strip()

    def _with_space(self, end: int) -> int:
        while end < len(self._text) and self._text[end].isspace():
            end += 1
        return end

    def _forced(self) -> int:
        head = self._text[:MAX_CHARS]
        clauses = [m.end() for m in _CLAUSE.finditer(head)]
        if clauses and clauses[-1] > MAX_CHARS // 3:
            return self._with_space(clauses[-1])
        space = head.rfind(" ")
        return self._with_space(space) if space > 0 else MAX_CHARS
