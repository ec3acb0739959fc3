"""A checkpoint folder (`config.json`, `model.safetensors`) read as a ViT and its input rule.

Understands timm's and transformers' plain ViT classifiers without either library. Anything else is
refused by name; the optimum road exports it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from producer.errors import BundleError
from worker.image.preprocess import InputSpec, Interpolation, Resize
from worker.model.export.vit_graph import Float32Array, Vit

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"

#: Labels that are taken for explicit ones where the user does not say which are.
NSFW_WORDS = frozenset(
    ["nsfw", "porn", "pornography", "hentai", "explicit", "unsafe", "sexual", "nudity", "nude"]
)

#: Source: PIL.Image.Resampling, the numbers that transformers writes as `resample`.
_RESAMPLE: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}

#: Source: timm 1.0, `vision_transformer.py`: heads of the architectures by their size's name.
_TIMM_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
_TIMM_CROPS: dict[str, Resize] = {"center": "short_side", "squash": "stretch", "border": "pad"}
_TIMM_NAME = re.compile(r"(?:vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+(?:\..+)?")


class NotAPlainVit(BundleError):
    """Raised when the lean road cannot express a checkpoint; the optimum road may."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the configuration files of a checkpoint say, whatever its architecture.

    Attributes:
        library: `timm` or `transformers`.
        mean: per channel, on the 0..1 scale; std likewise.
    """

    library: str
    labels: tuple[str, ...]
    input: InputSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: Mapping[str, Any]


def describe_checkpoint(folder: Path) -> Description:
    """Read labels and input rule.

    Raises:
        BundleError: a file is missing or unreadable, or this is no image classifier.
    """
    config = _read_json(folder / CONFIG_FILE)
    if "architecture" in config and "pretrained_cfg" in config:
        return _describe_timm(config, folder)
    if any(name.endswith("ForImageClassification") for name in config.get("architectures") or ()):
        return _describe_transformers(config, _read_json(folder / PREPROCESSOR_FILE), folder)
    kind = config.get("architectures") or config.get("model_type") or "nothing that says what it is"
    raise BundleError(
        f"{folder / CONFIG_FILE} describes no image classifier of timm or transformers: "
        f"it has {kind}"
    )


def choose_nsfw_labels(labels: Sequence[str], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the labels that count as explicit.

    Args:
        labels: of the model.
        wanted: what the user asked for; empty: by their words.

    Raises:
        BundleError: none fits, or one that was asked for is unknown.
    """
    unknown = [label for label in wanted if label not in labels]
    if unknown:
        raise BundleError(f"--nsfw-labels names {unknown[0]!r}, but the labels are {list(labels)}")
    found = wanted or [label for label in labels if label.strip().lower() in NSFW_WORDS]
    if not found or len(found) == len(labels):
        raise BundleError(
            f"cannot tell which of the labels {list(labels)} are explicit; say so with "
            "--nsfw-labels LABEL[,LABEL...]"
        )
    return tuple(found)


def load_vit(folder: Path, description: Description) -> Vit:
    """Read the weights of a plain ViT.

    Raises:
        NotAPlainVit: the architecture has parts that the lean road does not build.
        BundleError: the weights cannot be read or contradict the configuration.
    """
    read = _timm_vit if description.library == "timm" else _transformers_vit
    weights, heads, epsilon = read(description.config, _read_weights(folder / WEIGHTS_FILE))
    width = weights["norm.weight"].size
    patch_px = int(weights["patch_embed.proj.weight"].shape[-1])
    side = math.isqrt(weights["pos_embed"].size // width - 1)
    if side * patch_px != description.input.width_px or heads * (width // heads) != width:
        raise NotAPlainVit(
            f"the weights are for pictures of {side * patch_px} px and {width} / {heads} heads, "
            f"the configuration says {description.input.width_px} px"
        )
    if len(weights["head.bias"]) != len(description.labels):
        raise BundleError(
            f"the head has {len(weights['head.bias'])} outputs, the configuration names "
            f"{len(description.labels)} labels: {list(description.labels)}"
        )
    image_px = side * patch_px
    return Vit(image_px=image_px, patch_px=patch_px, heads=heads, epsilon=epsilon, weights=weights)


def _describe_timm(config: Mapping[str, Any], folder: Path) -> Description:
    cfg = config["pretrained_cfg"]
    try:
        channels, height_px, width_px = cfg["input_size"]
        crop = float(cfg.get("crop_pct") or 0.875)
        mode = _TIMM_CROPS[cfg.get("crop_mode") or "center"]
        count = int(config.get("num_classes") or cfg["num_classes"])
        labels = tuple(config.get("label_names") or cfg.get("label_names") or ())
        # Source: timm.data.transforms_factory, transforms_imagenet_eval: floor(size / crop_pct).
        resize_px = math.floor(height_px / crop)
        spec = InputSpec(
            width_px=width_px,
            height_px=height_px,
            resize=mode,
            resize_px=resize_px,
            interpolation=cfg.get("interpolation") or "bilinear",
            fill=round(255 * sum(cfg["mean"]) / 3) if mode == "pad" else 0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / CONFIG_FILE}, pretrained_cfg: {error!r}") from error
    if channels != 3 or height_px != width_px:
        raise BundleError(f"the model takes {cfg['input_size']}; only square RGB is supported")
    if len(labels) != count:
        labels = tuple(f"class_{index}" for index in range(count))
    return Description(
        library="timm",
        labels=labels,
        input=spec,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        config=config,
    )


def _describe_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any], folder: Path
) -> Description:
    path = folder / PREPROCESSOR_FILE
    try:
        names = config.get("id2label") or {}
        labels = tuple(str(names[key]) for key in sorted(names, key=int))
        size = processor["size"]
        if isinstance(size, int):
            size = {"height": size, "width": size}
        crops = bool(processor.get("do_center_crop", False))
        crop = processor.get("crop_size", size) if crops else size
        crop_px = crop["height"] if isinstance(crop, dict) and "height" in crop else crop
        short = size.get("shortest_edge")
        crop_px = short if isinstance(crop_px, dict) else crop_px
        if short is None and size["height"] != size["width"]:
            raise ValueError(f"size {size}; only squares are supported")
        if short is not None and not crops:
            raise ValueError("shortest_edge without a centre crop gives no fixed size")
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if not processor.get(step, True):
                raise ValueError(f"{step} is false; only the usual preprocessing is supported")
        if abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            raise ValueError(f"rescale_factor {processor['rescale_factor']} is not 1/255")
        spec = InputSpec(
            width_px=crop_px,
            height_px=crop_px,
            resize="stretch" if short is None else "short_side",
            resize_px=size["height"] if short is None else short,
            interpolation=_RESAMPLE[processor.get("resample", 2)],
        )
        mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}: {error!r}") from error
    return Description(
        library="transformers", labels=labels, input=spec, mean=mean, std=std, config=config
    )


def _timm_vit(
    config: Mapping[str, Any], tensors: dict[str, Float32Array]
) -> tuple[dict[str, Float32Array], int, float]:
    architecture = str(config["architecture"])
    match = _TIMM_NAME.fullmatch(architecture)
    arguments = config.get("model_args") or {}
    known = {"num_classes", "img_size", "num_heads", "embed_dim", "depth"}
    if not match or set(arguments) - known or config.get("global_pool", "token") != "token":
        raise NotAPlainVit(f"{architecture} {arguments or ''} is not a plain ViT of timm")
    _check_names(tensors, architecture)
    heads = int(arguments.get("num_heads", _TIMM_HEADS[match.group(1)]))
    return tensors, heads, 1e-6


def _transformers_vit(
    config: Mapping[str, Any], tensors: dict[str, Float32Array]
) -> tuple[dict[str, Float32Array], int, float]:
    kind = str(config.get("model_type"))
    if kind not in ("vit", "deit") or config.get("hidden_act", "gelu") != "gelu":
        raise NotAPlainVit(f"{kind} with {config.get('hidden_act')} is not a plain ViT")
    weights = {_timm_name(name.removeprefix(f"{kind}.")): tensors[name] for name in tensors}
    for index in range(int(config["num_hidden_layers"])):
        prefix = f"blocks.{index}.attn."
        for part in ("weight", "bias"):
            names = [f"{prefix}{which}.{part}" for which in ("query", "key", "value")]
            if set(names) <= set(weights):
                weights[f"{prefix}qkv.{part}"] = np.concatenate([weights.pop(n) for n in names])
    _check_names(weights, kind)
    return weights, int(config["num_attention_heads"]), float(config.get("layer_norm_eps", 1e-12))


#: transformers' names of a ViT's parts, and timm's.
_RENAMED = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)


def _timm_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        renamed = re.sub(pattern, replacement, name)
        if renamed != name:
            return renamed
    return name


def _check_names(weights: Mapping[str, Float32Array], architecture: str) -> None:
    """Every tensor of a plain ViT must be there, and none besides: none may be left out unseen."""
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    expected = {"cls_token", "pos_embed"}
    layers = ["patch_embed.proj", "norm", "head"]
    for index in range(depth):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            layers.append(f"blocks.{index}.{part}")
    expected |= {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    if expected != set(weights):
        missing, extra = sorted(expected - set(weights)), sorted(set(weights) - expected)
        raise NotAPlainVit(
            f"{architecture} is not a plain ViT: missing {missing[:3]}, not known {extra[:3]}"
        )


def _read_weights(path: Path) -> dict[str, Float32Array]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path} cannot be read as safetensors: {error}") from error
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; a checkpoint has it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path} must hold a JSON object")
    return data
