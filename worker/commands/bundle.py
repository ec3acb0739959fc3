"""`avatarmod bundle`: which models are here, what they are, whether they are intact."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from producer.errors import BundleError, ConfigurationError
from producer.settings import load_settings
from worker.bundle import (
    CURRENT,
    DESCRIPTION_FILE,
    SHIPPED_FOLDER,
    Bundle,
    list_bundles,
    promote,
    roll_back,
)
from worker.calibration import calibration_to_dict, fit_isotonic, fit_platt
from worker.settings import WorkerSettings


@click.group("bundle")
def bundle() -> None:
    """List, show, verify and calibrate model bundles."""


@bundle.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Show every bundle and whether its files are intact."""
    settings = _settings()
    rows = [_row(name, settings) for name in list_bundles(settings.models_folder)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold")
    for column in ("", "name", "id", "licence", "state"):
        table.add_column(column, overflow="fold")
    for row in rows:
        mark = "→" if row["in_use"] else ""
        table.add_row(mark, row["name"], row["id"] or "", row["licence"] or "", row["state"])
    Console().print(table)


@bundle.command("show")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print model.json.")
def show_command(name: str | None, as_json: bool) -> None:
    """Tell everything about one bundle (default: the one in use)."""
    settings = _settings()
    found = _load(name or settings.bundle, settings)
    if as_json:
        click.echo(json.dumps({"id": found.id, **found.description}, indent=2))
        return
    table = Table(box=None, show_header=False)
    for key, value in _facts(found).items():
        table.add_row(f"[bold]{key}[/bold]", value)
    Console().print(table)


@bundle.command("verify")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(name: str | None, as_json: bool) -> None:
    """Check every hash, load the model, score its probe and choose the micro-batch."""
    from worker.engine import Engine

    settings = _settings()
    found = _load(name or settings.bundle, settings)
    try:
        engine = Engine(
            found,
            execution_providers=settings.execution_providers,
            threads=settings.threads,
            micro_batch=settings.micro_batch,
            max_rss_mb=settings.max_rss_mb,
        )
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"intact": True, **engine.description}, indent=2))
        return
    click.echo(f"{found.id} is intact and works here")
    for key, value in engine.description.items():
        if key != "bundle":
            click.echo(f"  {key.replace('_', ' ')}: {_text(value)}")


@bundle.command("promote")
@click.argument("name")
def promote_command(name: str) -> None:
    """Make a bundle the one in use; workers with AVATARMOD_BUNDLE=current take it up at once."""
    settings = _settings()
    try:
        found = promote(name, settings.models_folder)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"current in {settings.models_folder.resolve()} is {found.id}")
    _say_how(settings)


@bundle.command("rollback")
def rollback_command() -> None:
    """Go back to the bundle before the last promotion."""
    settings = _settings()
    try:
        found = roll_back(settings.models_folder)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"current in {settings.models_folder.resolve()} is {found.id}")
    _say_how(settings)


def _say_how(settings: WorkerSettings) -> None:
    if settings.bundle != CURRENT:
        click.echo(
            f"AVATARMOD_BUNDLE is {settings.bundle!r}: set it to {CURRENT!r} once, so that workers "
            "follow promotions",
            err=True,
        )


@bundle.command("calibrate")
@click.argument("name")
@click.argument("scores", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--method", type=click.Choice(["platt", "isotonic"]), default="platt", show_default=True
)
@click.option("--as", "new_name", required=True, help="Name of the bundle that carries the result.")
def calibrate_command(name: str, scores: Path, method: str, new_name: str) -> None:
    """Fit a calibration to labelled scores and store it in a copy of the bundle.

    SCORES is a CSV file with the columns raw_score (0 to 1, of this very bundle) and explicit
    (1 or 0).
    """
    settings = _settings()
    found = _load(name, settings)
    raw, explicit = _read_scores(scores)
    fit = fit_platt if method == "platt" else fit_isotonic
    try:
        fitted = fit(raw, explicit, datetime.now(UTC).date().isoformat())
    except ValueError as error:
        raise click.ClickException(f"{scores}: {error}") from error
    data = {**found.description, "name": new_name, "calibration": calibration_to_dict(fitted)}
    made = write_copy(found, data, settings.models_folder / new_name)
    click.echo(f"{made.id} in {made.folder}, fitted to {len(raw)} pictures")


def write_copy(original: Bundle, data: dict[str, Any], target: Path) -> Bundle:
    """Make a bundle with the files of another and its own description, or nothing at all."""
    if target.exists():
        raise click.ClickException(f"{target} exists already; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for path in filter(None, (original.model_path, original.reference_path)):
            if path.parent == original.folder:
                shutil.copy2(path, work / path.name)
        text = json.dumps(data, indent=2) + "\n"
        (work / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
        Bundle.load(f"{work}/", Path())
        work.chmod(0o755)
        os.rename(work, target)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle.load(f"{target}/", Path())


def _read_scores(path: Path) -> tuple[list[float], list[bool]]:
    raw, explicit = [], []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                score = float(row["raw_score"])
                label = {"1": True, "0": False}[row["explicit"].strip()]
            except (KeyError, TypeError, ValueError, AttributeError):
                score, label = -1.0, False
            if not 0 <= score <= 1:
                raise click.ClickException(
                    f"{path}, line {number}: needs raw_score from 0 to 1 and explicit 0 or 1"
                )
            raw.append(score)
            explicit.append(label)
    return raw, explicit


def _settings() -> WorkerSettings:
    try:
        return load_settings(WorkerSettings)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _load(name: str, settings: WorkerSettings) -> Bundle:
    try:
        return Bundle.load(name, settings.models_folder)
    except BundleError as error:
        raise click.ClickException(str(error)) from error


def _row(name: str, settings: WorkerSettings) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "in_use": name == settings.bundle, "id": None}
    try:
        found = Bundle.load(name, settings.models_folder)
    except BundleError as error:
        return {**row, "licence": None, "state": str(error)}
    state = "intact, RANDOM WEIGHTS" if found.random_weights else "intact"
    return {**row, "id": found.id, "licence": found.licence, "state": state}


def _facts(found: Bundle) -> dict[str, str]:
    spec = found.input
    where = "shipped" if found.folder.parent == SHIPPED_FOLDER else str(found.folder)
    facts = {
        "id": found.id,
        "source": found.source,
        "revision": found.revision,
        "licence": found.licence,
        "folder": where,
        "explicit labels": f"{', '.join(found.nsfw_labels)} of {', '.join(found.labels)}",
        "input": f"{spec.width_px} x {spec.height_px}, {spec.resize} to {spec.resize_px}, "
        f"{spec.interpolation}",
        "precision": found.precision,
        "calibration": _text(calibration_to_dict(found.calibration)),
    }
    if found.random_weights:
        facts["warning"] = "RANDOM WEIGHTS: its scores mean nothing"
    if found.parity:
        parity = found.parity
        facts["parity"] = (
            f"max {parity.max_error:.5f}, 99 % {parity.p99_error:.5f} over {parity.pictures} "
            f"pictures, against {parity.reference}"
        )
        facts["guard band"] = f"{parity.guard_band:g} logits; {_text(parity.details)}"
    return facts


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
