"""Sentences that must be sayable when the engines are not: spoken before, kept as sound (voice/gateway/notices.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class NoticeKind(StrEnum):
    STT_UNAVAILABLE = "stt_unavailable"
    LLM_UNAVAILABLE = "llm_unavailable"
    INSUFFICIENT_QUOTA = "insufficient_quota"
    SESSION_ENDED = "session_ended"


@dataclass(frozen=True, slots=True)
class Notice:
    text: str
    pcm: bytes  # PCM16 mono 24 kHz


# (kind, voice) -> what is said, or None where nothing was made ready
Notices = Callable[[NoticeKind, str], Notice | None]


def no_notices(kind: NoticeKind, voice: str) -> Notice | None:
    return None
