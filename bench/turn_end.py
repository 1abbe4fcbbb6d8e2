"""semantic_vad on made utterances: the product's detector, recognition, judge and waiting rule, in audio time instead of real time.

What recognition costs is added as measured (CPU time, so that others on the machine do not count): a verdict holds only from the audio that
arrives after it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from tools.embedded_models.hesitations import Made, made
from voice.audio.detector import Detector
from voice.core import turn_end
from voice.core.hearing import RESUMED_PADDING_MS
from voice.core.setters import SEMANTIC_VAD
from voice.workers.hearing import Hearing

CHUNK_MS = 20
CLOSE_MS = 150  # a detector's end lies within this of the true one
PARAMS = {"rate_hz": 24000, "language": "en", "prompt": "", "interim_ms": 0, "turn_end": True}


@dataclass
class Measured:
    waits_ms: list[int] = field(default_factory=list)  # after true ends
    cut_off: list[str] = field(default_factory=list)
    pauses: int = 0

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.waits_ms)


def listen(one: Made, engine, eagerness: str) -> tuple[int, int]:
    """(where the turn was taken to end, when that was decided), ms of audio."""
    detector, hearing, begin, due, verdict = Detector({**SEMANTIC_VAD, "eagerness": eagerness}), Hearing(engine, PARAMS), 0, None, 0
    for at in range(0, len(one.pcm), CHUNK_MS * 48):
        now_ms = at // 48
        if due is not None and now_ms >= due:
            detector.end_after(verdict)
            due = None
        for edge in detector.push(one.pcm[at : at + CHUNK_MS * 48]):
            if edge.kind == "started":
                begin = max(0, edge.at_ms - 300)
            elif edge.kind == "resumed":
                begin, due = max(begin, edge.at_ms - RESUMED_PADDING_MS), None
            elif edge.kind == "paused":
                hearing.add(one.pcm[begin * 48 : edge.decided_ms * 48])
                began = time.process_time()
                found = hearing.hear(settle=True)
                begin, due = edge.decided_ms, now_ms + CHUNK_MS + (time.process_time() - began) * 1000
                detector.end_after(turn_end.unheard_ms(eagerness))
                verdict = turn_end.wait_ms(eagerness, found.text, found.ended)
            else:
                return edge.at_ms, edge.decided_ms
    raise RuntimeError(f"no end found in {one.text!r}")


def measure(count: int, seed: int, engine, eagerness: str = "auto") -> Measured:
    found = Measured()
    for one in made(count, seed):
        found.pauses += len(one.pauses)
        end, decided = listen(one, engine, eagerness)
        if end < one.end_ms - CLOSE_MS:
            found.cut_off.append(one.text)
        else:
            found.waits_ms.append(decided - one.end_ms)
    return found
