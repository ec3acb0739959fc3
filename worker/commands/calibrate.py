"""`avatarmod calibrate`: fit a calibration to labelled pictures and put it into a new bundle."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click
import numpy as np
from matplotlib.axes import Axes
from rich.console import Console

from producer.errors import BundleError, ConfigurationError
from producer.logs import configure_logging
from producer.plain import counted
from producer.settings import load_settings
from worker.commands.dataset import Dataset, dataset_options
from worker.commands.terminal import html_option, print_rows, write_html
from worker.model.bundle import Bundle
from worker.model.calibration import calibration_to_dict
from worker.model.new_bundle import copy_bundle
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.accuracy import QUALITY_HEADER
from worker.tools.evaluation_page import reliability_chart
from worker.tools.page import chart, render
from worker.tools.recalibration import FITS, Fit, Method, TooFewPictures, recalibrate
from worker.tools.scoring import open_scorers


@click.command("calibrate")
@dataset_options
@click.option("--bundle", "name", help="Bundle to start from. Default: the one in use.")
@click.option("--method", type=click.Choice(["auto", *FITS]), default="auto", show_default=True)
@click.option("--as", "new_name", help="Name of the new bundle; without it nothing is written.")
@click.option("--anyway", is_flag=True, help="Write also what is no better on held-out pictures.")
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(
    dataset: Dataset,
    name: str | None,
    method: str,
    new_name: str | None,
    anyway: bool,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Fit probabilities to labelled pictures, check on held-out ones, write a new bundle.

    DATASET as for `avatarmod evaluate`. Labels from the ledger exist only for difficult pictures;
    a calibration fitted to them would be wrong for the others, so they are refused.
    """
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "calibrate")
    if dataset.is_ledger:
        raise click.UsageError(
            "the ledger has labels of gray pictures and of audited approvals only, which together "
            "are no fair sample; label pictures in folders instead"
        )
    # One model is calibrated; what another says of these pictures is nothing to it.
    policy = policy_in_use(settings).alone()
    # Without cut-offs: a calibration is fitted to the artefact's own scores.
    with (
        dataset.open(settings) as samples,
        open_scorers(settings, [name or settings.bundle], None) as [scorer],
    ):
        one = dataset.evaluate(settings, scorer, samples, policy)
    judged = [j for j in one.judged if j.scored.views]
    raw, labels = [j.scored.raw_score for j in judged], [j.explicit for j in judged]
    fit_and_write(
        settings, scorer.bundle, raw, labels, method, new_name, anyway, html_file, as_json
    )


@click.command("calibrate")
@click.argument("name")
@click.argument("scores", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--method", type=click.Choice(["auto", *FITS]), default="platt", show_default=True)
@click.option("--as", "new_name", required=True, help="Name of the bundle that carries the result.")
@click.option("--anyway", is_flag=True, help="Write also what is no better on held-out pictures.")
def calibrate_scores(name: str, scores: Path, method: str, new_name: str, anyway: bool) -> None:
    """Do what `avatarmod calibrate` does, from scores that are known already.

    SCORES is a CSV file with the columns raw_score (0 to 1, of this very bundle) and explicit
    (1 or 0).
    """
    settings = load_settings(WorkerSettings)
    bundle = Bundle.load(name, settings.models_folder)
    raw, labels = _read_scores(scores)
    fit_and_write(settings, bundle, raw, labels, method, new_name, anyway, None, as_json=False)


def fit_and_write(
    settings: WorkerSettings,
    bundle: Bundle,
    raw: Sequence[float],
    labels: Sequence[bool],
    method: str,
    new_name: str | None,
    anyway: bool,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Fit, say how good it is, and write a bundle where a name is given and the fit is better."""
    fits = fit_all(raw, labels, bundle, method)
    best = min(fits, key=lambda fit: fit.after.brier)
    write_html(html_file, lambda: to_page(best, bundle))
    if not as_json:
        _print(Console(), bundle, fits, best)
    written = _write(bundle, best, new_name, anyway, settings) if new_name else None
    if as_json:
        fits_json = [fit.to_json() for fit in fits]
        found = {"bundle": bundle.id, "fits": fits_json, "best": best.method}
        click.echo(json.dumps({**found, "written": written.id if written else None}))
    elif written is not None:
        click.echo(f"{written.id} in {written.folder}, fitted to {counted(len(raw), 'picture')}")


def fit_all(raw: Sequence[float], labels: Sequence[bool], bundle: Bundle, method: str) -> list[Fit]:
    """The asked kind of fit, or every kind that the data suffices for.

    Raises:
        ConfigurationError: too few pictures; says how many more are needed.
    """
    today = dt.datetime.now(dt.UTC).date().isoformat()
    fits, problem = [], None
    for kind in [cast("Method", method)] if method != "auto" else list(FITS):
        try:
            fits.append(recalibrate(raw, labels, bundle.calibration, kind, today))
        except TooFewPictures as error:
            problem = problem or error
        except ValueError as error:
            raise ConfigurationError(f"no calibration fits these pictures: {error}") from error
    if not fits:
        raise ConfigurationError(str(problem))
    return fits


def _write(
    bundle: Bundle, best: Fit, new_name: str, anyway: bool, settings: WorkerSettings
) -> Bundle:
    if not best.is_better and not anyway:
        raise click.ClickException(
            f"on held-out pictures it is no better (Brier {best.after.brier:.4f} "
            f"against {best.before.brier:.4f}); nothing was written; --anyway writes it"
        )
    fitted = calibration_to_dict(best.calibration)
    data = {**bundle.description, "name": new_name, "calibration": fitted}
    try:
        return copy_bundle(bundle, data, settings.models_folder / new_name)
    except BundleError as error:
        raise click.ClickException(str(error)) from error


def _print(console: Console, bundle: Bundle, fits: list[Fit], best: Fit) -> None:
    explicit = int(best.labels.sum())
    harmless = counted(len(best.labels) - explicit, "harmless picture")
    console.print(f"[bold]{bundle.id}[/], {explicit:,} explicit and {harmless}", highlight=False)
    rows: list[list[object]] = [["now", *best.before.cells]]
    rows += [[f"{fit.method}, on held-out pictures", *fit.after.cells] for fit in fits]
    print_rows(console, (["", *QUALITY_HEADER], rows))
    console.print(
        f"Best: {best.method}." if best.is_better else "None is better than what the bundle has.",
        style="green" if best.is_better else "yellow",
    )


def to_page(best: Fit, bundle: Bundle) -> str:
    """Before and after as one HTML file."""

    def mapping(axes: Axes) -> None:
        steps = np.linspace(0, 1, 201)
        for name, calibration in (("before", bundle.calibration), ("after", best.calibration)):
            axes.plot(steps, [calibration.probability(x) for x in steps], label=name)

    curve = chart("Calibration", mapping, x="raw score", y="probability", unit=True)
    return render(
        "calibration.html",
        title="Calibration",
        lead=f"{bundle.id}, {best.method}, {counted(len(best.labels), 'picture')}",
        charts=[
            reliability_chart(
                [
                    ("before", best.labels, best.now),
                    ("after, on held-out pictures", best.labels, best.held_out),
                ]
            ),
            (curve, "What the calibration does to the model's own number."),
        ],
        qualities=(
            ["", *QUALITY_HEADER],
            [["before", *best.before.cells], ["after, held out", *best.after.cells]],
        ),
        notes=[] if best.is_better else ["On held-out pictures it is no better than before."],
    )


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
