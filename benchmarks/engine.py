"""What one picture costs on one core, against the usual deployment: `python benchmarks/engine.py`.

Every engine and batch size runs in a process of its own, pinned to the same core; the processes
take turns, so that a slow moment of the machine hits all of them alike. Times include
normalisation and exclude decoding and resizing. Medians and quartiles of the wall clock, the median
of the CPU time (the better figure on a machine that others use), and the peak resident memory of
each process. Comparators whose packages are not installed are left out by name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Name -> packages it needs, most telling first.
ENGINES = {
    "ours-fp32": ("onnxruntime",),
    "ours-int8": ("onnxruntime",),
    "pipeline": ("torch", "transformers", "timm"),
    "onnx-plain": ("torch", "transformers", "timm", "onnx"),
    "openvino-bf16": ("openvino",),
    "openvino-int8": ("openvino", "nncf"),
}
#: Packages without which no bundle can be made to measure.
NEEDED = ("numpy", "onnxruntime", "onnx", "safetensors")
OURS = ("ours-fp32", "ours-int8")
NORMAL_BATCHES = (1, 8, 32)
#: With --quick: no engine is started after this, and measuring ends then.
QUICK_START_S, QUICK_END_S = 22.0, 40.0

#: A started process and its (wall, CPU) seconds an image.
Run = tuple[str, int, "subprocess.Popen[str]", list[tuple[float, float]]]


def main() -> int:
    args = _arguments()
    if args.worker:
        return _worker(args.worker, args.batch, Path(args.folder), args.core)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        hint = "pip install -c requirements.lock -e '.[worker,export-light]'"
        print(f"error: {', '.join(missing)} not installed; needed: {hint}", file=sys.stderr)
        return 2
    core = args.core if args.core is not None else max(os.sched_getaffinity(0))
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="avatarmod-bench-") as folder:
        checkpoint = Path(args.checkpoint) if args.checkpoint else _random_checkpoint(Path(folder))
        _prepare(Path(folder), checkpoint)
        runs, absent = _start(Path(folder), core, started_s if args.quick else None)
        end_s = started_s + QUICK_END_S if args.quick else time.perf_counter() + args.seconds
        _take_turns(runs, end_s)
        rows = [_finish(*run) for run in runs]
    report = {
        "engines": rows,
        "absent": absent,
        "core": core,
        "cpu": _cpu_name(),
        "weights": "given checkpoint" if args.checkpoint else "random, of the true architecture",
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print_table(report)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--quick", action="store_true", help="finish within 50 seconds")
    parser.add_argument("--seconds", type=float, default=240.0, help="time to measure for")
    parser.add_argument("--core", type=int, help="core to pin to (default: the last allowed)")
    parser.add_argument(
        "--checkpoint", help="folder of a timm checkpoint (default: random weights)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


# The parent: prepares, starts processes, gives turns.


def _random_checkpoint(folder: Path) -> Path:
    code = "import sys; from pathlib import Path; "
    code += "from worker.model.export.random_checkpoint import write_random_checkpoint as w; "
    code += "w(Path(sys.argv[1]))"
    target = folder / "checkpoint"
    _run([sys.executable, "-c", code, str(target)])
    return target


def _prepare(folder: Path, checkpoint: Path) -> None:
    """Write our two bundles; parity is the exporter's affair and takes longer than a benchmark."""
    code = """
import json, sys
from pathlib import Path
from worker.model.export.checkpoint import describe_checkpoint, load_vit
from worker.model.export.vit_graph import build_vit
from worker.model.bundle import file_sha256
checkpoint, folder = Path(sys.argv[1]), Path(sys.argv[2])
description = describe_checkpoint(checkpoint)
vit = load_vit(checkpoint, description)
portable = build_vit(vit, mean=description.mean, std=description.std, portable=True)
(folder / "portable.onnx").write_bytes(portable.SerializeToString())
for precision in ("fp32", "int8"):
    target = folder / f"ours-{precision}"
    target.mkdir()
    model = build_vit(vit, mean=description.mean, std=description.std, precision=precision)
    (target / "model.onnx").write_bytes(model.SerializeToString())
    entry = {"file": "model.onnx", "sha256": file_sha256(target / "model.onnx")}
    tensor = {"layout": "NHWC", "channels": "RGB", "dtype": "uint8", "scale": 1 / 255,
              "mean": list(description.mean), "std": list(description.std)}
    data = {"schema": 1, "name": "bench", "source": "benchmark", "revision": "0" * 8,
            "licence": "none", "labels": list(description.labels),
            "nsfw_labels": list(description.labels[:1]), "precision": precision,
            "input": description.input.to_dict(), "tensor": tensor, "output": "logits",
            "model": entry, "reference": None, "calibration": {"kind": "identity"},
            "parity": None, "random_weights": True,
            "max_micro_batch": 1 if precision == "int8" else None}
    (target / "model.json").write_text(json.dumps(data))
"""
    _run([sys.executable, "-c", code, str(checkpoint), str(folder)])
    if checkpoint != folder / "checkpoint":
        (folder / "checkpoint").symlink_to(checkpoint.resolve())


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _start(
    folder: Path, core: int, quick_since_s: float | None
) -> tuple[list[Run], dict[str, str]]:
    runs: list[Run] = []
    absent: dict[str, str] = {}
    quick = quick_since_s is not None
    for name, packages in ENGINES.items():
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            absent[name] = f"{', '.join(missing)} not installed"
            continue
        batches = (1,) if quick or name in OURS or "openvino" in name else NORMAL_BATCHES
        for batch in batches:
            if quick_since_s and time.perf_counter() - quick_since_s > QUICK_START_S:
                absent[name] = "no time left with --quick"
                continue
            command = [sys.executable, __file__, "--worker", name, "--batch", str(batch)]
            command += ["--folder", str(folder), "--core", str(core)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            # One after the other: loading must not disturb the memory or time of another.
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                process.wait()
                absent[name] = "failed to start, see above"
                continue
            runs.append((name, batch, process, []))
    return runs, absent


def _take_turns(runs: list[Run], end_s: float) -> None:
    rounds = 0
    while runs and (rounds < 2 or (rounds < 30 and time.perf_counter() < end_s)):
        for _, _, process, times in runs:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            wall_s, cpu_s = map(float, process.stdout.readline().split())
            times.append((wall_s, cpu_s))
        rounds += 1


def _finish(
    name: str, batch: int, process: subprocess.Popen[str], times: list[tuple[float, float]]
) -> dict[str, Any]:
    out, _ = process.communicate("end\n", timeout=60)
    facts = json.loads(out)
    low, median, high = statistics.quantiles([wall_s for wall_s, _ in times], n=4)
    cpu_s = statistics.median(cpu_s for _, cpu_s in times)
    return {
        "name": name,
        "batch": batch,
        "ms_per_image": round(median * 1e3, 2),
        "ms_quartiles": [round(low * 1e3, 2), round(high * 1e3, 2)],
        "cpu_ms_per_image": round(cpu_s * 1e3, 2),
        "images_per_second": round(1 / median, 2),
        "peak_rss_mb": round(facts["peak_rss_mb"], 1),
        "rounds": len(times),
        **facts["extra"],
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def _print_table(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"one core of {report['cpu']}; weights: {report['weights']}")
    columns = ("engine", "batch", "ms an image", "quartiles", "CPU ms", "images/s", "peak MB")
    for column in (*columns, "ratio", "CPU ratio"):
        justify = "left" if column == "engine" else "right"
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    base = [row for row in report["engines"] if row["name"] == "pipeline"]
    for row in report["engines"]:
        low, high = row["ms_quartiles"]
        table.add_row(
            row["name"],
            str(row["batch"]),
            f"{row['ms_per_image']:.1f}",
            f"{low:.0f}-{high:.0f}",
            f"{row['cpu_ms_per_image']:.1f}",
            f"{row['images_per_second']:.1f}",
            f"{row['peak_rss_mb']:.0f}",
            _ratio(base, row, "ms_per_image"),
            _ratio(base, row, "cpu_ms_per_image"),
        )
    console = Console(width=110)
    console.print(table)
    console.print("ratio: how many times as fast as the fastest transformers pipeline of this run")
    for name, why in report["absent"].items():
        console.print(f"{name} did not run: {why}")


def _ratio(base: list[dict[str, Any]], row: dict[str, Any], key: str) -> str:
    return f"{min(each[key] for each in base) / row[key]:.2f}" if base else "-"


# A child: one engine, one batch size.


def _worker(name: str, batch: int, folder: Path, core: int) -> int:
    """Load, warm up, say ready; then time one batch for each line read."""
    os.sched_setaffinity(0, {core})
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(ROOT))
    extra: dict[str, Any] = {}
    run = _LOADERS[name](folder, batch, extra)
    for _ in range(2):
        run()
    print("ready", file=answers)
    for line in sys.stdin:
        if line.strip() != "go":
            break
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        run()
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        print(wall_s / batch, cpu_s / batch, file=answers)
    from worker.resources import peak_rss_bytes

    print(json.dumps({"peak_rss_mb": peak_rss_bytes() / 2**20, "extra": extra}), file=answers)
    return 0


def _pixels(batch: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (batch, 384, 384, 3), dtype=np.uint8)


def _load_ours(precision: str) -> Any:
    def load(folder: Path, batch: int, extra: dict[str, Any]) -> Any:
        from worker.model.bundle import Bundle
        from worker.model.engine import Engine

        engine = Engine(Bundle.load(f"{folder}/ours-{precision}/", folder), threads=1)
        extra["micro_batch"] = engine.micro_batch
        pixels = _pixels(batch)
        return lambda: engine.run(pixels)

    return load


def _allow_torchvision_without_kernels() -> None:
    """Let torchvision be imported beside a PyTorch it was not built for."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_torchvision_library"] = library


def _load_pipeline(folder: Path, batch: int, extra: dict[str, Any]) -> Any:
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    _allow_torchvision_without_kernels()
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder / "checkpoint"), device="cpu")
    # Its own preprocessing of a picture of the right size belongs to the deployment.
    images = [Image.fromarray(pixels) for pixels in _pixels(batch)]
    return lambda: classify(images, batch_size=batch)


def _plain_onnx(folder: Path) -> Path:
    """Export the checkpoint through PyTorch as it is, once for all batch sizes."""
    target = folder / "plain.onnx"
    if not target.exists():
        code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from benchmarks.engine import export_plain
export_plain({str(folder / "checkpoint")!r}, {str(target)!r})
"""
        subprocess.run([sys.executable, "-c", code], check=True, stdout=sys.stderr)
    return target


def export_plain(checkpoint: str, target: str) -> None:
    import torch

    _allow_torchvision_without_kernels()
    import timm
    from safetensors.torch import load_file

    config = json.loads((Path(checkpoint) / "config.json").read_text())
    model = timm.create_model(config["architecture"], num_classes=config["num_classes"])
    model.load_state_dict(load_file(Path(checkpoint) / "model.safetensors"))
    # The fused kernel would be exported operator by operator all the same.
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, 3, 384, 384),),
        target,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_axes={"pixel_values": {0: "n"}},
        dynamo=False,
    )


def _load_onnx_plain(folder: Path, batch: int, extra: dict[str, Any]) -> Any:
    import numpy as np

    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    path = _plain_onnx(folder)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pixels = _pixels(batch)

    def run() -> Any:
        tensor = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
        return session.run(None, {"pixel_values": tensor.transpose(0, 3, 1, 2)})

    return run


def _load_openvino(precision: str) -> Any:
    def load(folder: Path, batch: int, extra: dict[str, Any]) -> Any:
        import openvino as ov

        path = folder / "portable.onnx"
        if precision == "int8":
            path = folder / "openvino-int8.xml"
            code = "import sys; from benchmarks.engine import quantise_for_openvino as q; "
            code += "q(*sys.argv[1:])"
            command = [sys.executable, "-c", code, str(folder / "portable.onnx"), str(path)]
            # In a process of its own: its memory is not the engine's.
            subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT)
        core = ov.Core()
        model = core.read_model(path)
        model.reshape([batch, 384, 384, 3])
        config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            config["INFERENCE_PRECISION_HINT"] = "bf16"
        extra["float_products"] = config["INFERENCE_PRECISION_HINT"]
        request = core.compile_model(model, "CPU", config).create_infer_request()
        pixels = _pixels(batch)
        return lambda: request.infer([pixels])

    return load


def quantise_for_openvino(source: str, target: str) -> None:
    import nncf
    import openvino as ov

    from worker.image.preprocess import InputSpec, fit
    from worker.model.export.parity import synthetic_pictures

    square = {"width_px": 384, "height_px": 384, "resize_px": 384}
    spec = InputSpec(**square, resize="short_side", interpolation="bicubic")
    samples = [fit(picture, spec)[None] for picture in synthetic_pictures(12, seed=3)]
    model = ov.Core().read_model(source)
    kind = nncf.ModelType.TRANSFORMER
    ov.save_model(
        nncf.quantize(model, nncf.Dataset(samples), model_type=kind, subset_size=12), target
    )


_LOADERS = {
    "pipeline": _load_pipeline,
    "onnx-plain": _load_onnx_plain,
    "ours-fp32": _load_ours("fp32"),
    "ours-int8": _load_ours("int8"),
    "openvino-bf16": _load_openvino("bf16"),
    "openvino-int8": _load_openvino("int8"),
}

if __name__ == "__main__":
    sys.exit(main())
