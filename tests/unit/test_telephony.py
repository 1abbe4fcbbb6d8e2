"""G.711: the laws themselves, and 8 kHz against 24 kHz."""

from __future__ import annotations

import numpy as np
import pytest

from voice.audio.telephony import FromTelephone, ToTelephone
from voice.core.g711 import LAWS, VALUES, decode

T = np.arange(24000) / 24000


def test_known_values_of_both_laws():
    assert [VALUES["audio/pcmu"][c] for c in (0x00, 0x80, 0x7F, 0xFF, 0xEF)] == [-32124, 32124, 0, 0, 132]  # ITU-T G.711, table 2
    assert [VALUES["audio/pcma"][c] for c in (0xD5, 0x55, 0x2A, 0xAA)] == [8, -8, -32256, 32256]
    assert decode(b"\x00\xff", "audio/pcmu") == np.asarray([-32124, 0], "<i2").tobytes()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("hz", [440, 1000, 2500])
def test_there_and_back_is_the_same_sound(law, hz):
    sine = (8000 * np.sin(2 * np.pi * hz * T)).astype("<i2")
    there, back = ToTelephone(law), FromTelephone(law)
    coded = b"".join(there.push(sine[at : at + 2401].tobytes()) for at in range(0, 24000, 2401))  # pieces that three does not divide
    assert len(coded) == 8000
    again = np.frombuffer(b"".join(back.push(coded[at : at + 161]) for at in range(0, 8000, 161)), "<i2").astype(float)
    assert len(again) == 24000
    steady = again[2400:21600]
    basis = np.stack([np.sin(2 * np.pi * hz * T), np.cos(2 * np.pi * hz * T)])[:, 2400:21600]
    weights = basis @ steady * 2 / len(steady)
    error = steady - weights @ basis
    assert np.hypot(*weights) == pytest.approx(8000, rel=0.08)
    assert 10 * np.log10((steady**2).mean() / (error**2).mean()) > 30  # dB


def test_what_a_telephone_cannot_carry_is_gone():
    hiss = (8000 * np.sin(2 * np.pi * 7000 * T)).astype("<i2")
    coded = ToTelephone("audio/pcmu").push(hiss.tobytes())
    assert np.abs(np.frombuffer(decode(coded[100:], "audio/pcmu"), "<i2")).max() < 80  # 40 dB down
