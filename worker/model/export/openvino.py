"""A bundle for OpenVINO: a graph quantised after training, with its own parity and guard band.

Ranges of activations are taken from pictures once, so unlike the fused int8 graph of ONNX Runtime
it may score several pictures in one run. Near a cut-off the float32 graph scores again.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from producer.errors import BundleError
from producer.installed import how_to_install
from worker.image.preprocess import fit
from worker.model.bundle import Bundle, file_entry
from worker.model.calibration import logit
from worker.model.engine import Engine
from worker.model.export.job import Reporter, needs_reduced_range
from worker.model.export.parity import check_limits, compare, pictures, score_all
from worker.model.new_bundle import new_bundle, write_description
from worker.model.tensor import normalise, probe_pixels

NAME = "model-openvino"
SUFFIX = "-openvino"


def export_for_openvino(
    base: Bundle,
    target: Path,
    *,
    folder: Path | None,
    count: int,
    reporter: Reporter,
) -> Bundle:
    """Quantise a bundle's float32 graph and compare the two.

    Args:
        base: an installed bundle whose float32 graph OpenVINO can read.
        target: the folder to make, whole or not at all; its name is the bundle's.
        folder: the operator's pictures, half for ranges and half for parity; None: drawn ones.
        count: pictures of each half.
        reporter: hears of each step.

    Raises:
        BundleError: OpenVINO or NNCF is missing, the graph is not for it, or parity is too poor.
    """
    try:
        import nncf  # noqa: F401
        import openvino  # noqa: F401
    except ImportError as error:
        raise BundleError(
            f"{error.name} is not installed; exporting for OpenVINO needs: "
            f"{how_to_install('export-openvino')}"
        ) from error
    source = base.reference_path or base.model_path
    with new_bundle(target) as work:
        reporter.step(f"quantising {base.id} with {count} pictures")
        ranges, others = _halves(base, folder, count)
        precision = _quantise(source, work, [normalise(one[None], base.tensor) for one in ranges])
        shutil.copyfile(source, work / source.name)
        data = _describe(base, work, source.name, target.name, precision)
        write_description(work, data)
        parity = _parity(work, others, "real" if folder else "drawn", reporter)
        write_description(work, data | parity)
    return Bundle.load(f"{target.resolve()}/", Path())


def _halves(base: Bundle, folder: Path | None, count: int) -> tuple[list[Any], list[Any]]:
    """Pictures for ranges and other pictures for parity; drawn ones come in four kinds, in turn."""
    halves: tuple[list[Any], list[Any]] = ([], [])
    for index, picture in enumerate(pictures(folder, 2 * count)):
        halves[index // 4 % 2].append(picture)
    return [fit(picture, base.input) for picture in halves[0]], halves[1]


def _quantise(source: Path, work: Path, samples: list[Any]) -> str:
    """Write NAME.xml and NAME.bin; returns the precision for the rest."""
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import OverflowFix

    core = openvino.Core()
    # Products of CPUs without VNNI saturate at 16 bits: 7-bit weights there.
    overflow = OverflowFix.ENABLE if needs_reduced_range() else OverflowFix.DISABLE
    try:
        quantised = nncf.quantize(
            core.read_model(source),
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED,
            # Also right for plain convolutions: it only treats matrix products more gently.
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        raise BundleError(
            f"OpenVINO cannot read {source.name} ({reason}); a checkpoint's graph for it is made "
            "by: avatarmod export --portable --precision fp32"
        ) from error
    openvino.save_model(quantised, work / f"{NAME}.xml", compress_to_fp16=False)
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if has_bf16 else "f32"


def _describe(
    base: Bundle, work: Path, reference: str, name: str, precision: str
) -> dict[str, Any]:
    return {
        **base.description,
        "name": name,
        "precision": "int8",
        "model": file_entry(work / f"{NAME}.xml"),
        "openvino": {"precision": precision, "weights": file_entry(work / f"{NAME}.bin")},
        "reference": file_entry(work / reference),
        "max_micro_batch": None,
        "parity": None,
        "probe": None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "export": {
            "from": base.id,
            "openvino": metadata.version("openvino"),
            "nncf": metadata.version("nncf"),
        },
    }


def _parity(work: Path, images: list[Any], kind: str, reporter: Reporter) -> dict[str, Any]:
    """Compare both graphs; returns the fields `parity` and `probe`."""
    bundle = Bundle.load(f"{work}/", Path())
    engines = [
        Engine(bundle, runtime=which, micro_batch=1) for which in ("openvino", "onnxruntime")
    ]
    advance = reporter.bar(len(images), "measuring parity")
    ours, reference = score_all(engines, iter(images), advance)
    parity = compare(
        ours,
        reference,
        calibration=bundle.calibration,
        reference_name=f"its own float32 graph, {kind} pictures",
        rescored=reference,
    )
    check_limits(parity, bundle)
    scores, exact = (engine.run(probe_pixels(bundle.input)) for engine in engines)
    # Where OpenVINO is absent the float32 graph answers the probe.
    apart = max(abs(logit(float(a)) - logit(float(b))) for a, b in zip(scores, exact, strict=True))
    milliseconds = [round(engine.time_per_picture_s() * 1000, 1) for engine in engines]
    parity.details["ms"] = dict(zip(("openvino", "onnxruntime"), milliseconds, strict=True))
    tolerance = round(max(parity.guard_band, 1.25 * apart), 6)
    probe = {"raw_scores": [float(np.float32(one)) for one in scores], "tolerance": tolerance}
    return {"parity": asdict(parity), "probe": probe}
