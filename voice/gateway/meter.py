"""What one session has used so far, and its purse while a cap holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voice.core.effects import RecordTurn
from voice.gateway.purse import Purse

if TYPE_CHECKING:
    from voice.gateway.live import Live

BYTES_PER_S = 48000


class Meter:
    """`heard`, `said`: bytes of PCM16 24 kHz."""

    def __init__(self, live: Live):
        self._live = live
        self.heard = self.said = 0
        self._tokens = {"tokens_in": 0, "tokens_out": 0}
        self._purse: asyncio.Task | None = None

    def turn(self, effect: RecordTurn) -> None:
        for meter in self._tokens:
            self._tokens[meter] += effect.usage.get(meter, 0)

    def used(self) -> dict[str, int]:
        """Units by meter."""
        return {"session_ms": self._live.lasted_ms(), "audio_in_ms": self.heard * 1000 // BYTES_PER_S,
                "audio_out_ms": self.said * 1000 // BYTES_PER_S, **self._tokens}  # fmt: skip

    def hold_ahead(self) -> None:
        """Under a cap, while there is one."""
        place = self._live.place
        if not place.capped and self._purse is not None:
            self._purse.cancel()
            self._purse = None
        elif place.capped and self._purse is None:
            live = self._live
            purse = Purse(place.principal.tenant, place.session_id, self.used, lambda code, message: live.end(code, message))
            self._purse = self._live.spawn(purse.run(), "purse")
