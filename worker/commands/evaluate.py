"""`avatarmod evaluate`: how right bundles are on labelled pictures."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from producer.logs import configure_logging
from producer.settings import load_settings
from worker.commands.dataset import Dataset, dataset_options
from worker.commands.terminal import html_option, print_rows, write_html
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.evaluation import Evaluation
from worker.tools.evaluation_page import rate_rows, score_rows, to_page
from worker.tools.scoring import open_scorers


@click.command("evaluate")
@dataset_options
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    metavar="NAME",
    help="Bundle to evaluate, or a pair such as open-nsfw+image-safety-s (+none: alone); several "
    "stand side by side. Default: what is in use.",
)
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, path_type=Path),
    help="Policy file instead of the one in use.",
)
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate_command(
    dataset: Dataset,
    bundles: tuple[str, ...],
    policy_file: Path | None,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Score labelled pictures and measure how right the model is.

    DATASET is a folder with a folder per label (harmless, explicit, ...), a CSV file with the
    columns path and label (and style), or the word `ledger`: what people and providers said.
    Every picture is scored once and remembered.
    """
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "evaluate")
    policy = policy_in_use(settings, policy_file)
    names = bundles or (settings.bundle,)
    with (
        dataset.open(settings) as samples,
        open_scorers(settings, names, policy) as scorers,
    ):
        evaluations = [
            dataset.evaluate(settings, one, samples, one.policy or policy) for one in scorers
        ]
        photo, _ = policy.cut_offs(dataset.region_of(settings))
        write_html(html_file, lambda: to_page(evaluations, scorers, photo))
    if as_json:
        click.echo(json.dumps({"evaluations": [one.to_json() for one in evaluations]}))
    else:
        for one in evaluations:
            print_evaluation(Console(), one)


def print_evaluation(console: Console, one: Evaluation) -> None:
    """For people."""
    console.print(f"[bold]{one.judges}[/], policy {one.policy}", highlight=False)
    print_rows(console, rate_rows(one))
    print_rows(console, score_rows(one))
    if left_out := one.left_out():
        console.print(f"Left out: {left_out}.", highlight=False)
    for sentence in one.unknowns():
        console.print(sentence, style="yellow")
