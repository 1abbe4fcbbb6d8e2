"""The shipped speech model back from CTranslate2 (int8, one scale a row) into a Whisper of transformers, so that training can go on from it.

The layout of model.bin is that of `ctranslate2.specs.model_spec.ModelSpec._serialize` (version 6).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

KINDS = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def variables(path: Path) -> dict[str, np.ndarray]:
    """Name -> float32 array, with the scales multiplied out. Raises ValueError for another version of the format."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> tuple:
        nonlocal at
        found = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return found

    def text() -> str:
        nonlocal at
        (length,) = take("H")
        at += length
        return data[at - length : at - 1].decode()

    (version,) = take("I")
    if version != 6:
        raise ValueError(f"{path}: version {version} of CTranslate2's format; this reads version 6.")
    text(), take("I")
    raw = {}
    for _ in range(take("I")[0]):
        name, shape = text(), take(f"{take('B')[0]}I")
        kind, size = take("BI")
        raw[name] = np.frombuffer(data, KINDS[kind], size // np.dtype(KINDS[kind]).itemsize, at).reshape(shape)
        at += size
    scaled = {n: a.astype(np.float32) / raw[f"{n}_scale"].reshape(-1, *[1] * (a.ndim - 1)) for n, a in raw.items() if f"{n}_scale" in raw}
    return {**{n: a for n, a in raw.items() if not n.endswith("_scale")}, **scaled}


def load(model, path: Path) -> None:
    """Put the weights of `path` (model.bin) into a WhisperForConditionalGeneration of the same sizes."""
    import torch

    found, state = variables(path), model.state_dict()

    def put(name: str, value: np.ndarray) -> None:
        state[name].copy_(torch.from_numpy(np.array(value)))

    def norm(ours: str, theirs: str) -> None:
        put(f"{ours}.weight", found[f"{theirs}/gamma"])
        put(f"{ours}.bias", found[f"{theirs}/beta"])

    def linears(ours: str, theirs: str, names: tuple[str, ...]) -> None:
        """One matrix there holds several of ours, one below the other; keys have no bias."""
        weights, biases = (np.split(found[f"{theirs}/{part}"], len(names)) for part in ("weight", "bias"))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            put(f"{ours}{name}.weight", weight)
            if name != "k_proj":
                put(f"{ours}{name}.bias", bias)

    for i in (1, 2):
        put(f"model.encoder.conv{i}.weight", found[f"encoder/conv{i}/weight"])
        put(f"model.encoder.conv{i}.bias", found[f"encoder/conv{i}/bias"])
    put("model.decoder.embed_tokens.weight", found["decoder/embeddings/weight"])
    for part in ("encoder", "decoder"):
        put(f"model.{part}.embed_positions.weight", found[f"{part}/position_encodings/encodings"])
        norm(f"model.{part}.layer_norm", f"{part}/layer_norm")
        for i in range(getattr(model.config, f"{part}_layers")):
            ours, theirs = f"model.{part}.layers.{i}", f"{part}/layer_{i}"
            norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            linears(f"{ours}.self_attn.", f"{theirs}/self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
            linears(f"{ours}.self_attn.", f"{theirs}/self_attention/linear_1", ("out_proj",))
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            linears(f"{ours}.", f"{theirs}/ffn/linear_0", ("fc1",))
            linears(f"{ours}.", f"{theirs}/ffn/linear_1", ("fc2",))
            if part == "decoder":
                norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
                linears(f"{ours}.encoder_attn.", f"{theirs}/attention/linear_0", ("q_proj",))
                linears(f"{ours}.encoder_attn.", f"{theirs}/attention/linear_1", ("k_proj", "v_proj"))
                linears(f"{ours}.encoder_attn.", f"{theirs}/attention/linear_2", ("out_proj",))
    model.load_state_dict(state)
