"""Under semantic_vad: how long must a pause last to be the end of the turn?

A rule over the words so far and the fall of the voice (voice/audio/prosody.py) gives the chance that the sentence is over; the surer, the
shorter the wait. docs/protocol.md describes it, `python -m bench --only "turn end"` measures it on made utterances.
"""

from __future__ import annotations

import math
import re

UNHEARD_MS = {"low": 2500, "medium": 1500, "auto": 1500, "high": 800}
# English words that a finished sentence hardly ever ends with
OPEN_WORDS = frozenset(
    "a an the my your our his her its this these those of to in on at for from with by about into over under after before between and or but so "
    "because if when while as than then is are was were am be been being do does did can could will would shall should may might must have has "
    "had i you he she we they it what which who whom whose where why how not no please want like need tell give turn count book plus minus times "
    "set call um uh er well hi hello".split()
)
END_MARKS, OPEN_MARKS = ".?!", (",", "-", "–", "…", "...", ":", ";")
