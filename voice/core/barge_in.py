"""Does what the user says over an answer stop it? "Mm-hmm" tells that somebody listens; "stop" is meant.

Sources: Yngve 1970 named the backchannel; the list is what Whisper writes for the English, German, French, Spanish and Italian ones.
A short sound in which recognition is not sure of any word (a hum, a cough, a chuckle) counts as one, too.
"""

from __future__ import annotations

import re
from enum import Enum

LONGEST_MS = 900  # speech without a pause for longer than this (the pause's own detection included) is no backchannel, whatever its words
SURE = 0.6  # below this confidence a short sound holds no word; Whisper's own cut for "did not understand" is e ** -1 = 0.37
WORDS_MAX = 4
_HUM = re.compile(r"(?:m+|h+m+|m+h+m*|u+h+|a+h+|o+h+|e+h+)\Z")
WORDS = frozenset(
    "mhm mmhm mm hmm hm uhhuh uh huh ah aha oh ooh wow yeah yep yup yes ok okay right sure alright really nice cool great good "
    "ja genau stimmt aha achso oui ouais voila si claro vale certo".split()
)
COMMANDS = frozenset("stop wait no hold pause cancel enough quiet stopp halt warte nein arrete attends non para espera basta aspetta".split())
PHRASES = frozenset(
    {"i see", "got it", "go on", "of course", "makes sense", "that makes sense", "all right", "no way", "ah ok", "d accord", "uh huh", "mm hmm"}
)


class Verdict(Enum):
    OPEN = "open"  # not known yet
    BACKCHANNEL = "backchannel"  # the answer goes on
    MEANT = "meant"  # the answer stops


def is_backchannel(text: str, confidence: float, speech_ms: int) -> bool:
    words = re.findall(r"[^\W\d_]+", text.lower().replace("-", "").replace("'", " "))
    if not words:
        return True
    if confidence < SURE and speech_ms <= LONGEST_MS:
        return True
    if len(words) > WORDS_MAX:
        return False
    return " ".join(words) in PHRASES or all(w in WORDS or _HUM.match(w) for w in words)


def judge(text: str, confidence: float, speech_ms: int, complete: bool) -> Verdict:
    """`complete`: the user paused and this is all that was said; `speech_ms`: speech since the last pause."""
    if is_backchannel(text, confidence, speech_ms):
        return Verdict.BACKCHANNEL if complete else Verdict.OPEN
    words = text.lower().split()
    # half a hum sounds like the beginning of many a name: one word that is still going on decides only when it is a command
    if not complete and (confidence < SURE or len(words) < 2 and not COMMANDS.issuperset(words)):
        return Verdict.OPEN
    return Verdict.MEANT
