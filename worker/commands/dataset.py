"""The argument and options by which `evaluate`, `calibrate` and `tune` take labelled pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from producer.contract import Region
from producer.errors import ConfigurationError
from producer.images import Images
from worker.commands.terminal import progress_bar
from worker.moderation.policy import Policy
from worker.settings import WorkerSettings
from worker.tools.dataset import Labelled, Words, all_harmless, from_ledger, read_dataset
from worker.tools.evaluation import Evaluation, evaluate
from worker.tools.scoring import Scorer

#: What stands for the ledger instead of a path.
LEDGER = "ledger"

OPTIONS = (
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
        is_flag=True,
        help="No picture below DATASET is explicit, whatever its folder is called.",
    ),
    click.option(
        "--operators-only",
        is_flag=True,
        help="From the ledger: leave out what only a provider said.",
    ),
    click.option(
        "--region",
        type=click.Choice([str(region) for region in Region]),
        help="Whose cut-offs judge the pictures. Default: AVATARMOD_DEFAULT_REGION.",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What was asked for on the command line."""

    name: str
    words: tuple[Sequence[str], Sequence[str]]
    all_harmless: bool
    operators_only: bool
    region: str | None

    @property
    def is_ledger(self) -> bool:
        """Labels of people and providers instead of a folder's."""
        return self.name == LEDGER

    def region_of(self, settings: WorkerSettings) -> Region:
        """Whose cut-offs apply."""
        return Region(self.region) if self.region else settings.default_region

    @contextlib.contextmanager
    def open(self, settings: WorkerSettings) -> Iterator[list[Labelled]]:
        """Labelled pictures of a folder, a manifest or the ledger.

        Raises:
            ConfigurationError: no picture is in it, or a label is not understood.
        """
        if self.is_ledger:
            with self._from_ledger(settings) as found:
                yield found
            return
        path = Path(self.name)
        if not path.exists():
            raise click.UsageError(f"no folder or file {path}; or write: {LEDGER}")
        found = all_harmless(path) if self.all_harmless else read_dataset(path, self._words())
        if not found:
            raise ConfigurationError(f"no pictures in {path}")
        yield found

    def evaluate(
        self,
        settings: WorkerSettings,
        scorer: Scorer,
        samples: Sequence[Labelled],
        policy: Policy,
    ) -> Evaluation:
        """Score and judge all of it, with a bar of progress."""
        with progress_bar(f"scoring with {scorer.bundle.name}", len(samples)) as progress:
            region = self.region_of(settings)
            return evaluate(scorer, samples, policy, region, progress=progress)

    def _words(self) -> Words:
        return Words.with_more(*self.words)

    @contextlib.contextmanager
    def _from_ledger(self, settings: WorkerSettings) -> Iterator[list[Labelled]]:
        from worker.ledger.writer import Ledger

        with contextlib.ExitStack() as stack:
            ledger, images = Ledger.open(settings), Images(settings)
            stack.callback(ledger.close)
            stack.callback(images.close)
            found = from_ledger(ledger, images.fetch, operators_only=self.operators_only)
            if not found:
                raise ConfigurationError(
                    "the ledger has no verdict of a person or a provider yet; label pictures in "
                    "folders instead, or review some in the console"
                )
            yield found


def dataset_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and the options; the command gets one `dataset`."""

    @functools.wraps(command)
    def with_dataset(
        *,
        dataset: str,
        explicit: tuple[str, ...],
        harmless: tuple[str, ...],
        all_harmless: bool,
        operators_only: bool,
        region: str | None,
        **others: Any,
    ) -> Any:
        asked = Dataset(
            name=dataset,
            words=(explicit, harmless),
            all_harmless=all_harmless,
            operators_only=operators_only,
            region=region,
        )
        return command(dataset=asked, **others)

    for decorate in reversed(OPTIONS):
        with_dataset = decorate(with_dataset)
    return with_dataset
