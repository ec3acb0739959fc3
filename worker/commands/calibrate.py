"""`avatarmod calibrate`: fit a calibration to labelled pictures and put it into a new bundle."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import cast

import click
from rich.console import Console

from producer.contract import Region
from producer.errors import ConfigurationError
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.bundle import Bundle
from worker.calibration import calibration_to_dict
from worker.commands.bundle import write_copy
from worker.commands.evaluate import dataset_options, open_dataset, open_scorers, progress_bar
from worker.commands.report import print_rows
from worker.policy import load_policy
from worker.settings import WorkerSettings
from worker.tools import accuracy
from worker.tools.evaluation import Evaluation, evaluate
from worker.tools.page import Page, Series, line_chart
from worker.tools.recalibration import FITS, Fit, Method, TooFewPictures, recalibrate
from worker.tools.words import counted


@click.command("calibrate")
@dataset_options
@click.option("--bundle", "name", help="Bundle to start from. Default: the one in use.")
@click.option("--method", type=click.Choice(["auto", *FITS]), default="auto", show_default=True)
@click.option("--as", "new_name", help="Name of the new bundle; without it nothing is written.")
@click.option("--anyway", is_flag=True, help="Write also what is no better on held-out pictures.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write before and after as one HTML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(
    dataset: str,
    explicit: tuple[str, ...],
    harmless: tuple[str, ...],
    harmless_only: bool,
    operators_only: bool,
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
    if dataset == "ledger":
        raise click.UsageError(
            "the ledger has labels of gray pictures only, which are no fair sample; label pictures "
            "in folders instead"
        )
    policy = load_policy(settings.policy_file)
    with contextlib.ExitStack() as stack:
        samples = stack.enter_context(
            open_dataset(settings, dataset, explicit, harmless, harmless_only, operators_only)
        )
        # Without cut-offs: a calibration is fitted to the artefact's own scores.
        [scorer] = open_scorers(stack, settings, [name or settings.bundle], ())
        with progress_bar(f"scoring with {scorer.bundle.name}", len(samples)) as progress:
            one = evaluate(scorer, samples, policy, Region.DOMESTIC, progress=progress)
    fits = fit_all(one, scorer.bundle, method)
    best = min(fits, key=lambda fit: fit.after.brier)
    if html_file is not None:
        html_file.write_text(to_page(one, best, scorer.bundle), encoding="utf-8")
        click.echo(f"wrote {html_file}", err=True)
    if not as_json:
        _print(Console(), scorer.bundle, fits, best)
    written = _write(scorer.bundle, best, new_name, anyway, settings) if new_name else None
    if as_json:
        fits_json = [fit.to_json() for fit in fits]
        found = {"bundle": scorer.bundle.id, "fits": fits_json, "best": best.method}
        click.echo(json.dumps({**found, "written": written.id if written else None}))
    elif written is not None:
        click.echo(f"{written.id} in {written.folder}")


def fit_all(one: Evaluation, bundle: Bundle, method: str) -> list[Fit]:
    """The asked kind of fit, or every kind that the data suffices for.

    Raises:
        ConfigurationError: too few pictures; says how many more are needed.
    """
    judged = [j for j in one.judged if j.scored.views]
    raw = [j.scored.raw_score for j in judged]
    labels = [j.explicit for j in judged]
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
    data = {
        **bundle.description,
        "name": new_name,
        "calibration": calibration_to_dict(best.calibration),
    }
    return write_copy(bundle, data, settings.models_folder / new_name)


def _print(console: Console, bundle: Bundle, fits: list[Fit], best: Fit) -> None:
    console.print(
        f"[bold]{bundle.id}[/], {best.explicit:,} explicit and "
        f"{counted(best.harmless, 'harmless picture')}",
        highlight=False,
    )
    header = ["", "Brier", "log loss", "calibration error"]

    def row(name: str, quality: object) -> list[object]:
        return [name, *(f"{v:.4f}" for v in dataclasses.astuple(quality))]  # type: ignore[call-overload]

    rows = [row("now", best.before)]
    rows += [row(f"{fit.method}, on held-out pictures", fit.after) for fit in fits]
    print_rows(console, header, rows)
    console.print(
        f"Best: {best.method}." if best.is_better else "None is better than what the bundle has.",
        style="green" if best.is_better else "yellow",
    )


def to_page(one: Evaluation, best: Fit, bundle: Bundle) -> str:
    """Before and after as one HTML file."""
    judged = [j for j in one.judged if j.scored.views]
    labels, now = accuracy.as_arrays([j.explicit for j in judged], [j.probability for j in judged])
    page = Page("Calibration", f"{bundle.id}, {best.method}, {counted(len(judged), 'picture')}")
    curves = []
    for name, values, colour in (
        ("before", now, "c2"),
        ("after, on held-out pictures", best.held_out, "c1"),
    ):
        bins = accuracy.reliability(labels, values)
        curves.append(
            Series(
                name,
                [(b.mean_probability, b.explicit.value or 0.0) for b in bins],
                colour,
                dots=True,
                band=[b.explicit.interval for b in bins],
                titles=[f"{counted(b.count, 'picture')}, {b.explicit}" for b in bins],
            )
        )
    curves.append(Series("right", [(0, 0), (1, 1)], "rejected", dashed=True))
    steps = [n / 200 for n in range(201)]
    mapping = [
        Series("before", [(x, bundle.calibration.probability(x)) for x in steps], "c2"),
        Series("after", [(x, best.calibration.probability(x)) for x in steps], "c1"),
    ]
    unit = (0.0, 1.0)
    page.figures(
        [
            (
                line_chart(
                    "Reliability",
                    curves,
                    x_label="probability said",
                    y_label="share explicit",
                    x_range=unit,
                    y_range=unit,
                ),
                "A calibrated model lies on the line; bands are 95 % intervals.",
            ),
            (
                line_chart(
                    "Raw score to probability",
                    mapping,
                    x_label="raw score",
                    y_label="probability",
                    x_range=unit,
                    y_range=unit,
                ),
                "What the calibration does to the model's own number.",
            ),
        ]
    )
    page.table(
        ["", "Brier", "log loss", "calibration error"],
        [
            [name, *(f"{v:.4f}" for v in dataclasses.astuple(quality))]
            for name, quality in (("before", best.before), ("after, held out", best.after))
        ],
    )
    if not best.is_better:
        page.text("On held-out pictures it is no better than before.", warns=True)
    return page.render()
