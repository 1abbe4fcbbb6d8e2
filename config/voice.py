"""Voice settings as plain constants, without Django: read by the settings module and by the engine workers."""

from __future__ import annotations

from pathlib import Path

from config.env import ROOT, embedded_secret, envbool, envfloat, envint, envlist, envsecret, envstr

REDIS_PORT = envint("REDIS_PORT", 16379)
# redis://…, or redis+sentinel://:password@host:26379,host:26379/master/0 (config/redis.py)
REDIS_URL = envsecret("REDIS_URL") or f"redis://:{embedded_secret('redis_password')}@127.0.0.1:{REDIS_PORT}/0"

# Engines and models: a name is a file under voice/engines/<stage>/; a model is a folder under MODELS_DIRS/<stage>/ or a path
STT_ENGINE = envstr("STT_ENGINE", "faster_whisper")
STT_MODEL = envstr("STT_MODEL", "embedded-closed-vocab")
LLM_ENGINE = envstr("LLM_ENGINE", "ctranslate2")
LLM_MODEL = envstr("LLM_MODEL", "embedded-closed-vocab")
TTS_ENGINE = envstr("TTS_ENGINE", "espeak")
TTS_MODEL = envstr("TTS_MODEL", "espeak-ng")
# what takes over when an engine fails, "engine:model", for agents that name none of their own
FALLBACKS = {stage: value.split(":", 1) for stage in ("stt", "llm", "tts") if ":" in (value := envstr(f"{stage.upper()}_FALLBACK", ""))}
MODELS_DIRS = [Path(p) for p in envlist("MODELS_DIRS", [str(ROOT / "voice" / "models"), str(ROOT / "var" / "models")])]
LLM_OPENAI_BASE_URL = envstr("LLM_OPENAI_BASE_URL", "http://127.0.0.1:11434/v1")
LLM_OPENAI_API_KEY = envsecret("LLM_OPENAI_API_KEY")
VOICES = envlist("VOICES", [])  # names of voices clients may ask for beside the ten of OpenAI and those of the engines
DEVICE = envstr("VOICE_DEVICE", "cpu")  # cpu, cuda, auto
ENGINE_THREADS = envint("ENGINE_THREADS", 1)  # threads inside one inference
WORKER_SLOTS = envint("WORKER_SLOTS", 16)  # jobs a worker process of the llm stage holds at once
SPEECH_SLOTS = envint("SPEECH_SLOTS", 128)  # of stt and tts, whose jobs last as long as somebody speaks and wait most of the time

# Deadlines
START_DEADLINE_MS = envint("START_DEADLINE_MS", 2000)  # a job no worker took by then is handed out again
WAIT_DEADLINE_MS = envint("WAIT_DEADLINE_MS", 10000)  # and by then has failed
STT_DEADLINE_MS = envint("STT_DEADLINE_MS", 20000)  # from commit to transcript
LLM_DEADLINE_MS = envint("LLM_DEADLINE_MS", 60000)  # from opening to the last word
TTS_DEADLINE_MS = envint("TTS_DEADLINE_MS", 10000)  # for one sentence

# Gateway
MAX_SESSION_SECONDS = envint("MAX_SESSION_SECONDS", 3600)
RESUME_SECONDS = envint("RESUME_SECONDS", 120)  # a lost connection may come back this long; a workspace's own: limit `resume_seconds`, 10-3600
GATEWAY_MAX_SESSIONS = envint("GATEWAY_MAX_SESSIONS", 100)  # per process; more get 503
ADMISSION_LATE_MS = envint("ADMISSION_LATE_MS", 40)  # an event loop later than this (90th percentile) takes no new sessions; 0 = whatever it is
MAX_FRAME_BYTES = envint("MAX_FRAME_BYTES", 21 * 1024 * 1024)  # one WebSocket message; larger closes 1009
OUTPUT_BUFFER_BYTES = envint("OUTPUT_BUFFER_BYTES", 2 * 1024 * 1024)  # unsent for a client that does not read, then it is cut
OUTPUT_STALL_SECONDS = envint("OUTPUT_STALL_SECONDS", 20)  # one frame may take this long to be taken
PING_SECONDS = envint("PING_SECONDS", 20)
WEBSOCKET_COMPRESSION = envbool("WEBSOCKET_COMPRESSION", True)  # for clients that offer it; those that do not cost nothing
VAD_GATE_DB = envfloat("VAD_GATE_DB", -55.0)  # below this level (dBFS) a frame is silence without asking the model; 0 = off
OTEL_ENDPOINT = envstr("OTEL_EXPORTER_OTLP_ENDPOINT")  # of an OpenTelemetry collector, e.g. http://localhost:4318; empty = no tracing
