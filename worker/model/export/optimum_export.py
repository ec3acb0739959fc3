"""The reference road: optimum's own ONNX export through PyTorch, and int8 of it the usual way.

Heavy, and imported only when it is asked for: needs `avatar-moderation[export]`.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

from producer.errors import BundleError
from producer.installed import how_to_install

_PACKAGES = ("torch", "transformers", "optimum", "onnx")


def missing_packages(library: str) -> list[str]:
    """Return which packages this road needs for a checkpoint of `library` and cannot find."""
    wanted = [*_PACKAGES, *(["timm"] if library == "timm" else [])]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if "optimum" not in missing and importlib.util.find_spec("optimum.exporters.onnx") is None:
        missing.append("optimum-onnx")
    return missing


def export_with_optimum(model: str, revision: str | None, library: str, target: Path) -> None:
    """Write optimum's float32 graph of an image classifier: NCHW float32 in, logits out.

    Args:
        model: hub id, or a local folder (transformers only: optimum knows timm models by hub id).
        revision: commit on the hub.
        library: `timm` or `transformers`.
        target: the file to write.

    Raises:
        BundleError: packages are missing, or optimum cannot export this model.
    """
    missing = missing_packages(library)
    if missing:
        raise BundleError(
            f"the optimum road needs {', '.join(missing)}: {how_to_install('export')}"
        )
    if library == "timm" and Path(model).is_dir():
        raise BundleError(
            "optimum exports timm models only by hub id, not from a local folder; "
            "use --road lean for it"
        )
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".optimum-") as folder:
        try:
            main_export(
                model,
                folder,
                task="image-classification",
                revision=revision or "main",
                library_name=library,
                do_validation=False,
            )
        except Exception as error:  # optimum lets anything of torch, timm and transformers through
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BundleError(f"optimum cannot export {model}: {first[:300]}") from error
        found = Path(folder) / "model.onnx"
        if not found.exists():
            raise BundleError(f"optimum wrote no model.onnx for {model}")
        shutil.move(found, target)


def quantise_plain(source: Path, target: Path) -> None:
    """Quantise the matrix products of any float32 graph to int8, per output channel.

    Args:
        source: a float32 ONNX file.
        target: the file to write.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
