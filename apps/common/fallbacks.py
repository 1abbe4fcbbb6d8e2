"""Engines that take over: {"stt" | "llm" | "tts": {"engine": …, "model": …}}, of an agent, a workspace or the installation."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from apps.common.errors import BadRequest

STAGES = ("stt", "llm", "tts")
MODEL_CHARS = 120


def check_fallbacks(value: Any) -> dict[str, dict[str, str]]:
    """Raises BadRequest naming the stage, the engine and those that are installed."""
    if not isinstance(value, dict):
        raise _bad('expected {"stt" | "llm" | "tts": {"engine": …, "model": …}}')
    for stage, other in value.items():
        if stage not in STAGES or not isinstance(other, dict) or set(other) - {"engine", "model"}:
            raise _bad('expected {"stt" | "llm" | "tts": {"engine": …, "model": …}}')
        if other.get("engine") not in settings.VOICE_ENGINE_NAMES[stage]:
            raise _bad(f"{stage}: {str(other.get('engine'))[:40]!r} is not installed; there are {', '.join(settings.VOICE_ENGINE_NAMES[stage])}")
        model = other.get("model", "")
        if not isinstance(model, str) or len(model) > MODEL_CHARS or "\0" in model:
            raise _bad(f"{stage}: model is a name of at most {MODEL_CHARS} characters, none of them NUL")
    return value


def _bad(what: str) -> BadRequest:
    return BadRequest(f"fallbacks: {what}", param="fallbacks")


def by_stage(value: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """stage -> [engine, model], as sessions take it."""
    return {stage: [other["engine"], other.get("model", "")] for stage, other in value.items()}
