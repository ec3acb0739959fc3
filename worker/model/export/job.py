"""One export, step by step, in a work folder beside the bundle that it becomes.

Every step writes one file of the work folder and is skipped when that file is there, so an
interrupted export goes on where it stopped. The bundle appears under its name in one rename, after
its parity passed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from producer.errors import BundleError
from worker.model.bundle import DESCRIPTION_FILE, SCHEMA, Bundle, Parity, file_entry, file_sha256
from worker.model.engine import Engine
from worker.model.export.checkpoint import Description, NotAPlainVit, load_vit
from worker.model.export.hub import Source
from worker.model.export.optimum_export import export_with_optimum, missing_packages, quantise_plain
from worker.model.export.parity import MIN_PICTURES, check_limits, compare, pictures, score_all
from worker.model.export.vit_graph import FULL_RANGE, REDUCED_RANGE, Precision, build_vit
from worker.model.recipes import pinned
from worker.model.tensor import probe_pixels

Road = Literal["lean", "optimum"]

#: Logits by which float32 may differ between two CPUs; the engine's probe refuses more.
_FLOAT_TOLERANCE = 0.02

FP32, INT8, REFERENCE = "model-fp32.onnx", "model-int8.onnx", "reference.onnx"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        model: hub id or folder.
        revision: commit, tag or branch; None: the pinned one.
        sha256: of the weights; None: the pinned one.
        precision: `int8` carries its float32 graph too, for the guard band.
        road: `lean` builds the fused graph, `optimum` exports through PyTorch; None: lean where the
            architecture allows it.
        out: the bundle's folder, or None for `models_folder` and the model's name.
        nsfw_labels: empty: recognised by their words.
        label_smoothing: undone by the calibration; None: as known of the model, else none.
        calibration_images: pictures for the parity report; None: synthetic ones.
        pictures: how many are compared.
        reduced_range: 7-bit weights, for x86 without VNNI; None: as this machine needs.
        portable: ONNX's own operators only, float32, for GPUs and other execution providers.
        force: export although the bundle is there.
    """

    model: str
    models_folder: Path
    revision: str | None = None
    sha256: str | None = None
    precision: Precision = "int8"
    road: Road | None = None
    out: Path | None = None
    nsfw_labels: tuple[str, ...] = ()
    label_smoothing: float | None = None
    calibration_images: Path | None = None
    pictures: int = MIN_PICTURES
    reduced_range: bool | None = None
    licence: str | None = None
    portable: bool = False
    force: bool = False


class Reporter:
    """Where progress goes; the base says nothing."""

    def step(self, text: str) -> None:
        """A step begins, or was found done."""

    def warn(self, text: str) -> None:
        """Something the user should know."""

    def bar(self, total: int, text: str) -> Callable[[], None]:
        """Begin counting to `total`; returns what is called after each."""
        return lambda: None


class Job:
    """Carries out one request; `run` gives the verified bundle."""

    def __init__(
        self,
        request: Request,
        reporter: Reporter,
        source: Source,
        description: Description,
        nsfw_labels: tuple[str, ...],
    ) -> None:
        self.request, self.reporter, self.source = request, reporter, source
        self.description, self.nsfw_labels = description, nsfw_labels
        self.random = bool(description.config.get("random_weights"))
        self.target = request.out or request.models_folder / self._default_name()
        self.name = self.target.name
        self.road = self._choose_road()
        reduced = request.reduced_range
        self.int8_range = (
            REDUCED_RANGE if (needs_reduced_range() if reduced is None else reduced) else FULL_RANGE
        )
        self.key = self._key()
        self.work = self.target.parent / f".{self.name}.{self.key[:12]}.partial"

    def run(self) -> Bundle:
        """Do what is not done yet, and put the bundle in its place."""
        present = self._present()
        if present:
            self.reporter.step(f"{present.id} is already in {self.target}")
            return present
        self.work.mkdir(parents=True, exist_ok=True)
        fp32 = self._step(FP32, "building the float32 graph", self._make_fp32)
        reference = self._reference()
        int8 = None
        if self.request.precision == "int8":
            int8 = self._step(INT8, "quantising to int8", self._make_int8)
        self._write_description(fp32, int8, None, None)
        parity = self._measure(reference)
        probe = self._probe(parity)
        self._write_description(fp32, int8, parity, probe)
        for leftover in (REFERENCE, f"{REFERENCE}.json"):
            (self.work / leftover).unlink(missing_ok=True)
        Bundle.load(f"{self.work}/", Path())
        self._publish()
        return Bundle.load(f"{self.target.resolve()}/", Path())

    def _default_name(self) -> str:
        known = pinned(self.source.repository or "")
        name = Path(self.request.model).name.lower().replace("_", "-")
        if known:
            name = known[1].bundle_name or known[0].name
        if self.random:
            name = f"random-{name}"
        suffix = "-fp32" if self.request.precision == "fp32" else ""
        return name[: 30 - len(suffix)] + suffix

    def _choose_road(self) -> Road:
        if self.request.road:
            return self.request.road
        try:
            load_vit(self.source.folder, self.description)
        except NotAPlainVit as problem:
            self.reporter.warn(f"{problem}; taking the optimum road")
            return "optimum"
        return "lean"

    def _key(self) -> str:
        """Hash everything that the artefacts depend on."""
        facts = {
            "weights": self.source.weights_sha256,
            "revision": self.source.revision,
            "road": self.road,
            "precision": self.request.precision,
            "portable": self.request.portable,
            "int8_range": self.int8_range,
            "nsfw_labels": self.nsfw_labels,
            "smoothing": self._label_smoothing(),
            "pictures": [self.request.pictures, str(self.request.calibration_images or "")],
            "graph": file_sha256(Path(__file__).parent / "vit_graph.py"),
            "versions": [metadata.version("onnx"), metadata.version("onnxruntime")],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _present(self) -> Bundle | None:
        if self.request.force or not (self.target / DESCRIPTION_FILE).exists():
            return None
        with suppress(BundleError):
            bundle = Bundle.load(f"{self.target.resolve()}/", Path())
            if bundle.description.get("export", {}).get("key") == self.key:
                return bundle
        return None

    def _step(self, file: str, text: str, make: Callable[[Path], None]) -> Path:
        path = self.work / file
        if path.exists():
            self.reporter.step(f"{text}: done before")
            return path
        self.reporter.step(text)
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        make(unfinished)
        unfinished.rename(path)
        return path

    def _make_fp32(self, path: Path) -> None:
        if self.road == "lean":
            self._build(path, "fp32")
        else:
            self._export_with_optimum(path)

    def _make_int8(self, path: Path) -> None:
        if self.road == "lean":
            self._build(path, "int8")
        else:
            quantise_plain(self.work / FP32, path)

    def _build(self, path: Path, precision: Precision) -> None:
        model = build_vit(
            load_vit(self.source.folder, self.description),
            mean=self.description.mean,
            std=self.description.std,
            precision=precision,
            int8_range=self.int8_range,
            portable=self.request.portable,
        )
        path.write_bytes(model.SerializeToString())

    def _export_with_optimum(self, path: Path) -> None:
        model = self.source.repository or str(self.source.folder)
        revision = self.source.revision if self.source.repository else None
        export_with_optimum(model, revision, self.description.library, path)

    def _reference(self) -> Path | None:
        """Export what the lean road's float32 graph is compared with, where that is possible."""
        if self.road == "optimum":
            return None
        missing = missing_packages(self.description.library)
        local_timm = self.description.library == "timm" and not self.source.repository
        if missing or local_timm:
            why = f"{', '.join(missing)} not installed" if missing else "a local timm checkpoint"
            self.reporter.step(
                f"no reference export by optimum ({why}); int8 is compared with float32"
            )
            return None
        return self._step(
            REFERENCE, "exporting the reference with optimum", self._export_with_optimum
        )

    def _measure(self, reference: Path | None) -> Parity | None:
        """Compare what was built with its reference, and refuse what is too far from it."""
        int8 = self.request.precision == "int8"
        bundles = [Bundle.load(f"{self.work}/", Path())]
        if int8:
            bundles.append(self._variant(FP32, "fp32", lean=self.road == "lean"))
        if reference:
            bundles.append(self._variant(REFERENCE, "fp32", lean=False))
        if len(bundles) == 1:
            return None
        engines = [Engine(bundle, micro_batch=1) for bundle in bundles]
        advance = self.reporter.bar(self.request.pictures, "measuring parity")
        images = pictures(self.request.calibration_images, self.request.pictures)
        scores = score_all(engines, images, advance)
        kind = "real and synthetic" if self.request.calibration_images else "synthetic"
        calibration = bundles[0].calibration
        name = "optimum's float32 export" if reference else "its own float32 graph"
        parity = compare(
            scores[0],
            scores[-1],
            calibration=calibration,
            reference_name=f"{name}, {kind} pictures",
            rescored=scores[1] if int8 else None,
        )
        check_limits(parity, bundles[0])
        if int8 and reference:
            float_parity = compare(
                scores[1], scores[2], calibration=calibration, reference_name=parity.reference
            )
            check_limits(float_parity, bundles[1])
            parity.details["float32"] = {
                "max_error": float_parity.max_error,
                "p99_error": float_parity.p99_error,
                "flips": float_parity.details["flips"],
            }
        return parity

    def _probe(self, parity: Parity | None) -> dict[str, Any]:
        engine = Engine(Bundle.load(f"{self.work}/", Path()), micro_batch=1)
        raw_scores = [float(raw) for raw in engine.run(probe_pixels(self.description.input))]
        int8 = parity is not None and self.request.precision == "int8"
        tolerance = (
            max(parity.guard_band, _FLOAT_TOLERANCE) if int8 and parity else _FLOAT_TOLERANCE
        )
        return {"raw_scores": raw_scores, "tolerance": tolerance}

    def _label_smoothing(self) -> float:
        if self.request.label_smoothing is not None:
            return self.request.label_smoothing
        known = pinned(self.source.repository or "")
        return known[1].label_smoothing if known else 0.0

    def _variant(self, file: str, precision: Precision, *, lean: bool) -> Bundle:
        """Return a bundle of one file of the work folder, to score with."""
        folder = self.work / f".{Path(file).stem}"
        folder.mkdir(exist_ok=True)
        link = folder / file
        link.unlink(missing_ok=True)
        os.link(self.work / file, link)
        data = self._describe(link, precision, lean=lean)
        (folder / DESCRIPTION_FILE).write_text(json.dumps(data), encoding="utf-8")
        return Bundle.load(f"{folder}/", Path())

    def _describe(self, model: Path, precision: Precision, *, lean: bool) -> dict[str, Any]:
        source, description = self.source, self.description
        return {
            "schema": SCHEMA,
            "name": self.name,
            "source": f"{source.name}, RANDOM WEIGHTS" if self.random else source.name,
            "revision": source.revision,
            "licence": self.request.licence or source.licence,
            "random_weights": self.random,
            "labels": list(description.labels),
            "nsfw_labels": list(self.nsfw_labels),
            "precision": precision,
            "input": description.input.to_dict(),
            "tensor": {
                "layout": "NHWC" if lean else "NCHW",
                "channels": "RGB",
                "dtype": "uint8" if lean else "float32",
                "scale": 1 / 255,
                "mean": list(description.mean),
                "std": list(description.std),
            },
            "output": "logits",
            "model": file_entry(model),
            "reference": None,
            "calibration": self._calibration(),
            "parity": None,
            "max_micro_batch": 1 if precision == "int8" else None,
            "probe": None,
        }

    def _calibration(self) -> dict[str, Any]:
        smoothing = self._label_smoothing()
        if not smoothing:
            return {"kind": "identity"}
        counts = {"classes": len(self.description.labels), "columns": len(self.nsfw_labels)}
        return {"kind": "label_smoothing", "epsilon": smoothing, **counts}

    def _write_description(
        self, fp32: Path, int8: Path | None, parity: Parity | None, probe: dict[str, Any] | None
    ) -> None:
        precision: Precision = "int8" if int8 else "fp32"
        data = self._describe(int8 or fp32, precision, lean=self.road == "lean")
        data["reference"] = file_entry(fp32) if int8 else None
        data["parity"] = asdict(parity) if parity else None
        data["probe"] = probe
        data["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        data["export"] = {
            "key": self.key,
            "road": self.road,
            "weights_sha256": self.source.weights_sha256,
            "int8_range": self.int8_range if int8 else None,
            "onnxruntime": metadata.version("onnxruntime"),
        }
        path = self.work / DESCRIPTION_FILE
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(path)

    def _publish(self) -> None:
        """Put the work folder in the target's place; at no moment is half a bundle there."""
        for folder in self.work.glob(".*"):
            shutil.rmtree(folder)
        if not self.target.exists():
            self.work.rename(self.target)
            return
        if not (self.target / DESCRIPTION_FILE).exists():
            raise BundleError(f"{self.target} exists and is no bundle; choose another --out")
        old = self.target.with_name(f".{self.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        self.target.rename(old)
        self.work.rename(self.target)
        shutil.rmtree(old)


def needs_reduced_range(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether this is an x86 CPU whose int8 products saturate at 16 bits.

    Source: ONNX Runtime's quantization guide, "When and why do I need to try U8U8?": AVX2 and
    AVX512 without VNNI add two products into 16 bits.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    flags = {
        flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni", "avx512vnni"}
