"""A checkpoint of the recommended model's true architecture with random weights, without PyTorch.

For benchmarks and proofs where the hub is out of reach. Its configuration says `random_weights`,
and so does every bundle made of it: its scores mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from worker.image.preprocess import InputSpec, fit
from worker.model.export.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from worker.model.export.parity import synthetic_pictures
from worker.model.export.vit_graph import Float32Array, Vit, build_vit

#: Spread of the logits over pictures, so that scores cover the whole range as a trained model's do.
_LOGIT_SPREAD = 2.5


def write_random_checkpoint(
    folder: Path,
    *,
    image_px: int = 384,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
) -> Path:
    """Write `config.json` and `model.safetensors` as timm's `save_for_hf` would.

    With the default sizes: the tensors, names and byte length of Marqo/nsfw-image-detection-384.

    Args:
        folder: made where it is missing.
        image_px: side of the square input, a multiple of 16.
        width: length of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.

    Returns:
        The folder.
    """
    weights = _random_weights(np.random.default_rng(0), image_px, width, depth)
    config = {
        "architecture": "vit_tiny_patch16_384",
        "num_classes": 2,
        "num_features": width,
        "global_pool": "token",
        "label_names": ["NSFW", "SFW"],
        "random_weights": True,
        "pretrained_cfg": {
            "tag": "random",
            "input_size": [3, image_px, image_px],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 2,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if (image_px, width, depth, heads) != (384, 192, 12, 3):
        # timm takes these as arguments of the architecture.
        config["model_args"] = {
            "img_size": image_px,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
        }
    vit = Vit(image_px=image_px, patch_px=16, heads=heads, epsilon=1e-6, weights=weights)
    _spread_head(vit, weights)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / WEIGHTS_FILE)
    return folder


def _random_weights(
    dice: np.random.Generator, image_px: int, width: int, depth: int
) -> dict[str, Float32Array]:
    def normal(*shape: int, std: float) -> Float32Array:
        return (dice.standard_normal(shape) * std).astype(np.float32)

    def layer(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = normal(rows, columns, std=(2 / (rows + columns)) ** 0.5)
        weights[f"{name}.bias"] = normal(rows, std=0.02)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = 1 + normal(width, std=0.1)
        weights[f"{name}.bias"] = normal(width, std=0.02)

    tokens = (image_px // 16) ** 2 + 1
    weights: dict[str, Float32Array] = {
        "cls_token": normal(1, 1, width, std=0.5),
        "pos_embed": normal(1, tokens, width, std=0.2),
        "patch_embed.proj.weight": normal(width, 3, 16, 16, std=0.05),
        "patch_embed.proj.bias": normal(width, std=0.02),
    }
    for index in range(depth):
        block = f"blocks.{index}"
        norm(f"{block}.norm1")
        layer(f"{block}.attn.qkv", 3 * width, width)
        layer(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2")
        layer(f"{block}.mlp.fc1", 4 * width, width)
        layer(f"{block}.mlp.fc2", width, 4 * width)
    norm("norm")
    layer("head", 2, width)
    return weights


def _spread_head(vit: Vit, weights: dict[str, Float32Array]) -> None:
    """Turn the head along the direction in which pictures differ most."""
    import onnxruntime as ort

    width = vit.width
    probe = {**weights, "head.weight": np.eye(width, dtype=np.float32)}
    probe["head.bias"] = np.zeros(width, np.float32)
    features = Vit(
        image_px=vit.image_px,
        patch_px=vit.patch_px,
        heads=vit.heads,
        epsilon=vit.epsilon,
        weights=probe,
    )
    model = build_vit(features, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    spec = InputSpec(
        width_px=vit.image_px,
        height_px=vit.image_px,
        resize="short_side",
        resize_px=vit.image_px,
        interpolation="bicubic",
    )
    rows = [
        session.run(None, {"pixels": fit(picture, spec)[None]})[0][0]
        for picture in synthetic_pictures(24, seed=1)
    ]
    table = np.asarray(rows, np.float64)
    mean = table.mean(axis=0)
    direction = np.linalg.svd(table - mean)[2][0]
    direction *= _LOGIT_SPREAD / (((table - mean) @ direction).std() + 1e-9)
    weights["head.weight"] = np.stack([direction / 2, -direction / 2]).astype(np.float32)
    offset = -float(mean @ direction)
    weights["head.bias"] = np.array([offset / 2, -offset / 2], np.float32)
