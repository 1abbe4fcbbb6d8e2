"""What a voice-activity detector tells the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SpeechEdge:
    """Speech began, paused (a short silence: perhaps the end), went on after a pause, or ended. In ms of audio since the session's start.

    `at_ms`: where in the audio it happened (start of the first, end of the last speech frame).
    `decided_ms`: how much audio it took to be sure; for "paused" and "stopped" later by the silence waited for.
    """

    kind: Literal["started", "paused", "resumed", "stopped"]
    at_ms: int
    decided_ms: int
