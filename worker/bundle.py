"""A model as a folder: `model.json` says everything about it, and hashes tie it to its files.

Read from the models folder or from the bundles shipped with this package; given to the engine, to
the decoder (its input rule) and to the policy (its id). Nothing about a model is in code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from producer.errors import BundleError
from worker.calibration import Calibration, calibration_from_dict, calibration_tag
from worker.pixels import InputSpec

DESCRIPTION_FILE = "model.json"
SCHEMA = 1

#: Bundles that come with the package.
SHIPPED_FOLDER = Path(__file__).parent / "bundles"

Precision = Literal["fp32", "int8"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,29}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REQUIRED = frozenset(
    [
        *("schema", "name", "source", "revision", "licence", "labels", "nsfw_labels"),
        *("precision", "input", "tensor", "output", "model", "reference", "calibration", "parity"),
    ]
)
_OPTIONAL = frozenset(["random_weights", "max_micro_batch", "probe", "created", "export"])


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """How uint8 RGB pixels become the graph's input: `(pixel * scale - mean) / std`.

    Attributes:
        layout: `NHWC` or `NCHW`.
        channels: `RGB` or `BGR`; mean and std are in this order.
        dtype: `uint8` where the graph normalises by itself, else `float32`.
    """

    layout: Literal["NHWC", "NCHW"]
    channels: Literal["RGB", "BGR"]
    dtype: Literal["uint8", "float32"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the artefact's probabilities are from the reference's, over real pictures.

    Attributes:
        pictures: how many were compared.
        reference: what they were compared with.
        max_error: largest difference of the calibrated probabilities, 0..1.
        p99_error: its 99th percentile.
        guard_band: largest error to reckon with, in logits of the raw score; a picture that it
            could carry over a cut-off is scored again in float32.
        details: everything else the exporter measured.
    """

    pictures: int
    reference: str
    max_error: float
    p99_error: float
    guard_band: float
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What this model said of `probe_pixels` where it was made; the engine asks again at start.

    Attributes:
        raw_scores: one per probe picture.
        tolerance: largest difference in logits that another CPU's arithmetic may make.
    """

    raw_scores: list[float]
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One verified model, ready to be loaded.

    Attributes:
        folder: where `model.json` lies.
        id: name, revision, precision and calibration; stands beside every number of this model.
        nsfw_columns: columns of the output whose probabilities add up to the raw score.
        output: whether the graph gives `logits` (softmax is applied) or `probabilities`.
        model_path: the graph that scores.
        reference_path: the float32 graph that re-scores what is near a cut-off, if there is one.
        random_weights: made for benchmarks; its scores mean nothing.
        max_micro_batch: largest N of one run that keeps pictures independent of each other.
    """

    folder: Path
    id: str
    name: str
    source: str
    revision: str
    licence: str
    labels: tuple[str, ...]
    nsfw_labels: tuple[str, ...]
    nsfw_columns: tuple[int, ...]
    precision: Precision
    input: InputSpec
    tensor: TensorSpec
    output: Literal["logits", "probabilities"]
    model_path: Path
    reference_path: Path | None
    calibration: Calibration
    parity: Parity | None
    random_weights: bool
    max_micro_batch: int | None
    probe: Probe | None
    description: dict[str, Any]

    @property
    def guard_band(self) -> float:
        """Error in logits to reckon with; 0 where there is no float32 model to score again."""
        return self.parity.guard_band if self.parity and self.reference_path else 0.0

    @classmethod
    def load(cls, name_or_folder: str, models_folder: Path) -> Bundle:
        """Read a bundle and check every file's sha256.

        Args:
            name_or_folder: a name under `models_folder` or of a shipped bundle, or a path.
            models_folder: where exported bundles lie.

        Raises:
            BundleError: the folder, its description or a file is missing, unreadable or altered.
        """
        folder = _find(name_or_folder, models_folder)
        path = folder / DESCRIPTION_FILE
        try:
            data = json.loads(path.read_bytes())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise BundleError(f"{path} must hold a JSON object, not {type(data).__name__}")
        try:
            return _parse(data, folder)
        except _FieldProblem as problem:
            raise BundleError(f"{path}: {problem}") from problem


def list_bundles(models_folder: Path) -> list[str]:
    """Return the names of shipped and exported bundles, sorted; none of them is verified."""
    names: set[str] = set()
    for parent in (SHIPPED_FOLDER, models_folder):
        if parent.is_dir():
            names.update(path.parent.name for path in parent.glob(f"[!.]*/{DESCRIPTION_FILE}"))
    return sorted(names)


#: Name under the models folder that points to the promoted bundle, and to the one before it.
CURRENT, PREVIOUS = "current", "previous"


def promote(name: str, models_folder: Path) -> Bundle:
    """Let `current` point to a bundle and `previous` to the one before; a no-op if it does already.

    Raises:
        BundleError: the bundle is missing, incomplete or altered; nothing was changed.
    """
    bundle = Bundle.load(name, models_folder)
    folder = bundle.folder.resolve()
    current = models_folder / CURRENT
    if current.exists() and current.resolve() == folder:
        return bundle
    before = current.resolve() if current.is_symlink() else None
    _point(current, folder)
    if before is not None:
        _point(models_folder / PREVIOUS, before)
    return bundle


def roll_back(models_folder: Path) -> Bundle:
    """Let `current` point to where it pointed before the last promotion.

    Raises:
        BundleError: nothing was promoted before, or it is not intact any more.
    """
    previous = models_folder / PREVIOUS
    if not previous.is_symlink():
        raise BundleError(
            f"no bundle was promoted before in {models_folder}: nothing to go back to"
        )
    return promote(f"{previous.resolve()}/", models_folder)


def _point(link: Path, folder: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise BundleError(f"{link} is a bundle's own folder; rename it, promotion needs the name")
    link.parent.mkdir(parents=True, exist_ok=True)
    work = link.with_name(f".{link.name}.new")
    work.unlink(missing_ok=True)
    work.symlink_to(folder, target_is_directory=True)
    work.replace(link)


def normalise(
    pixels: npt.NDArray[np.uint8], bundle: Bundle
) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
    """Turn pixels into the graph's input.

    Source: scale, mean and std come from the bundle, that is, from the model's pinned revision.

    Args:
        pixels: (N, height_px, width_px, 3) uint8, RGB.
        bundle: whose `tensor` rule applies.

    Returns:
        (N, H, W, 3) or (N, 3, H, W), C-contiguous, in the dtype of the rule.
    """
    rule = bundle.tensor
    array = pixels[..., ::-1] if rule.channels == "BGR" else pixels
    is_planar = rule.layout == "NCHW"
    if rule.dtype == "uint8":
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2) if is_planar else array)
    std = np.asarray(rule.std, np.float64)
    factors = (rule.scale / std).astype(np.float32)
    shifts = (np.asarray(rule.mean, np.float64) / std).astype(np.float32)
    shape = (len(array), 3, *array.shape[1:3]) if is_planar else array.shape
    result = np.empty(shape, np.float32)
    # One channel at a time: numpy's loop over the three of each pixel takes four times as long.
    for channel in range(3):
        target = result[:, channel] if is_planar else result[..., channel]
        np.multiply(array[..., channel], factors[channel], out=target)
        target -= shifts[channel]
    return result


def probe_pixels(spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return two fixed pictures, a smooth one and a busy one: (2, height_px, width_px, 3) uint8."""
    y, x = np.mgrid[0 : spec.height_px, 0 : spec.width_px]
    smooth = np.stack([x * 255 // spec.width_px, y * 255 // spec.height_px, (x + y) // 4], -1)
    busy = np.stack([(x * 7) ^ (y * 3), (x * y) >> 3, (x * 5 + y * 11)], -1)
    return np.stack([smooth, busy]).astype(np.uint8)


class _FieldProblem(Exception):
    """A field of `model.json` that cannot be used."""


def _find(name_or_folder: str, models_folder: Path) -> Path:
    if "/" in name_or_folder or "\\" in name_or_folder or name_or_folder in (".", ".."):
        folder = Path(name_or_folder)
        if folder.is_dir():
            return folder
        raise BundleError(f"no bundle folder at {folder}")
    for parent in (models_folder, SHIPPED_FOLDER):
        if name_or_folder and (parent / name_or_folder).is_dir():
            return parent / name_or_folder
    known = ", ".join(list_bundles(models_folder))
    raise BundleError(
        f"no bundle named {name_or_folder!r} under {models_folder}; known bundles: {known}; "
        "export one with: avatarmod export"
    )


def _parse(data: dict[str, Any], folder: Path) -> Bundle:
    missing, unknown = _REQUIRED - set(data), set(data) - _REQUIRED - _OPTIONAL
    if missing or unknown:
        problem = f"{min(missing)!r} is missing" if missing else f"{min(unknown)!r} is not known"
        raise _FieldProblem(f"field {problem}")
    _check(data["schema"] == SCHEMA, "schema", f"must be {SCHEMA}, not {data['schema']!r}")
    for field in ("name", "source", "revision", "licence"):
        _check(isinstance(data[field], str) and data[field], field, "must be a non-empty text")
    name_rule = "must be 1 to 30 characters of a-z, 0-9, dot, dash and underscore"
    _check(_NAME.fullmatch(data["name"]), "name", name_rule)
    labels = _texts(data, "labels")
    nsfw_labels = _texts(data, "nsfw_labels")
    for label in nsfw_labels:
        _check(label in labels, "nsfw_labels", f"{label!r} is not among the labels {labels}")
    precision, output = data["precision"], data["output"]
    _check(precision in ("fp32", "int8"), "precision", f"must be fp32 or int8, not {precision!r}")
    _check(output in ("logits", "probabilities"), "output", "must be logits or probabilities")
    spec = _build("input", lambda: InputSpec.from_dict(data["input"]))
    calibration = _build("calibration", lambda: calibration_from_dict(data["calibration"]))
    reference = data["reference"]
    return Bundle(
        folder=folder,
        id=f"{data['name']}@{data['revision'][:8]}/{precision}/{calibration_tag(calibration)}",
        name=data["name"],
        source=data["source"],
        revision=data["revision"],
        licence=data["licence"],
        labels=labels,
        nsfw_labels=nsfw_labels,
        nsfw_columns=tuple(labels.index(label) for label in nsfw_labels),
        precision=precision,
        input=spec,
        tensor=_build("tensor", lambda: _tensor(data["tensor"])),
        output=output,
        model_path=_verified_file(data["model"], "model", folder),
        reference_path=_verified_file(reference, "reference", folder) if reference else None,
        calibration=calibration,
        parity=_build("parity", lambda: Parity(**data["parity"])) if data["parity"] else None,
        random_weights=bool(data.get("random_weights", False)),
        max_micro_batch=data.get("max_micro_batch"),
        probe=_build("probe", lambda: Probe(**data["probe"])) if data.get("probe") else None,
        description=data,
    )


def _check(condition: object, field: str, problem: str) -> None:
    if not condition:
        raise _FieldProblem(f"field {field!r} {problem}")


def _build(field: str, make: Any) -> Any:
    try:
        return make()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _FieldProblem(f"field {field!r}: {error}") from error


def _texts(data: dict[str, Any], field: str) -> tuple[str, ...]:
    value = data[field]
    good = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
    _check(good and len(set(value)) == len(value), field, "must be a list of different texts")
    return tuple(value)


def _tensor(data: dict[str, Any]) -> TensorSpec:
    rule = TensorSpec(**data)
    for field, known in (
        ("layout", ("NHWC", "NCHW")),
        ("channels", ("RGB", "BGR")),
        ("dtype", ("uint8", "float32")),
    ):
        if getattr(rule, field) not in known:
            raise ValueError(f"{field} must be one of {known}, not {getattr(rule, field)!r}")
    mean: tuple[float, ...] = tuple(map(float, rule.mean))
    std: tuple[float, ...] = tuple(map(float, rule.std))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError("mean and std must be 3 numbers each, and std above 0")
    return replace(rule, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def _verified_file(entry: Any, field: str, folder: Path) -> Path:
    good = isinstance(entry, dict) and {"file", "sha256"} <= set(entry)
    _check(good, field, "must hold file and sha256")
    name, expected = entry["file"], entry["sha256"]
    _check(
        isinstance(name, str) and Path(name).name == name and name,
        field,
        f"must name a file beside {DESCRIPTION_FILE}, not {name!r}",
    )
    _check(isinstance(expected, str) and _SHA256.fullmatch(expected), field, "needs a full sha256")
    path: Path = (_package_folder(entry["package"]) if entry.get("package") else folder) / name
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}, a file of the bundle, cannot be read: {error}") from error
    if actual != expected:
        raise BundleError(
            f"{path} is not the file its bundle describes: sha256 is {actual}, expected {expected}"
        )
    return path


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BundleError(
            f"the bundle's model lies in the Python package {package!r}, which is not installed"
        )
    return Path(next(iter(spec.submodule_search_locations)))
