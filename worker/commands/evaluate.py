"""`avatarmod evaluate`: how right bundles are on labelled pictures."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from producer.contract import Region
from producer.errors import ConfigurationError
from producer.images import Images
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.bundle import Bundle
from worker.commands.report import print_rows
from worker.policy import load_policy
from worker.settings import WorkerSettings
from worker.tools.dataset import Labelled, Words, all_harmless, from_ledger, read_dataset
from worker.tools.evaluation import Evaluation, evaluate
from worker.tools.evaluation_page import rate_rows, score_rows, to_page
from worker.tools.scoring import Scorer, score_memory

#: What stands for the ledger instead of a path.
LEDGER = "ledger"


def dataset_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the options by which every command here takes labelled pictures."""
    for decorate in reversed(
        (
            click.argument("dataset"),
            click.option(
                "--explicit",
                multiple=True,
                metavar="WORD",
                help="One more folder name or label that says explicit.",
            ),
            click.option(
                "--harmless",
                multiple=True,
                metavar="WORD",
                help="One more folder name or label that says harmless.",
            ),
            click.option(
                "--all-harmless",
                "harmless_only",
                is_flag=True,
                help="No picture below DATASET is explicit, whatever its folder is called.",
            ),
            click.option(
                "--operators-only",
                is_flag=True,
                help="From the ledger: leave out what only a provider said.",
            ),
        )
    ):
        command = decorate(command)
    return command


@contextlib.contextmanager
def open_dataset(
    settings: WorkerSettings,
    dataset: str,
    explicit: tuple[str, ...],
    harmless: tuple[str, ...],
    harmless_only: bool,
    operators_only: bool,
) -> Iterator[list[Labelled]]:
    """Labelled pictures of a folder, a manifest or the ledger."""
    if dataset == LEDGER:
        from worker.ledger import Ledger

        ledger, images = Ledger.open(settings), Images(settings)
        try:
            found = from_ledger(ledger, images.fetch, operators_only=operators_only)
            if not found:
                raise ConfigurationError(
                    "the ledger has no verdict of a person or a provider yet; label pictures in "
                    "folders instead, or review some in the console"
                )
            yield found
        finally:
            images.close()
            ledger.close()
        return
    path = Path(dataset)
    if not path.exists():
        raise click.UsageError(f"no folder or file {dataset}; or write: {LEDGER}")
    if harmless_only:
        samples = all_harmless(path)
        if not samples:
            raise ConfigurationError(f"no pictures in {path}")
        yield samples
        return
    yield read_dataset(path, Words.with_more(explicit, harmless))


@click.command("evaluate")
@dataset_options
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    metavar="NAME",
    help="Bundle to evaluate; several stand side by side. Default: the one in use.",
)
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, path_type=Path),
    help="Policy file instead of the one in use.",
)
@click.option("--region", type=click.Choice([str(r) for r in Region]), help="Whose cut-offs apply.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write one self-contained HTML file with plots.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate_command(
    dataset: str,
    explicit: tuple[str, ...],
    harmless: tuple[str, ...],
    harmless_only: bool,
    operators_only: bool,
    bundles: tuple[str, ...],
    policy_file: Path | None,
    region: str | None,
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
    policy = load_policy(policy_file or settings.policy_file)
    place = Region(region) if region else settings.default_region
    with contextlib.ExitStack() as stack:
        samples = stack.enter_context(
            open_dataset(settings, dataset, explicit, harmless, harmless_only, operators_only)
        )
        scorers = open_scorers(stack, settings, bundles or (settings.bundle,), policy.boundaries())
        evaluations = []
        for scorer in scorers:
            with progress_bar(f"scoring with {scorer.bundle.name}", len(samples)) as progress:
                evaluations.append(evaluate(scorer, samples, policy, place, progress=progress))
        if html_file is not None:
            html_file.write_text(to_page(evaluations, scorers, policy), encoding="utf-8")
            click.echo(f"wrote {html_file}", err=True)
    if as_json:
        click.echo(json.dumps({"evaluations": [one.to_json() for one in evaluations]}))
    else:
        for one in evaluations:
            print_evaluation(Console(), one)


def open_scorers(
    stack: contextlib.ExitStack,
    settings: WorkerSettings,
    names: Sequence[str],
    cut_offs: Sequence[float],
) -> list[Scorer]:
    """One scorer a bundle, all with the same memory; closed with the stack."""
    memory = stack.enter_context(score_memory(settings))
    bundles = [Bundle.load(name, settings.models_folder) for name in names]
    return [stack.enter_context(Scorer(settings, bundle, memory, cut_offs)) for bundle in bundles]


@contextlib.contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on standard error; gives a function that is told how many are done."""
    with Progress(
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


def print_evaluation(console: Console, one: Evaluation) -> None:
    """For people."""
    console.print(f"[bold]{one.bundle}[/], policy {one.policy}", highlight=False)
    print_rows(console, *rate_rows(one))
    print_rows(console, *score_rows(one))
    if left_out := one.left_out():
        console.print(f"Left out: {left_out}.", highlight=False)
    for sentence in one.unknowns():
        console.print(sentence, style="yellow")
