"""How a session finds speech in what it hears: the detector, or loudness alone once the detector's model cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from django.conf import settings

from voice.audio.detector import Detector
from voice.core.session import Session
from voice.core.speech import SpeechEdge

log = logging.getLogger("voice.gateway")


class Ear:
    """`lost`: told when the model fails while somebody is heard."""

    def __init__(self, session: Session, lost: Callable[[], None]):
        self.by_loudness = False
        self._session, self._lost = session, lost
        self.detector = self._new()

    def _new(self) -> Detector:
        if not self.by_loudness:
            try:
                return Detector(None, settings.VOICE.VAD_GATE_DB)
            except Exception:  # the model's fault; loudness alone finds speech, too
                log.exception("the voice activity model cannot be used; going on by loudness")
                self.by_loudness = True
        return Detector(None, settings.VOICE.VAD_GATE_DB, by_loudness=True)

    def push(self, pcm: bytes) -> Sequence[SpeechEdge]:
        """The hot path: PCM16 mono 24 kHz."""
        try:
            return self.detector.push(pcm)
        except Exception:  # the model's fault; loudness alone finds speech, too
            log.exception("voice activity detection failed; going on by loudness")
            return self._go_on_by_loudness()

    def _go_on_by_loudness(self) -> Sequence[SpeechEdge]:
        self.by_loudness = True
        self.detector = self._new()
        self.detector.configure(self._session.context.settings.turn_detection, True)
        self.detector.skip_to(self._session.turns.buffer.end)
        self._lost()
        return ()
