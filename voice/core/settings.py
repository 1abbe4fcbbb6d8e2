"""Session settings: what a session starts with, and `session.update` as a patch (protocol section 4)."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

from voice.core.errors import ProtocolError
from voice.core.setters import BETA_FORMATS, LOGPROBS, OPENAI_VOICES, PCM, SEMANTIC_VAD, SERVER_VAD, apply_patch, check_known

@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What the shell knows when the session starts. Deadlines in ms."""

    session_id: str
    model: str = "default"
    type: str = "realtime"  # or "transcription"
    instructions: str = ""
    voice: str = "alloy"
    voices: frozenset[str] = frozenset()  # names the speech engine knows, beside OPENAI_VOICES
    language: str = "en"
    stt_engine: str = "faster_whisper"
    stt_model: str = ""
    llm_engine: str = "ctranslate2"
    llm_model: str = ""
    tts_engine: str = "espeak"
    tts_model: str = ""
    turn_detection: dict[str, Any] | None = field(default_factory=lambda: dict(SERVER_VAD))
    tools: tuple[dict[str, Any], ...] = ()
    # functions the shell calls itself, which clients do not see: name -> {url, tool}
    server_tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)  # agents known by id: the patch each stands for
    pipelines: dict[str, dict[str, str]] = field(default_factory=dict)  # model name -> {stt_engine, stt_model, …}
    fallbacks: dict[str, list[str]] = field(default_factory=dict)  # stage -> [engine, model] that takes over when the session's own fails
    extensions: bool = False
    strict: bool = False  # unknown settings are refused
    preemptive: bool = True  # begin the answer at a short silence and hold it until the turn is certainly over
    backchannels: bool = True  # "mm-hmm" does not stop an answer
    max_session_s: int = 3600
    resume_window_s: int = 120  # a lost connection may come back this long; 0: not at all
    expires_at: int = 0  # unix seconds, shown to the client
    start_deadline_ms: int = 2000  # a job no worker has taken by then is handed out again
    wait_deadline_ms: int = 10000  # a job no worker has taken by then has failed
    stt_deadline_ms: int = 20000
    llm_deadline_ms: int = 60000
    tts_deadline_ms: int = 10000  # for one sentence
    responses_per_minute: int = 600
    tokens_per_minute: int = 1_000_000
    max_buffer_ms: int = 300_000  # audio held before it is committed
    max_items: int = 1000
    max_text_chars: int = 100_000  # in one item


def turn_taking(stored: dict[str, Any]) -> dict[str, Any]:
    """An agent's stored turn detection as fields of SessionConfig: the protocol's part, which clients see, and what is ours alone."""
    own = {name: stored[name] for name in ("preemptive", "backchannels") if name in stored}
    detection = {k: v for k, v in stored.items() if k not in own}
    return {"turn_detection": {"type": "server_vad", **detection}, **own}


class Settings:
    """The effective settings, in the GA shape. `update` is atomic: on an error nothing changes."""

    def __init__(self, config: SessionConfig):
        self.config = config
        detection = config.turn_detection
        defaults = {"server_vad": SERVER_VAD, "semantic_vad": SEMANTIC_VAD}
        if detection is not None:
            detection = {**defaults[detection["type"]], **detection}
        self.type = config.type
        self.extensions = config.extensions
        self.values: dict[str, Any] = {
            "model": config.model,
            "instructions": config.instructions,
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": dict(PCM), "transcription": None, "noise_reduction": None, "turn_detection": detection},
                "output": {"format": dict(PCM), "voice": config.voice, "speed": 1.0},
            },
            "tools": [dict(t) for t in config.tools],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "max_output_tokens": "inf",
            "reasoning": None,
            "tracing": None,
            "prompt": None,
            "truncation": "auto",
            "include": None,
        }

    @property
    def turn_detection(self) -> dict[str, Any] | None:
        return self.values["audio"]["input"]["turn_detection"]

    @property
    def transcription(self) -> dict[str, Any] | None:
        return self.values["audio"]["input"]["transcription"]

    @property
    def server_tools(self) -> dict[str, dict[str, Any]]:
        """Those of the stored prompt, else those the session began with."""
        bound = self.values["prompt"]
        return self.config.prompts.get(prompt_key(bound), {}).get("server_tools", {}) if bound else self.config.server_tools

    @property
    def input_format(self) -> str:
        return self.values["audio"]["input"]["format"]["type"]

    @property
    def logprobs(self) -> bool:
        """Are those of transcripts wanted?"""
        return LOGPROBS in (self.values["include"] or ())

    def stt_hints(self) -> dict[str, Any]:
        """{language, prompt} for speech recognition, and logprobs where they are wanted; what a client calls keywords is part of the prompt."""
        wanted = self.transcription or {}
        spoken = wanted.get("languages") or []
        language = wanted.get("language") or (spoken[0] if len(spoken) == 1 else "") or self.config.language
        prompt = " ".join([wanted.get("prompt", ""), ", ".join(wanted.get("keywords", ()))]).strip()
        return {"language": language, "prompt": prompt, **({"logprobs": True} if self.logprobs else {})}

    def engine(self, stage: str) -> tuple[str, str]:
        """(engine, model) of a stage: of the pipeline the session's model names, else of its stored prompt, else its own."""
        bound = (self.values["prompt"] or {}).get("id", "")
        own = self.config.pipelines.get(self.values["model"]) or self.config.pipelines.get(bound, {})
        name = own.get(f"{stage}_engine")
        return (name, own[f"{stage}_model"]) if name else (getattr(self.config, f"{stage}_engine"), getattr(self.config, f"{stage}_model"))

    def echo(self) -> dict[str, Any]:
        """The `session` object of session.created and session.updated: full, with defaults filled in."""
        values = copy.deepcopy(self.values)
        if heard := values["audio"]["input"]["transcription"]:
            values["audio"]["input"]["transcription"] = {k: v for k, v in heard.items() if k in ("model", "language", "prompt")}  # rule 14
        if values["reasoning"] is None:
            del values["reasoning"]
        head = {"id": self.config.session_id, "expires_at": self.config.expires_at, "type": self.type}
        if self.type == "transcription":
            audio = {"input": values["audio"]["input"]}
            return {**head, "object": "realtime.transcription_session", "audio": audio, "include": values["include"]}
        return {**head, "object": "realtime.session", **values}

    def update(self, patch: dict[str, Any]) -> None:
        """Merge a patch. Raises ProtocolError; then nothing has changed."""
        values = copy.deepcopy(self.values)
        patch = flat_to_ga(patch)
        if self.config.strict:
            check_known(patch)
        if isinstance(patch.get("prompt"), dict):
            apply_patch(values, self.prompt_patch(patch["prompt"], "session"), self.config)
        apply_patch(values, patch, self.config)
        self.values = values
        if isinstance(patch.get("extensions"), bool):
            self.extensions = patch["extensions"]

    def prompt_patch(self, prompt: dict[str, Any], at: str) -> dict[str, Any]:
        """What the stored agent `prompt.id` stands for, its {{variables}} filled in. Raises ProtocolError prompt_not_found."""
        known = self.config.prompts.get(prompt_key(prompt))
        if known is None:
            which = f"'{str(prompt.get('id'))[:80]}'" + (f" version {str(prompt['version'])[:20]}" if prompt.get("version") else "")
            raise ProtocolError("prompt_not_found", f"Prompt {which} not found.", param=f"{at}.prompt.id")
        texts = {k: v for k, v in (prompt.get("variables") or {}).items() if isinstance(v, str)} if isinstance(prompt.get("variables"), dict) else {}
        filled = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: texts.get(m[1], m[0]), known.get("instructions", ""))
        return {**known, "instructions": filled}


def prompt_key(prompt: dict[str, Any]) -> str:
    """Under which the shell keeps the agent a `prompt` names in SessionConfig.prompts: its id, and its version where one is named."""
    version = prompt.get("version")
    return f"{prompt.get('id')}@{version}" if version else str(prompt.get("id"))


def flat_to_ga(patch: dict[str, Any]) -> dict[str, Any]:
    """Accept the beta's flat keys (community samples mix them): moved to where GA has them."""
    moved: dict[str, Any] = {k: v for k, v in patch.items()}
    audio = copy.deepcopy(moved["audio"]) if isinstance(moved.get("audio"), dict) else {}
    places = {
        "voice": ("output", "voice"), "speed": ("output", "speed"), "turn_detection": ("input", "turn_detection"),
        "input_audio_transcription": ("input", "transcription"), "input_audio_format": ("input", "format"),
        "output_audio_format": ("output", "format"), "input_audio_noise_reduction": ("input", "noise_reduction"),
    }  # fmt: skip
    for key, (side, name) in places.items():
        if key in moved:
            value = moved.pop(key)
            if key.endswith("_format") and isinstance(value, str):
                value = {"type": BETA_FORMATS.get(value, value)}
            if not isinstance(audio.get(side), dict):
                audio[side] = {}
            audio[side].setdefault(name, value)
    if audio:
        moved["audio"] = audio
    if "modalities" in moved:
        moved.setdefault("output_modalities", moved.pop("modalities"))
    if "max_response_output_tokens" in moved:
        moved.setdefault("max_output_tokens", moved.pop("max_response_output_tokens"))
    return moved
