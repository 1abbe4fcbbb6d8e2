"""Real models one can pull: name -> where it comes from. Nothing is downloaded unless `manage.py models pull NAME` asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    stage: str
    engine: str
    licence: str
    megabytes: int
    note: str
    repository: str = ""  # on the Hugging Face hub
    files: tuple[str, ...] = ()  # direct downloads


_KOKORO = "https://github.com/thewh1teagle/kokoro-onnx/releases/download/model-files-v1.0/"
CATALOGUE: dict[str, Model] = {
    "whisper-base": Model("stt", "faster_whisper", "MIT", 145, "99 languages, CPU", "Systran/faster-whisper-base"),
    "whisper-small": Model("stt", "faster_whisper", "MIT", 484, "99 languages, CPU", "Systran/faster-whisper-small"),
    "whisper-large-v3-turbo": Model("stt", "faster_whisper", "MIT", 1620, "99 languages, GPU", "mobiuslabsgmbh/faster-whisper-large-v3-turbo"),
    "qwen2.5-1.5b-instruct": Model("llm", "vllm", "Apache-2.0", 3090, "GPU, or CPU with patience", "Qwen/Qwen2.5-1.5B-Instruct"),
    "qwen2.5-7b-instruct": Model("llm", "vllm", "Apache-2.0", 15200, "GPU", "Qwen/Qwen2.5-7B-Instruct"),
    "kokoro": Model("tts", "kokoro", "Apache-2.0", 340, "54 voices, 24 kHz", files=(f"{_KOKORO}kokoro-v1.0.onnx", f"{_KOKORO}voices-v1.0.bin")),
}
