"""Audio files through PyAV (FFmpeg): any container in, PCM16 mono 24 kHz out; and PCM into the six formats of /v1/audio/speech.

Everything here computes: call it in a thread, never on an event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np

RATE_HZ = 24000
CONTENT_TYPES = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm"}
_CODECS = {"mp3": ("mp3", "libmp3lame", {"write_xing": "0"}), "opus": ("ogg", "libopus", {}), "aac": ("adts", "aac", {}), "flac": ("flac", "flac", {})}
BIT_RATE = 64000
# Containers, not play-lists: nothing an upload says makes FFmpeg open another file or address
CLOSED = {"format_whitelist": "wav,w64,aiff,au,caf,mp3,aac,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,amr,avi,mpeg,mpegts,asf", "protocol_whitelist": "none"}


class UnreadableAudio(Exception):
    """The file is not audio that FFmpeg can read."""


def read(file: BinaryIO) -> Iterator[bytes]:
    """PCM16 mono 24 kHz, piece by piece. Raises UnreadableAudio."""
    try:
        with av.open(file, metadata_errors="ignore", options=CLOSED) as container:
            if not container.streams.audio:
                raise UnreadableAudio("the file holds no audio")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
            for frame in container.decode(audio=0):
                for made in resampler.resample(frame):
                    yield made.to_ndarray().astype("<i2").tobytes()
            for made in resampler.resample(None):
                yield made.to_ndarray().astype("<i2").tobytes()
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise UnreadableAudio(f"the file is not audio that can be read: {error}") from error


class _Sink:
    """What the muxer has written and nobody has taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


class Encoder:
    """PCM16 mono 24 kHz into a file that is sent while it is made: its length is not known, so none is written."""

    def __init__(self, format: str):
        self.format = format
        self._stream: Any = None
        if format in _CODECS:
            container, codec, options = _CODECS[format]
            self._sink, self._samples = _Sink(), 0
            self._file = av.open(self._sink, "w", format=container, options=options)
            self._stream = self._file.add_stream(codec, rate=RATE_HZ, layout="mono")
            if format != "flac":
                self._stream.bit_rate = BIT_RATE
            self._resampler = av.AudioResampler(format=self._stream.format.name, layout="mono", rate=RATE_HZ, frame_size=self._stream.frame_size or 0)

    def push(self, pcm: bytes) -> bytes:
        if self._stream is None:
            return pcm
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, self._samples
        self._samples += frame.samples
        for made in self._resampler.resample(frame):
            self._file.mux(self._stream.encode(made))
        return self._sink.take()

    def start(self) -> bytes:
        return _wav_header() if self.format == "wav" else b""

    def end(self) -> bytes:
        if self._stream is None:
            return b""
        for made in self._resampler.resample(None):
            self._file.mux(self._stream.encode(made))
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._sink.take()


def _wav_header() -> bytes:
    """Of a stream: sizes at their maximum (RIFF has no "unknown")."""
    most = (0xFFFFFFFF).to_bytes(4, "little")
    shape = (16).to_bytes(4, "little") + (1).to_bytes(2, "little") * 2 + RATE_HZ.to_bytes(4, "little") + (2 * RATE_HZ).to_bytes(4, "little")
    return b"RIFF" + most + b"WAVEfmt " + shape + (2).to_bytes(2, "little") + (16).to_bytes(2, "little") + b"data" + most
