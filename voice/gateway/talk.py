"""Talk to any OpenAI-Realtime gateway from the command line (`manage.py talk`, or `python -m voice.gateway.talk`).

Streams a WAV in real time, prints transcript and answer as they come, and draws where the time went.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import soxr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

RATE_HZ = 24000
CHUNK_MS = 40
ANSWER_S = 60
TAIL_S = 1.5  # silence sent after the file, so that the end of speech is noticed
BAR = 40


class TalkError(Exception):
    """What the user can do something about; the message says what."""


def read_wav(path: Path) -> bytes:
    """Any PCM WAV as PCM16 mono 24 kHz. Raises TalkError."""
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate, frames = file.getsampwidth(), file.getnchannels(), file.getframerate(), file.readframes(file.getnframes())
    except FileNotFoundError:
        raise TalkError(f"{path}: no such file") from None
    except (wave.Error, EOFError, OSError) as error:
        raise TalkError(f"{path} is not a PCM WAV file ({error}); convert it, e.g. with `ffmpeg -i {path} -ar 24000 -ac 1 out.wav`") from None
    if width == 1:
        samples = (np.frombuffer(frames, np.uint8).astype(np.float32) - 128) / 128
    elif width in (2, 4):
        samples = np.frombuffer(frames[: len(frames) // width * width], f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    elif width == 3:
        raw = np.frombuffer(frames[: len(frames) // 3 * 3], np.uint8).reshape(-1, 3)
        samples = (np.pad(raw, ((0, 0), (1, 0))).copy().view("<i4").ravel() / 2**31).astype(np.float32)
    else:
        raise TalkError(f"{path}: samples of {width} bytes are not supported")
    if not len(samples):
        raise TalkError(f"{path} holds no audio")
    samples = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1)
    if rate != RATE_HZ:
        samples = soxr.resample(samples, rate, RATE_HZ)
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


@dataclass
class Result:
    """Everything heard and measured. Times in ms; `first_audio_ms` from the end of the speech sent."""

    transcript: str = ""
    answer: str = ""
    status: str = ""
    error: str = ""
    audio: bytearray = field(default_factory=bytearray)
    connect_ms: float = 0.0
    transcript_ms: float | None = None
    first_text_ms: float | None = None
    endpoint_ms: float | None = None  # the end of the turn was certain
    first_audio_ms: float | None = None
    done_ms: float | None = None
    segments: list = field(default_factory=list)
    overlapped: list = field(default_factory=list)

    def to_json(self) -> dict:
        values = {k: v for k, v in self.__dict__.items() if k != "audio"}
        return values | {"audio_ms": len(self.audio) * 1000 // 2 // RATE_HZ}


class Talk:
    """One turn over one connection."""

    def __init__(self, url: str, key: str, say):
        self.url, self.key, self.say = url, key, say
        self.result = Result()
        self.speech_end = 0.0
        self.done = asyncio.Event()

    async def run(self, pcm: bytes | None, text: str | None, voice: str | None, instructions: str | None) -> Result:
        """Raises TalkError."""
        began = time.monotonic()
        try:
            async with connect(_with_extensions(self.url), additional_headers={"Authorization": f"Bearer {self.key}"}, max_size=2**24, open_timeout=10,
                               compression=None, proxy=None) as socket:  # fmt: skip
                self.socket = socket
                await self._expect_session()
                self.result.connect_ms = _ms(began)
                await self._set_up(voice, instructions, spoken=pcm is not None)
                reader = asyncio.create_task(self._read())
                try:
                    await (self._speak(pcm) if pcm is not None else self._type(text))
                    await asyncio.wait_for(self.done.wait(), ANSWER_S)
                except TimeoutError:
                    raise TalkError(f"no answer within {ANSWER_S} s") from None
                finally:
                    reader.cancel()
        except InvalidStatus as error:
            raise TalkError(f"the gateway refused: HTTP {error.response.status_code} {error.response.body.decode(errors='replace')[:300]}") from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise TalkError(f"no connection to {self.url}: {error}") from None
        return self.result

    async def _expect_session(self) -> None:
        first = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
        if first["type"] != "session.created":
            raise TalkError(f"the gateway began with {first['type']}: {first.get('error')}")

    async def _set_up(self, voice, instructions, spoken: bool) -> None:
        session: dict = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
        if voice:
            session["audio"]["output"] = {"voice": voice}
        if instructions:
            session["instructions"] = instructions
        await self._send({"type": "session.update", "session": session})

    async def _send(self, event: dict) -> None:
        await self.socket.send(json.dumps(event))

    async def _type(self, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self._send({"type": "conversation.item.create", "item": item})
        self.speech_end = time.monotonic()
        await self._send({"type": "response.create"})

    async def _speak(self, pcm: bytes) -> None:
        """In real time, then silence until the answer has begun."""
        loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2")) > 200)
        end = (int(loud[-1]) + 1) * 2 if len(loud) else len(pcm)  # the file's own trailing silence is not speech
        whole = pcm + bytes(int(TAIL_S * RATE_HZ) * 2)
        size, began = RATE_HZ * CHUNK_MS // 1000 * 2, time.monotonic()
        for at in range(0, len(whole), size):
            await self._send({"type": "input_audio_buffer.append", "audio": base64.b64encode(whole[at : at + size]).decode()})
            if at <= end < at + size:
                self.speech_end = began + end / 2 / RATE_HZ
            due = began + (at + size) / 2 / RATE_HZ
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def _read(self) -> None:
        try:
            async for frame in self.socket:
                self._event(json.loads(frame))
        except ConnectionClosed as error:
            self.result.error = self.result.error or f"closed: {error}"
        self.done.set()

    def _event(self, event: dict) -> None:
        kind, result = event["type"], self.result
        since = _ms(self.speech_end) if self.speech_end else None
        if kind == "conversation.item.input_audio_transcription.completed":
            result.transcript, result.transcript_ms = event["transcript"], since
            self.say(f"you     {event['transcript']}\n")
        elif kind == "input_audio_buffer.speech_stopped":
            result.endpoint_ms = since
        elif kind in ("response.output_audio_transcript.delta", "response.output_text.delta"):
            if not result.answer:
                result.first_text_ms = since
                self.say("agent   ")
            result.answer += event["delta"]
            self.say(event["delta"])
        elif kind == "response.output_audio.delta":
            if not result.audio:
                result.first_audio_ms = since
            result.audio += base64.b64decode(event["delta"])
        elif kind == "response.function_call_arguments.done":
            self.say(f"agent   calls {event['name']}({event['arguments']})")
        elif kind == "ext.response.timing":
            result.segments, result.overlapped = event["segments"], event.get("overlapped", [])
        elif kind == "response.done":
            result.status, result.done_ms = event["response"]["status"], since
            if result.status == "failed":
                result.error = str((event["response"].get("status_details") or {}).get("error"))
            self.say("\n")
            asyncio.get_running_loop().call_later(0.2, self.done.set)  # the timing comes right after
        elif kind == "error":
            result.error = event["error"]["message"]
            self.say(f"error   {result.error}\n")


def waterfall(segments: list[dict], overlapped: list[dict] = ()) -> str:
    """Segments of a turn as bars on one time line; in light grey what was done while the first of them lasted."""
    total = sum(s["ms"] for s in segments) or 1.0
    lines: list[str] = []

    def draw(rows: list[dict], bar: str, before: float = 0.0) -> None:
        for row in rows:
            if row["ms"] < 0.05:  # done ahead: nothing was left of it
                continue
            left, width = round(before / total * BAR), max(1, round(row["ms"] / total * BAR))
            lines.append(f"  {row['name'].replace('_', ' '):12} {row['ms']:8.1f} ms  {' ' * left}{bar * width}")
            before += row["ms"]

    draw(segments[:1], "█")
    draw(overlapped, "░")
    draw(segments[1:], "█", segments[0]["ms"] if segments else 0.0)
    lines.append(f"  {'together':12} {total:8.1f} ms  from the end of speech to the first sound")
    return "\n".join(lines)


def _with_extensions(url: str) -> str:
    parts = urlsplit(url)
    path = parts.path if parts.path not in ("", "/") else "/v1/realtime"
    query = parts.query + ("&" if parts.query else "") + "extensions=1"
    return urlunsplit((parts.scheme.replace("http", "ws"), parts.netloc, path, query, ""))


def _ms(since: float) -> float:
    return round((time.monotonic() - since) * 1000, 1)


def save_wav(path: Path, pcm: bytes) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(pcm)


def record(seconds: float) -> bytes:
    """PCM16 mono 24 kHz from the microphone. Raises TalkError where there is none."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise TalkError(f"no microphone support here ({error}); pip install sounddevice, or give a WAV file") from None
    try:
        samples = sounddevice.rec(int(seconds * RATE_HZ), samplerate=RATE_HZ, channels=1, dtype="int16", blocking=True)
    except sounddevice.PortAudioError as error:
        raise TalkError(f"the microphone cannot be opened: {error}") from None
    return samples.tobytes()


def demo_values() -> dict[str, str]:
    """What the last `make run` wrote down."""
    path = Path(os.environ.get("VIVAVOCE_VAR", Path(__file__).resolve().parents[2] / "var")) / "demo.env"
    try:
        return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    except OSError:
        return {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, help="a WAV file, spoken in real time")
    parser.add_argument("--text", help="type this instead")
    parser.add_argument("--mic", type=float, metavar="SECONDS", help="record from the microphone")
    parser.add_argument("--url", help="ws://…/v1/realtime; default: VOICE_WS_URL, then var/demo.env")
    parser.add_argument("--key", help="API key; default: VOICE_API_KEY, then var/demo.env")
    parser.add_argument("--voice")
    parser.add_argument("--instructions")
    parser.add_argument("--save", type=Path, metavar="ANSWER.wav")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every latency and nothing else")


def run(options: argparse.Namespace) -> int:
    known = demo_values()
    url = options.url or os.environ.get("VOICE_WS_URL") or known.get("VOICE_WS_URL") or "ws://localhost:25000/v1/realtime"
    key = options.key or os.environ.get("VOICE_API_KEY") or known.get("VOICE_API_KEY", "")
    say = (lambda text: None) if options.json else (lambda text: print(text, end="", flush=True))
    try:
        if not key:
            raise TalkError("no API key: give --key, set VOICE_API_KEY, or run `make run` first")
        if sum(x is not None for x in (options.file, options.text, options.mic)) != 1:
            raise TalkError("say one of: a WAV file, --text, --mic")
        pcm = read_wav(options.file) if options.file else record(options.mic) if options.mic else None
        result = asyncio.run(Talk(url, key, say).run(pcm, options.text, options.voice, options.instructions))
        if options.save:
            save_wav(options.save, bytes(result.audio))
    except TalkError as error:
        print(json.dumps({"error": str(error)}) if options.json else f"talk: {error}", file=sys.stdout if options.json else sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result.to_json()))
    elif result.segments:
        print(waterfall(result.segments, result.overlapped))
    return 0 if result.status == "completed" else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
