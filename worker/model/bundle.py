"""A model as a folder: `model.json` says everything about it, and hashes tie it to its files.

Read from the models folder or from the bundles shipped with this package; given to the engine, to
the decoder (its input rule) and to the policy (its id). Nothing about a model is in code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from producer.errors import BundleError, ConfigurationError
from worker.image.preprocess import InputSpec
from worker.model.calibration import Calibration, calibration_from_dict, calibration_tag
from worker.model.tensor import TensorSpec

DESCRIPTION_FILE = "model.json"
SCHEMA = 1

#: Bundles that come with the package.
SHIPPED_FOLDER = Path(__file__).parent / "bundles"
#: Where version 0.1 exported to by default, in the working folder; still looked at.
FORMER_FOLDER = Path("models")

Precision = Literal["fp32", "int8"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,29}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REQUIRED = frozenset(
    [
        *("schema", "name", "source", "revision", "licence", "labels", "nsfw_labels"),
        *("precision", "input", "tensor", "output", "model", "reference", "calibration", "parity"),
    ]
)
_OPTIONAL = frozenset(
    [
        *("edition", "hold_labels", "random_weights", "max_micro_batch", "probe", "created"),
        *("export", "openvino"),
    ]
)


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
        id: name, revision (and edition), precision and calibration; stands beside every number of
            this model. `edition` in `model.json` counts descriptions of one file that differ.
        nsfw_columns: columns of the output whose probabilities add up to the raw score.
        hold_columns: columns that may hold a picture for a person and never clear one.
        output: whether the graph gives `logits` (softmax is applied) or `probabilities`.
        model_path: the graph that scores.
        reference_path: the float32 graph that re-scores what is near a cut-off, if there is one.
        random_weights: made for benchmarks; its scores mean nothing.
        max_micro_batch: largest N of one run that keeps pictures independent of each other.
        openvino_precision: of a graph in OpenVINO's own format, what its parity was measured with
            (`f32`, `bf16`); None: an ONNX graph.
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
    hold_columns: tuple[int, ...]
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
    openvino_precision: str | None
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


def check_weights(bundle: Bundle, *, allowed: bool) -> None:
    """Refuse random weights, but where they are allowed.

    Raises:
        ConfigurationError: the bundle has them.
    """
    if bundle.random_weights and not allowed:
        raise ConfigurationError(
            f"bundle {bundle.id} has random weights, made for benchmarks: its verdicts mean "
            "nothing; export a real model with `avatarmod export`"
        )


def is_installed(name_or_folder: str, models_folder: Path) -> bool:
    """Whether there is a bundle's folder, intact or not."""
    try:
        _find(name_or_folder, models_folder)
    except BundleError:
        return False
    return True


def list_bundles(models_folder: Path) -> list[str]:
    """Return the names of shipped and exported bundles, sorted; none of them is verified."""
    names: set[str] = set()
    for parent in (SHIPPED_FOLDER, FORMER_FOLDER, models_folder):
        if _is_folder(parent):
            names.update(path.parent.name for path in parent.glob(f"[!.]*/{DESCRIPTION_FILE}"))
    return sorted(names)


class _FieldProblem(Exception):
    """A field of `model.json` that cannot be used."""


def _is_folder(path: Path) -> bool:
    """Whether we see a folder there; no where we may not look, as in the home of root."""
    return os.path.isdir(path)


def _find(name_or_folder: str, models_folder: Path) -> Path:
    if "/" in name_or_folder or "\\" in name_or_folder or name_or_folder in (".", ".."):
        folder = Path(name_or_folder)
        if _is_folder(folder):
            return folder
        raise BundleError(f"no bundle folder at {folder}")
    for parent in (models_folder, FORMER_FOLDER, SHIPPED_FOLDER):
        if name_or_folder and _is_folder(parent / name_or_folder):
            return parent / name_or_folder
    known = ", ".join(list_bundles(models_folder))
    raise BundleError(
        f"no bundle named {name_or_folder!r} under {models_folder}; known bundles: {known}; "
        "get one with: avatarmod bundle install NAME, or make one with: avatarmod export"
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
    hold_labels = _texts(data, "hold_labels") if data.get("hold_labels") else ()
    for field, chosen in (("nsfw_labels", nsfw_labels), ("hold_labels", hold_labels)):
        for label in chosen:
            _check(label in labels, field, f"{label!r} is not among the labels {labels}")
    precision, output = data["precision"], data["output"]
    _check(precision in ("fp32", "int8"), "precision", f"must be fp32 or int8, not {precision!r}")
    _check(output in ("logits", "probabilities"), "output", "must be logits or probabilities")
    spec = _build("input", lambda: InputSpec.from_dict(data["input"]))
    calibration = _build("calibration", lambda: calibration_from_dict(data["calibration"]))
    reference, edition = data["reference"], data.get("edition", 1)
    openvino = data.get("openvino")
    if openvino:
        _check(reference, "reference", "must name the float32 graph of a bundle for OpenVINO")
        _verified_file(openvino.get("weights"), "openvino", folder)
    good = type(edition) is int and 1 <= edition <= 99
    _check(good, "edition", f"must be from 1 to 99, not {edition!r}")
    revision = data["revision"][:8] + (f".{edition}" if edition > 1 else "")
    return Bundle(
        folder=folder,
        id=f"{data['name']}@{revision}/{precision}/{calibration_tag(calibration)}",
        name=data["name"],
        source=data["source"],
        revision=data["revision"],
        licence=data["licence"],
        labels=labels,
        nsfw_labels=nsfw_labels,
        nsfw_columns=tuple(labels.index(label) for label in nsfw_labels),
        hold_columns=tuple(labels.index(label) for label in hold_labels),
        precision=precision,
        input=spec,
        tensor=_build("tensor", lambda: TensorSpec.from_dict(data["tensor"])),
        output=output,
        model_path=_verified_file(data["model"], "model", folder),
        reference_path=_verified_file(reference, "reference", folder) if reference else None,
        calibration=calibration,
        parity=_build("parity", lambda: Parity(**data["parity"])) if data["parity"] else None,
        random_weights=bool(data.get("random_weights", False)),
        max_micro_batch=data.get("max_micro_batch"),
        probe=_build("probe", lambda: Probe(**data["probe"])) if data.get("probe") else None,
        openvino_precision=str(openvino.get("precision", "f32")) if openvino else None,
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
    actual = file_sha256(path)
    if actual != expected:
        raise BundleError(
            f"{path} is not the file its bundle describes: sha256 is {actual}, expected {expected}"
        )
    return path


def file_sha256(path: Path) -> str:
    """The hash of a file, in hex.

    Raises:
        BundleError: it is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error


def file_entry(path: Path) -> dict[str, Any]:
    """What `model.json` says of one of its files: name, sha256 and bytes."""
    return {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BundleError(
            f"the bundle's model lies in the Python package {package!r}, which is not installed"
        )
    return Path(next(iter(spec.submodule_search_locations)))
