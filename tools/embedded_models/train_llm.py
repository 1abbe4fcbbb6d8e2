"""Trains the embedded language model: a small Llama, on dialogues of grammar.py made on the fly. Resumes.

    python tools/embedded_models/train_llm.py [--steps 4000] [--threads 1]

Loss on the assistant's tokens only. Log: logs/llm.csv. Checkpoints: build/llm/.
Result: voice/models/llm/embedded-closed-vocab/ (CTranslate2) and its hf/ (safetensors, for vLLM).
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
from pathlib import Path

import jinja2
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import grammar  # noqa: E402

BUILD = ROOT / "build" / "llm"
OUT = ROOT / "voice" / "models" / "llm" / "embedded-closed-vocab"
SEED = 20261124
CONTEXT = 1024
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<tool_call>", "</tool_call>"]
TEMPLATE_TEXT = (HERE / "chat_template.jinja").read_text().rstrip("\n")
# the same options as Hugging Face's chat templates
_environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
_environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
TEMPLATE = _environment.from_string(TEMPLATE_TEXT)
ARGUMENTS = '"arguments": '


def render(messages, tools) -> str:
    return TEMPLATE.render(messages=messages, tools=tools, add_generation_prompt=False)


def make_tokenizer():
    """Byte-level BPE: whole words for what is in the grammar, bytes for everything else; lossless. Made once per build."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = BUILD / "tokenizer.json"
    if made.exists():
        return Tokenizer.from_file(str(made))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1900, initial_alphabet=alphabet, special_tokens=SPECIAL[:7], min_frequency=3)
    rng = random.Random(SEED)
    lines = []
    for _ in range(12000):
        messages, tools = grammar.dialogue(rng)
        lines += [m["content"] for m in messages] + [render(messages, tools)]
    tokenizer.train_from_iterator(lines, trainer)
    # part of the text the model writes, so not "special" (they must not be skipped when decoding)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in SPECIAL[7:]])
    BUILD.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(made))
    return tokenizer


def example(rng, tokenizer) -> tuple[list[int], list[int]]:
    """(token ids, labels); labels are -100 outside the assistant's words."""
    while True:
        messages, tools = grammar.dialogue(rng)
        ids = tokenizer.encode(render(messages, tools)).ids
        if len(ids) <= 420 or rng.random() < 0.5 and len(ids) < CONTEXT:
            break
    assistant, end = tokenizer.token_to_id("<|assistant|>"), tokenizer.token_to_id("<|end|>")
    labels, speaking = [], False
    for token in ids:
        labels.append(token if speaking else -100)
        speaking = token == assistant or speaking and token != end
    if messages[-1].get("forced"):  # the caller chose the function: nothing to learn before its arguments
        last = len(ids) - 1 - ids[::-1].index(assistant)
        text = tokenizer.decode(ids[last + 1 :], skip_special_tokens=False)
        head = len(tokenizer.encode(text[: text.index(ARGUMENTS) + len(ARGUMENTS) - 1]).ids)
        labels[last + 1 : last + 1 + head] = [-100] * head
    return ids, labels


def stream(rng, tokenizer, tokens):
    """Batches of about `tokens` tokens, each of examples of about one length."""
    while True:
        pool = sorted((example(rng, tokenizer) for _ in range(1500)), key=lambda e: len(e[0]))
        groups, row = [], []
        for item in pool:
            if row and (len(row) + 1) * len(item[0]) > tokens:
                groups.append(row)
                row = []
            row.append(item)
        groups.append(row)
        rng.shuffle(groups)
        yield from groups


def make_model(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = {t: tokenizer.token_to_id(t) for t in SPECIAL}
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, head_dim=32, max_position_embeddings=CONTEXT, tie_word_embeddings=False,
        bos_token_id=ids["<|begin|>"], eos_token_id=ids["<|end|>"], pad_token_id=ids["<|pad|>"], rms_norm_eps=1e-5,
    ))  # fmt: skip


def train(options) -> None:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    BUILD.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    state_path, step = BUILD / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    log = open(HERE / "logs" / "llm.csv", "a", newline="")
    writer = csv.writer(log)
    if step == 0:
        writer.writerow(["step", "loss", "seconds"])
    began, total = time.time(), 0.0
    for rows in stream(random.Random(SEED + step), tokenizer, options.tokens):
        width = max(len(ids) for ids, _ in rows)
        tokens = torch.from_numpy(np.array([ids + [0] * (width - len(ids)) for ids, _ in rows]))
        labels = torch.from_numpy(np.array([line + [-100] * (width - len(line)) for _, line in rows]))
        lr = 2.5e-3 * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * min(1, step / options.steps))) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = lr
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        wanted = labels[:, 1:] != -100
        loss = F.cross_entropy(model.lm_head(hidden[wanted]), labels[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        total += loss.item()
        if step % 50 == 0:
            row = [step, round(total / 50, 4), round(time.time() - began, 1)]
            writer.writerow(row), log.flush()
            print(*row, flush=True)
            total = 0.0
        if step % 300 == 0 or step >= options.steps:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state_path.with_suffix(".new"))
            state_path.with_suffix(".new").rename(state_path)
        if step >= options.steps:
            break
    export(model, tokenizer)


def export(model, tokenizer) -> None:
    """hf/ (fp16 safetensors, for vLLM) and beside it the CTranslate2 form (int8)."""
    import torch
    from transformers import PreTrainedTokenizerFast

    plain = BUILD / "hf"
    shutil.rmtree(plain, ignore_errors=True)
    half = make_model(tokenizer)
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(plain)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|begin|>", unk_token="<|pad|>",
                                   pad_token="<|pad|>", model_max_length=CONTEXT, clean_up_tokenization_spaces=False)  # fmt: skip
    fast.chat_template = TEMPLATE_TEXT
    fast.save_pretrained(plain)
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    settings["chat_template"] = TEMPLATE_TEXT
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (plain / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    tokenizer.save(str(plain / "tokenizer.json"))
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    temporary = BUILD / "ct2"
    shutil.rmtree(temporary, ignore_errors=True)
    subprocess.run([str(Path(sys.executable).parent / "ct2-transformers-converter"), "--model", str(plain), "--output_dir", str(temporary),
                    "--quantization", "int8", "--copy_files", "tokenizer.json", "tokenizer_config.json"], check=True)  # fmt: skip
    (OUT / "hf").mkdir(parents=True, exist_ok=True)
    for source, target in ((temporary, OUT), (plain, OUT / "hf")):
        for file in source.iterdir():
            shutil.copy(file, target / file.name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", action="store_true", help="only export the last checkpoint")
    options = parser.parse_args()
    if not options.export:
        return train(options)
    import torch

    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    model.load_state_dict(torch.load(BUILD / "state.pt")["model"])
    export(model, tokenizer)


if __name__ == "__main__":
    main()
