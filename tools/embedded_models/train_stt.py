"""Trains the embedded speech model: a small Whisper, on speech that espeak-ng makes. Resumes where it was stopped.

    python tools/embedded_models/train_stt.py [--utterances 24000] [--steps 6000] [--threads 1] [--from-shipped]

Log: logs/stt.csv, or logs/stt_telephone.csv. Data and checkpoints: build/stt/. Result: voice/models/stt/embedded-closed-vocab/ (see README.md).
Cross-entropy alone learns the sentences and not the sound for a long time; half a CTC loss on the encoder
makes the alignment come several times sooner. Four of ten utterances go through a telephone: G.711 at 8 kHz, as the gateway takes it.
`--from-shipped` goes on from the weights in the repository, at a third of the learning rate.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import grammar  # noqa: E402
from shipped import load  # noqa: E402
from speech import ACCENTS, VARIANTS, Espeak, over_telephone, to_rate  # noqa: E402

BUILD = ROOT / "build" / "stt"
OUT = ROOT / "voice" / "models" / "stt" / "embedded-closed-vocab"
SEED, DATA_SEED = 20261123, 20261125
HZ = 16000
SECONDS = 8  # of the model's window
FRAMES = SECONDS * 100
BUCKET = 80  # mel frames
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
           "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
TIMES = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]


# Data


def utterance(espeak: Espeak, rng: random.Random) -> tuple[str, np.ndarray]:
    """(words, float32 audio at 16 kHz): a sentence with silence around it, gain and noise; now and then no speech."""
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.03:
        text, speech = "", np.zeros(int(HZ * rng.uniform(0.3, 4)), np.float32)
    else:
        while True:
            text = grammar.spoken_sentences(rng, exam=False)
            voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
            raw = espeak.say(text, voice, rng.randint(135, 205), rng.randint(35, 65), rng.randint(35, 65))
            speech = to_rate(raw, 24000 if rng.random() < 0.5 else HZ)
            if len(speech) and len(speech) / HZ < SECONDS - 1.4:
                break
    speech = _trim(speech)
    speech = speech / (np.abs(speech).max() + 1e-6) * 10 ** (rng.uniform(-18, -1) / 20)
    lead = np.zeros(int(HZ * rng.uniform(0, 0.5)), np.float32)
    tail = np.zeros(int(HZ * rng.uniform(0.05, 0.8)), np.float32)
    audio = np.concatenate([lead, speech.astype(np.float32), tail])
    if rng.random() < 0.6:
        level = 10 ** (-rng.uniform(15, 45) / 20) * (np.sqrt(np.mean(speech**2)) + (0.05 if not text else 0))
        noise = noise_rng.standard_normal(len(audio)).astype(np.float32)
        if rng.random() < 0.5:  # darker noise
            noise = np.convolve(noise, np.ones(6, np.float32) / 2.4, "same")
        audio = audio + level * noise
    return text, over_telephone(audio, rng) if rng.random() < 0.4 else audio


def _trim(audio: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(audio) > 0.003)
    return audio[loud[0] : loud[-1] + 1] if len(loud) else audio


def _make_part(part: int, count: int) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    path = BUILD / f"part{part:03d}.npz"
    if path.exists():
        return
    espeak, rng, extract = Espeak(), random.Random(DATA_SEED * 1000 + part), FeatureExtractor()
    texts, features, ends = [], [], []
    for _ in range(count):
        text, audio = utterance(espeak, rng)
        mel = extract(audio, padding=0)[:, :FRAMES].astype(np.float16)
        texts.append(text)
        features.append(mel.T)
        ends.append(mel.shape[1])
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, texts=np.array(texts), mel=np.concatenate(features), lengths=np.array(ends))
    temporary.rename(path)


def make_data(total: int, workers: int) -> tuple[list[str], list[np.ndarray]]:
    BUILD.mkdir(parents=True, exist_ok=True)
    parts = math.ceil(total / 1000)
    with ProcessPoolExecutor(workers) as pool:
        for i, _ in enumerate(pool.map(_make_part, range(parts), [1000] * parts)):
            print(f"speech {i + 1}/{parts} thousand", flush=True)
    texts, mels = [], []
    for part in range(parts):
        with np.load(BUILD / f"part{part:03d}.npz") as data:
            mel, start = data["mel"], 0
            for text, length in zip(data["texts"], data["lengths"]):
                texts.append(str(text))
                mels.append(mel[start : start + length])
                start += length
    return texts, mels


# Tokens


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + 1100, initial_alphabet=alphabet, special_tokens=[])
    rng = random.Random(SEED)
    lines = [" " + grammar.spoken_sentences(rng, False) for _ in range(20000)]
    lines += [" " + w for w in grammar.VOCABULARY for _ in range(20)]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens(SPECIAL + TIMES)
    return tokenizer


def shipped_tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(OUT / "tokenizer.json"))


# Model


def make_model(tokenizer):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    ids = {t: tokenizer.token_to_id(t) for t in SPECIAL}
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size(), num_mel_bins=80, d_model=128, encoder_layers=3, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=512, decoder_ffn_dim=512,
        max_source_positions=FRAMES // 2, max_target_positions=64, dropout=0.05, activation_function="gelu",
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"], suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    return WhisperForConditionalGeneration(config)


def encode(model, mel):
    """Encoder over any even number of frames: Whisper's own forward insists on the full window."""
    import torch.nn.functional as F

    encoder = model.model.encoder
    x = F.gelu(encoder.conv1(mel))
    x = F.gelu(encoder.conv2(x)).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers:
        x = layer(x, None)
        x = x[0] if isinstance(x, tuple) else x
    return encoder.layer_norm(x)


def batches(texts, mels, size, rng, full):
    """Index lists of about one length each, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda i: (math.ceil(len(mels[i]) / BUCKET), rng.random()))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(groups)
    return groups


def collate(indices, texts, mels, tokenizer, rng, full):
    import torch

    longest = max(len(mels[i]) for i in indices)
    frames = FRAMES if full else min(FRAMES, (math.ceil(longest / BUCKET) + rng.choice((0, 0, 1))) * BUCKET)
    batch = np.zeros((len(indices), frames, 80), np.float32)
    for row, i in enumerate(indices):
        mel = mels[i].astype(np.float32)
        batch[row, : len(mel)] = mel[:frames]
        # SpecAugment, mild
        if rng.random() < 0.7:
            for _ in range(2):
                width, at = rng.randint(0, 10), rng.randint(0, 70)
                batch[row, :, at : at + width] = 0
            width, at = rng.randint(0, 12), rng.randint(0, max(1, len(mel) - 12))
            batch[row, at : at + width] = 0
    sot, end = tokenizer.token_to_id("<|startoftranscript|>"), tokenizer.token_to_id("<|endoftext|>")
    plain = tokenizer.token_to_id("<|notimestamps|>")
    rows = [tokenizer.encode((" " + texts[i]) if texts[i] else "").ids for i in indices]
    width = max(map(len, rows)) + 3
    tokens = np.full((len(rows), width), end)
    labels = np.full((len(rows), width), -100)
    for row, ids in enumerate(rows):
        line = [sot, plain, *ids, end]
        tokens[row, : len(line)] = line
        labels[row, 1 : len(line) - 1] = line[2:]
    letters = [[LETTERS.index(c) + 1 for c in texts[i]] for i in indices]
    return (torch.from_numpy(batch.transpose(0, 2, 1).copy()), torch.from_numpy(tokens[:, :-1]), torch.from_numpy(labels[:, :-1]),
            letters, [min(frames, len(mels[i])) // 2 for i in indices])  # fmt: skip


def train(options) -> None:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    tokenizer = shipped_tokenizer() if options.from_shipped else make_tokenizer()
    texts, mels = make_data(options.utterances, options.workers)
    model = make_model(tokenizer)
    if options.from_shipped:
        load(model, OUT / "model.bin")
    ctc = torch.nn.Linear(128, len(LETTERS) + 1)
    parameters = [*model.parameters(), *ctc.parameters()]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(texts)} utterances", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    state_path, step = BUILD / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path)
        model.load_state_dict(state["model"]), ctc.load_state_dict(state["ctc"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    rng = random.Random(SEED + step)
    log = open(HERE / "logs" / ("stt_telephone.csv" if options.from_shipped else "stt.csv"), "a", newline="")
    writer = csv.writer(log)
    if step == 0:
        writer.writerow(["step", "loss", "ctc", "seconds"])
    began, sums = time.time(), [0.0, 0.0]
    model.train()
    while step < options.steps:
        for indices in batches(texts, mels, options.batch, rng, False):
            full = step >= options.steps * 0.88 or options.from_shipped and rng.random() < 0.2
            mel, tokens, labels, letters, lengths = collate(indices, texts, mels, tokenizer, rng, full)
            lr = (5e-4 if options.from_shipped else 1.6e-3) * min(1, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * min(1, step / options.steps))) + 1e-5
            for group in optimizer.param_groups:
                group["lr"] = lr
            hidden = encode(model, mel)
            out = model.model.decoder(input_ids=tokens, encoder_hidden_states=hidden).last_hidden_state
            loss = F.cross_entropy(model.proj_out(out).flatten(0, 1), labels.flatten(), ignore_index=-100, label_smoothing=0.03)
            chances = ctc(hidden).log_softmax(-1).transpose(0, 1)
            second = F.ctc_loss(chances, torch.tensor(sum(letters, [])), torch.tensor(lengths),
                                torch.tensor([len(x) for x in letters]), zero_infinity=True)  # fmt: skip
            optimizer.zero_grad()
            (loss + 0.5 * second).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            sums[0] += loss.item()
            sums[1] += second.item()
            if step % 50 == 0:
                row = [step, round(sums[0] / 50, 4), round(sums[1] / 50, 4), round(time.time() - began, 1)]
                writer.writerow(row), log.flush()
                print(*row, flush=True)
                sums = [0.0, 0.0]
            if step % 300 == 0 or step == options.steps:
                torch.save({"model": model.state_dict(), "ctc": ctc.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
                           state_path.with_suffix(".new"))  # fmt: skip
                state_path.with_suffix(".new").rename(state_path)
            if step >= options.steps:
                break
    export(model, tokenizer)


def export(model, tokenizer) -> None:
    """Hugging Face form first, then CTranslate2 int8 beside the tokenizer faster-whisper reads."""
    from transformers import PreTrainedTokenizerFast

    plain = BUILD / "hf"
    shutil.rmtree(plain, ignore_errors=True)
    ids = {t: tokenizer.token_to_id(t) for t in SPECIAL}
    model.generation_config.lang_to_id = {"<|en|>": ids["<|en|>"]}
    model.generation_config.suppress_tokens = []
    model.generation_config.begin_suppress_tokens = []
    model.generation_config.alignment_heads = [[1, 0]]
    model.generation_config.no_timestamps_token_id = ids["<|notimestamps|>"]
    model.eval().save_pretrained(plain)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>",
                            pad_token="<|endoftext|>").save_pretrained(plain)  # fmt: skip
    tokenizer.save(str(plain / "tokenizer.json"))
    extractor = {"chunk_length": SECONDS, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80,
                 "hop_length": 160, "n_fft": 400, "n_samples": SECONDS * HZ, "nb_max_frames": FRAMES,
                 "padding_side": "right", "padding_value": 0.0, "return_attention_mask": False, "sampling_rate": HZ}  # fmt: skip
    (plain / "preprocessor_config.json").write_text(json.dumps(extractor, indent=2))
    temporary = BUILD / "ct2"
    shutil.rmtree(temporary, ignore_errors=True)
    subprocess.run([str(Path(sys.executable).parent / "ct2-transformers-converter"), "--model", str(plain), "--output_dir", str(temporary),
                    "--quantization", "int8", "--copy_files", "tokenizer.json", "preprocessor_config.json"], check=True)  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    for file in temporary.iterdir():
        shutil.copy(file, OUT / file.name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--utterances", type=int, default=24000)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--from-shipped", action="store_true")
    parser.add_argument("--mix", type=float, default=1.0, help="with --export: this much of the checkpoint, the rest of the shipped weights")
    parser.add_argument("--export", action="store_true", help="only export the last checkpoint")
    options = parser.parse_args()
    if not options.export:
        return train(options)
    import torch

    tokenizer = shipped_tokenizer() if options.from_shipped else make_tokenizer()
    model, learnt = make_model(tokenizer), torch.load(BUILD / "state.pt")["model"]
    if options.mix < 1:
        load(model, OUT / "model.bin")
        learnt = {name: (1 - options.mix) * value + options.mix * learnt[name] for name, value in model.state_dict().items()}
    model.load_state_dict(learnt)
    export(model, tokenizer)


if __name__ == "__main__":
    main()
