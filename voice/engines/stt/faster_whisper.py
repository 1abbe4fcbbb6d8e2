"""Speech recognition by faster-whisper (CTranslate2): any Whisper model folder, real weights or the embedded one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np

from voice.engines.base import EngineError, STTEngine, Transcript

RATE_HZ = 16000
FULL_WINDOW_S = 30
FRAMES_PER_S = 100


class Engine(STTEngine):
    """`model`: a folder under models/stt/ with model.bin, config.json, tokenizer.json, preprocessor_config.json."""

    def load(self) -> None:
        from faster_whisper import WhisperModel

        path = self.settings.find("stt", self.model)
        compute = "int8" if self.settings.device == "cpu" else "float16"
        try:
            self._model = WhisperModel(str(path), device=self.settings.device, compute_type=compute,
                                       cpu_threads=self.settings.threads, num_workers=2, local_files_only=True)  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"speech model {path} cannot be loaded: {error}", code="model_broken") from error
        self.window_s = self._chunk_length(path)
        self.endings = json.loads(file.read_text()) if (file := path / "endings.json").exists() else {}
        list(self.transcribe(bytes(RATE_HZ)))  # the first call allocates

    @staticmethod
    def _chunk_length(path) -> int:
        file = path / "preprocessor_config.json"
        return json.loads(file.read_text()).get("chunk_length", FULL_WINDOW_S) if file.exists() else FULL_WINDOW_S

    def transcribe(self, pcm: bytes, *, language: str = "en", prompt: str = "", task: str = "transcribe", logprobs: bool = False) -> Iterator[Transcript]:
        audio = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        if len(audio) < RATE_HZ // 50:
            yield Transcript("", True, language, 1.0)
        elif self.window_s < FULL_WINDOW_S:
            yield self._short(audio, logprobs)
        else:
            yield from self._standard(audio, language, prompt, task, logprobs)

    def _short(self, audio: np.ndarray, logprobs: bool) -> Transcript:
        """A model of shorter windows: faster-whisper pads to 30 s whatever `chunk_length` says, so its parts are called."""
        from faster_whisper.tokenizer import Tokenizer

        model, window = self._model, self.window_s * FRAMES_PER_S
        tokenizer = Tokenizer(model.hf_tokenizer, False, "transcribe", "en")
        start = [[tokenizer.sot, tokenizer.no_timestamps]]
        texts, sure, told = [], 0.0, []
        for at in range(0, len(audio), self.window_s * RATE_HZ):
            features = model.feature_extractor(audio[at : at + self.window_s * RATE_HZ], padding=0)[:, :window]
            padded = np.zeros((features.shape[0], window), np.float32)
            padded[:, : features.shape[1]] = features
            result = model.model.generate(model.encode(padded), start, beam_size=1, max_length=60, return_scores=True, return_logits_vocab=logprobs)[0]
            sure = min(sure, result.scores[0])
            ids = [t for t in result.sequences_ids[0] if t < tokenizer.eot]
            texts.append(tokenizer.decode(ids).strip())
            if logprobs:
                told += [(tokenizer.decode([t]), _logprob(step, t)) for t, step in zip(ids, result.logits[0], strict=False)]
        return Transcript(" ".join(t for t in texts if t), True, "en", confidence=math.exp(sure), logprobs=_trimmed(told))

    def _standard(self, audio: np.ndarray, language: str, prompt: str, task: str, logprobs: bool) -> Iterator[Transcript]:
        """`logprobs`: of words, which are what this library tells; it looks a second time for them."""
        segments, info = self._model.transcribe(
            audio, task=task, language=language if self._model.model.is_multilingual else None, initial_prompt=prompt or None, beam_size=1,
            temperature=0.0, condition_on_previous_text=False, without_timestamps=not logprobs, word_timestamps=logprobs, vad_filter=False,
        )  # fmt: skip
        text, silence, sure, told = "", 0.0, 0.0, []
        for segment in segments:
            text += segment.text
            told += [(word.word, math.log(max(word.probability, 1e-9))) for word in segment.words or ()]
            silence, sure = max(silence, segment.no_speech_prob), min(sure, segment.avg_logprob)
            yield Transcript(text.strip(), False, info.language, silence, confidence=math.exp(sure))
        yield Transcript(text.strip(), True, info.language, silence, confidence=math.exp(sure), logprobs=_trimmed(told))


def _logprob(logits, token: int) -> float:
    """Natural log of the probability of `token` in one step (a CTranslate2 StorageView)."""
    row = np.asarray(logits).ravel()
    top = float(row.max())
    return float(row[token]) - top - math.log(float(np.exp(row - top).sum()))


def _trimmed(told: list[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """As the text is: without the space before the first."""
    return ((told[0][0].lstrip(), told[0][1]), *told[1:]) if told else ()
