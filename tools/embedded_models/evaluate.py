"""How good are the embedded models? Word errors on held-out sentences by held-out voices, right answers on held-out dialogues.

    python tools/embedded_models/evaluate.py [--sentences 200] [--dialogues 300] [--json FILE]

The engines are the product's own. An answer is right when it equals the wanted one letter by letter; a call when name and
arguments are equal.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import grammar  # noqa: E402
import numpy as np  # noqa: E402
from speech import HELD_OUT_VOICES, Espeak, over_telephone, to_rate  # noqa: E402

from voice.engines import create  # noqa: E402
from voice.engines.base import CompletionRequest, EngineSettings, TextDelta, ToolCall  # noqa: E402

SETTINGS = EngineSettings((ROOT / "voice" / "models",))
SEED = 777


def word_errors(wanted: list[str], heard: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def evaluate_stt(count: int, telephone: bool = False) -> dict:
    """`telephone`: through G.711 at 8 kHz, half of the sentences behind a handset that carries nothing low."""
    engine = create("stt", "faster_whisper", "embedded-closed-vocab", SETTINGS)
    engine.load()
    espeak, rng, line = Espeak(), random.Random(SEED), random.Random(SEED)
    sentences: list[str] = []
    while len(sentences) < count:
        sentence = grammar.spoken_sentences(rng, exam=True)
        if sentence not in sentences:
            sentences.append(sentence)
    voices, errors, words, spent, wrong = {}, 0, 0, [], []
    for voice in HELD_OUT_VOICES:
        mine = total = 0
        for i, sentence in enumerate(sentences):
            audio = to_rate(espeak.say(sentence, voice, 150 + i % 40), 16000)
            if telephone:
                audio = np.clip(over_telephone(audio, line), -1, 1)
            pcm = (audio * 32767).astype("<i2").tobytes() + bytes(16000)  # half a second of silence, as after an endpoint
            began = time.perf_counter()
            text = list(engine.transcribe(pcm))[-1].text
            spent.append(time.perf_counter() - began)
            bad = word_errors(sentence.split(), text.split())
            if bad:
                wrong.append([voice, sentence, text])
            mine, total = mine + bad, total + len(sentence.split())
        voices[voice] = round(100 * mine / total, 2)
        errors, words = errors + mine, words + total
        print(f"  {voice:24} {voices[voice]:5.2f} % word errors", flush=True)
    spent.sort()
    return {"word_errors_percent": round(100 * errors / words, 2), "by_voice": voices, "sentences": count, "ms_p50": round(1000 * spent[len(spent) // 2], 1),
            "wrong": wrong[:40]}  # fmt: skip


def evaluate_llm(count: int) -> dict:
    engine = create("llm", "ctranslate2", "embedded-closed-vocab", SETTINGS)
    engine.load()
    rng, right, wrong, kinds = random.Random(SEED), 0, [], {}
    for _ in range(count):
        messages, tools = grammar.dialogue(rng, exam=True)
        wanted = messages[-1]
        text, calls = "", []
        for found in engine.complete(CompletionRequest(messages[:-1], tools, max_tokens=400)):
            if isinstance(found, TextDelta):
                text += found.text
            elif isinstance(found, ToolCall):
                calls.append([found.name, json.loads(found.arguments)])
        expected = [[c["function"]["name"], json.loads(c["function"]["arguments"])] for c in wanted.get("tool_calls", [])]
        good = text.strip() == wanted["content"].strip() and calls == expected
        kind = "call" if expected else "after a tool" if messages[-2]["role"] == "tool" else "answer"
        kinds.setdefault(kind, [0, 0])
        kinds[kind][0] += good
        kinds[kind][1] += 1
        right += good
        if not good:
            wrong.append([messages[-2]["content"], wanted["content"] or expected, text or calls])
    return {"right_percent": round(100 * right / count, 2), "dialogues": count, "by_kind": kinds, "wrong": wrong[:40]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--dialogues", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = {}
    if options.dialogues:
        report["llm"] = evaluate_llm(options.dialogues)
        for asked, wanted, got in report["llm"]["wrong"]:
            print(f"  asked {asked!r}: wanted {wanted!r}, got {got!r}")
        print(f"answers: {report['llm']['right_percent']} % right of {options.dialogues} held-out dialogues {report['llm']['by_kind']}", flush=True)
    for name, telephone in (("stt", False), ("stt_telephone", True)) if options.sentences else ():
        found = report[name] = evaluate_stt(options.sentences, telephone)
        for voice, wanted, got in found["wrong"][:20]:
            print(f"  {voice}: {wanted!r} heard as {got!r}")
        print(f"{'telephone' if telephone else 'speech'}: {found['word_errors_percent']} % word errors, {options.sentences} held-out sentences x "
              f"{len(HELD_OUT_VOICES)} unseen voices, {found['ms_p50']} ms each")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
