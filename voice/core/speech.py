"""What a voice-activity detector tells the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SpeechEdge:
    """Speech began or ended. All in ms of audio since the session's start.

    `at_ms`: where in the audio it happened (start of the first, end of the last speech frame).
    `decided_ms`: how much audio it took to be sure; for "stopped" later by the silence waited for.
    """

    kind: Literal["started", "stopped"]
    at_ms: int
    decided_ms: int
