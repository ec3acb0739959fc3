"""From a model on the hub (or a folder) to a bundle: download, graph, int8, parity, `model.json`.

The command is `avatarmod export`; `scripts/export_onnx.py` is its front for a clone.
"""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from producer.errors import BundleError
from producer.settings import load_settings
from worker.model.bundle import DESCRIPTION_FILE, Bundle, is_installed
from worker.model.export.checkpoint import choose_nsfw_labels, describe_checkpoint
from worker.model.export.hub import fetch_checkpoint
from worker.model.export.job import Job, Reporter, Request
from worker.model.export.parity import MIN_PICTURES
from worker.settings import WorkerSettings


def export_bundle(request: Request, reporter: Reporter | None = None) -> Bundle:
    """Carry out one export.

    Returns:
        The verified bundle.

    Raises:
        BundleError: any step failed; the target folder is as it was before.
    """
    reporter = reporter or Reporter()
    if request.pictures < MIN_PICTURES:
        raise BundleError(f"a parity report needs at least {MIN_PICTURES} pictures")
    reporter.step(f"reading {request.model}")
    source = fetch_checkpoint(request.model, request.revision, request.sha256)
    description = describe_checkpoint(source.folder)
    nsfw_labels = choose_nsfw_labels(description.labels, request.nsfw_labels)
    job = Job(request, reporter, source, description, nsfw_labels)
    try:
        return job.run()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BundleError(
                f"the disk of {job.target.parent} is full; free some space and run this again, "
                "finished steps are kept"
            ) from error
        raise BundleError(f"cannot write the bundle: {error}") from error


def export_checkpoint(model: str, models_folder: Path) -> Bundle:
    """Export one pinned checkpoint as `avatarmod export` does by default."""
    request = Request(model=model, models_folder=models_folder)
    return export_bundle(request, _ConsoleReporter(Console(stderr=True)))


def export_openvino(request: Request, reporter: Reporter) -> Bundle:
    """Make a bundle for OpenVINO of an installed bundle, or of a checkpoint by way of one."""
    from worker.model.export.openvino import SUFFIX, export_for_openvino

    is_path = "/" in request.model
    is_bundle = (Path(request.model) / DESCRIPTION_FILE).exists()
    if is_bundle if is_path else is_installed(request.model, request.models_folder):
        base = Bundle.load(request.model, request.models_folder)
    else:
        changed = dataclasses.replace(request, precision="fp32", portable=True, out=None)
        base = export_bundle(changed, reporter)
    name = f"{base.name[: 30 - len(SUFFIX)]}{SUFFIX}"
    return export_for_openvino(
        base,
        request.out or request.models_folder / name,
        folder=request.calibration_images,
        count=request.pictures,
        reporter=reporter,
    )


class _ConsoleReporter(Reporter):
    """Writes to stderr, so that stdout stays for programs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None

    def step(self, text: str) -> None:
        self.console.print(f"[green]•[/green] {text}", highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]![/yellow] {text}", highlight=False, soft_wrap=True)

    def bar(self, total: int, text: str) -> Callable[[], None]:
        if not self.console.is_terminal:
            self.step(f"{text} over {total} pictures")
            return lambda: None
        progress = Progress(console=self.console)
        task = progress.add_task(text, total=total)
        progress.start()

        def advance() -> None:
            progress.advance(task)
            if progress.finished:
                progress.stop()

        return advance


@click.command("export")
@click.option(
    "--model",
    default="Marqo/nsfw-image-detection-384",
    show_default=True,
    help="Hub id of a ViT image classifier, or a folder with its checkpoint; with --engine "
    "openvino also the name of an installed bundle.",
)
@click.option(
    "--engine",
    type=click.Choice(["onnxruntime", "openvino"]),
    default="onnxruntime",
    show_default=True,
    help="openvino: int8 for OpenVINO, with ranges from --calibration-images or drawn pictures; "
    "needs the extra export-openvino.",
)
@click.option("--revision", help="Commit, tag or branch. [default: the pinned commit, else main]")
@click.option("--sha256", help="Expected hash of model.safetensors. [default: the pinned one]")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8", "both"]),
    default="int8",
    show_default=True,
    help="int8 carries float32 along and uses it near the cut-offs.",
)
@click.option(
    "--road",
    type=click.Choice(["lean", "optimum"]),
    help="lean: the fused graph, no PyTorch; optimum: PyTorch's export. [default: lean for ViTs]",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Bundle folder.")
@click.option(
    "--models-folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: load_settings(WorkerSettings).models_folder,
    show_default="AVATARMOD_MODELS_FOLDER",
    help="Where bundles lie; the name follows from the model.",
)
@click.option("--nsfw-labels", default="", help="Comma-separated labels that are explicit.")
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 0.99),
    help="Undone by the calibration. [default: as known of the model, else 0]",
)
@click.option(
    "--calibration-images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of pictures for the parity report. [default: synthetic ones]",
)
@click.option(
    "--pictures",
    type=click.IntRange(MIN_PICTURES),
    default=MIN_PICTURES,
    show_default=True,
    help="How many pictures the parity report compares.",
)
@click.option(
    "--reduced-range/--full-range",
    default=None,
    help="7-bit weights, which x86 without VNNI needs. [default: as this machine needs]",
)
@click.option(
    "--portable",
    is_flag=True,
    help="ONNX's own operators only, for GPUs and other execution providers; needs fp32.",
)
@click.option("--licence", help="Written into the bundle. [default: as pinned]")
@click.option("--random-weights", is_flag=True, hidden=True)
@click.option("--force", is_flag=True, help="Export again although the bundle is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the bundles' descriptions as JSON.")
def export(
    engine: str,
    precision: str,
    nsfw_labels: str,
    random_weights: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a bundle of an image classifier: one command from the hub to a verified model.

    HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are honoured.
    """
    if options["portable"] and precision != "fp32":
        raise click.UsageError("--portable needs --precision fp32")
    console = Console(stderr=True)
    if random_weights:
        options["model"] = str(_random_checkpoint(options["models_folder"]))
    request = Request(
        **options, nsfw_labels=tuple(part.strip() for part in nsfw_labels.split(",") if part)
    )
    bundles = []
    wanted: tuple[Any, ...] = ("int8", "fp32") if precision == "both" else (precision,)
    try:
        if engine == "openvino":
            bundles.append(export_openvino(request, _ConsoleReporter(console)))
            wanted = ()
        for one in wanted:
            out = request.out
            if out and precision == "both" and one == "fp32":
                out = out.with_name(f"{out.name}-fp32")
            changed = dataclasses.replace(request, precision=one, out=out)
            bundles.append(export_bundle(changed, _ConsoleReporter(console)))
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([bundle.description for bundle in bundles], indent=2))
        return
    for bundle in bundles:
        click.echo(_summary(bundle))


def _random_checkpoint(models_folder: Path) -> Path:
    from worker.model.export.random_checkpoint import write_random_checkpoint

    return write_random_checkpoint(models_folder / ".checkpoints" / "vit-tiny-384")


def _summary(bundle: Bundle) -> str:
    lines = [f"{bundle.id} in {bundle.folder}"]
    if bundle.random_weights:
        lines.append("  RANDOM WEIGHTS: its scores mean nothing")
    if bundle.parity:
        parity = bundle.parity
        lines.append(
            f"  {parity.pictures} pictures against {parity.reference}: probabilities differ by at "
            f"most {parity.max_error:.5f} (99 %: {parity.p99_error:.5f})"
        )
    lines.append(f"  use it: AVATARMOD_BUNDLE={bundle.folder}")
    return "\n".join(lines)
