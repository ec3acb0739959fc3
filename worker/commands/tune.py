"""`avatarmod tune`: which cut-offs meet a target, and what they cost; or: what would change."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from producer.contract import Region, Verdict
from producer.errors import ModerationError
from producer.images import Images
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.commands.evaluate import dataset_options, open_dataset, open_scorers, progress_bar
from worker.commands.report import print_rows
from worker.policy import Policy, load_policy
from worker.settings import WorkerSettings
from worker.tools.dataset import Labelled
from worker.tools.evaluation import Evaluation, evaluate
from worker.tools.evaluation_page import blurred_thumbnail
from worker.tools.page import Page
from worker.tools.report import percent
from worker.tools.route_prices import prices, route_price, routes
from worker.tools.scoring import Scorer
from worker.tools.tuning import (
    Limits,
    Sample,
    Traffic,
    apply,
    frontier,
    lacking,
    search,
)
from worker.tools.tuning_page import Result, money_rows, policy_file, setting_rows, to_page
from worker.tools.what_if import Change, WhatIf, what_if
from worker.tools.words import counted

#: Where the ledger has less than a day of uploads.
ASSUMED_UPLOADS_PER_DAY = 5000.0

#: Changed pictures that the page of a what-if shows.
SHOWN_CHANGES = 60


@click.command("tune")
@dataset_options
@click.option("--bundle", "name", help="Bundle to tune for. Default: the one in use.")
@click.option(
    "--max-false-blocks",
    type=click.FloatRange(0, 100),
    default=0.1,
    show_default=True,
    help="Most harmless pictures blocked, in percent.",
)
@click.option(
    "--max-missed",
    type=click.FloatRange(0, 100),
    default=2.0,
    show_default=True,
    help="Most explicit pictures approved, in percent.",
)
@click.option("--max-yuan", type=click.FloatRange(0), help="Most money a month for providers.")
@click.option(
    "--cautious", is_flag=True, help="Hold the upper ends of the 95 % intervals to the limits."
)
@click.option(
    "--uploads-per-day",
    type=click.FloatRange(0),
    help="Default: as measured in the ledger, else 5,000.",
)
@click.option(
    "--explicit-share",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="Explicit pictures among your uploads, in percent; data sets do not tell.",
)
@click.option(
    "--what-if",
    "proposed_file",
    type=click.Path(exists=True, path_type=Path),
    help="Compare this policy with the present one; DATASET is the word ledger.",
)
@click.option(
    "--write",
    "policy_out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the cut-offs that were found as a policy file.",
)
@click.option(
    "--unverified",
    is_flag=True,
    help="Accept cut-offs that the labels are too few to verify; the policy file says so.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write one self-contained HTML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune(
    dataset: str,
    explicit: tuple[str, ...],
    harmless: tuple[str, ...],
    harmless_only: bool,
    operators_only: bool,
    name: str | None,
    max_false_blocks: float,
    max_missed: float,
    max_yuan: float | None,
    cautious: bool,
    uploads_per_day: float | None,
    explicit_share: float,
    proposed_file: Path | None,
    policy_out: Path | None,
    unverified: bool,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Find the cut-offs that meet a target with the fewest gray pictures.

    DATASET as for `avatarmod evaluate`. Exit code 1, and nothing is written, when no cut-offs meet
    the target or the labels are too few to verify it: 3 / target pictures of the label, so 3,000
    harmless ones for 0.1 % and 150 explicit ones for 2 %.
    """
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "tune")
    present = load_policy(settings.policy_file)
    if proposed_file is not None:
        if dataset != "ledger":
            raise click.UsageError("--what-if compares on the ledger: avatarmod tune ledger ...")
        _what_if(settings, present, load_policy(proposed_file), html_file, as_json)
        return
    measured, regions = measured_traffic(settings)
    ways = routes(settings, regions)
    traffic = Traffic(
        uploads_per_day=uploads_per_day or measured or ASSUMED_UPLOADS_PER_DAY,
        explicit_share=explicit_share / 100,
        yuan_per_1000=prices(settings, ways),
        route_yuan_per_1000=route_price(ways),
    )
    limits = Limits(
        false_blocks=max_false_blocks / 100,
        misses=max_missed / 100,
        yuan_per_month=math.inf if max_yuan is None else max_yuan,
        cautious=cautious,
    )
    with contextlib.ExitStack() as stack:
        samples = stack.enter_context(
            open_dataset(settings, dataset, explicit, harmless, harmless_only, operators_only)
        )
        [scorer] = open_scorers(stack, settings, [name or settings.bundle], present.boundaries())
        with progress_bar(f"scoring with {scorer.bundle.name}", len(samples)) as progress:
            one = evaluate(scorer, samples, present, Region.DOMESTIC, progress=progress)
    sample = to_sample(one)
    result = Result(
        one=one,
        now=apply(sample, present.photo, present.drawn, traffic),
        found=search(sample, present, traffic, limits),
        points=frontier(sample, present, traffic),
        lacks=lacking(sample, limits),
        traffic=traffic,
        ways=ways,
        limits=limits,
        guessed=not (uploads_per_day or measured),
    )
    if html_file is not None:
        html_file.write_text(to_page(result), encoding="utf-8")
        click.echo(f"wrote {html_file}", err=True)
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        _print(Console(), result)
    if result.found is None:
        raise click.ClickException(result.no_solution)
    if result.lacks and not unverified:
        raise click.ClickException(
            f"{result.unverified}; label more, or accept that with --unverified"
        )
    if policy_out is not None:
        policy_out.write_text(policy_file(result, result.found, present), encoding="utf-8")
        click.echo(f"wrote {policy_out}{', unverified' if result.lacks else ''}", err=True)


def measured_traffic(settings: WorkerSettings) -> tuple[float | None, dict[str, int]]:
    """(uploads a day over the ledger's last 30 days, uploads by region).

    None with less than a day of them; no region where there is no ledger.
    """
    from worker.ledger import Ledger

    try:
        ledger = Ledger.open(settings)
    except ModerationError:
        return None, {}
    try:
        span, regions = ledger.span(), ledger.regions()
        if span is None or span[1] - span[0] < 86400:
            return None, regions
        start = max(span[0], span[1] - 30 * 86400)
        uploads = ledger.count(start, span[1] + 1).uploads
        return uploads / ((span[1] - start) / 86400), regions
    finally:
        ledger.close()


def to_sample(one: Evaluation) -> Sample:
    """An evaluation's pictures as arrays."""
    return Sample(
        probability=np.asarray([j.probability for j in one.judged], dtype=np.float64),
        explicit=np.asarray([j.explicit for j in one.judged], dtype=bool),
        drawn=np.asarray([j.style == "drawn" for j in one.judged], dtype=bool),
        decided=np.asarray([not j.scored.views for j in one.judged], dtype=bool),
    )


def _print(console: Console, result: Result) -> None:
    console.print(f"[bold]{result.one.bundle}[/], {result.headline}", highlight=False)
    print_rows(console, *setting_rows(result.named))
    console.print(result.priced, highlight=False)
    print_rows(console, *money_rows(result.named))
    console.print("The frontier: none of these is better in everything.")
    points = enumerate(result.points, 1)
    print_rows(console, *setting_rows([(str(n), point) for n, point in points]))
    for sentence in result.one.unknowns():
        console.print(sentence, style="yellow")


# -- what if -----------------------------------------------------------------------------------


def _what_if(
    settings: WorkerSettings,
    present: Policy,
    proposed: Policy,
    html_file: Path | None,
    as_json: bool,
) -> None:
    from worker.ledger import Ledger

    with contextlib.ExitStack() as stack:
        ledger, images = Ledger.open(settings), Images(settings)
        stack.callback(ledger.close)
        stack.callback(images.close)
        [scorer] = open_scorers(stack, settings, [settings.bundle], ())
        references = {
            row["upload_id"]: str(row["detail"].get("image", ""))
            for row in ledger.stream(kind="transition")
            if not row["from_state"]
        }

        def drawn(row: dict[str, object]) -> float | None:
            upload_id = str(row["upload_id"])
            try:
                return scorer.score(images.fetch(references.get(upload_id, ""), upload_id)).drawn
            except ModerationError:
                return None

        found = what_if(ledger.judged(), references, present, proposed, drawn)
        if html_file is not None:
            html_file.write_text(_what_if_page(found, scorer, images), encoding="utf-8")
            click.echo(f"wrote {html_file}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    console = Console()
    print_rows(console, *_what_if_rows(found))
    before, after = found.gray_shares()
    console.print(f"Gray share: {percent(before)} now, {percent(after)} then.", highlight=False)
    if found.unknown or found.other_bundle:
        console.print(
            f"Left out: {found.unknown} whose style cannot be told any more, {found.other_bundle} "
            f"judged by another bundle than {found.bundle}.",
            style="yellow",
        )


def _what_if_rows(found: WhatIf) -> tuple[list[str], list[list[object]]]:
    rows: list[list[object]] = [
        [f"now {before}", *(found.counts.get((before, after), 0) for after in Verdict)]
        for before in Verdict
    ]
    rows.append(["newly", *(found.newly(after) for after in Verdict)])
    return [counted(found.looked, "upload"), *(f"then {after}" for after in Verdict)], rows


def _what_if_page(found: WhatIf, scorer: Scorer, images: Images) -> str:
    page = Page("What if", f"{counted(found.looked, 'upload')} judged by {found.bundle}, twice")
    page.table(*_what_if_rows(found))
    for verdict in Verdict:
        changes = [change for change in found.changes if change.after == verdict]
        if not changes:
            continue
        page.heading(f"Newly {verdict}: {found.newly(verdict):,}")
        page.pictures([_picture(change, scorer, images) for change in changes[:SHOWN_CHANGES]])
    return page.render()


def _picture(change: Change, scorer: Scorer, images: Images) -> tuple[str, str, str]:
    labelled = Labelled(
        name=change.upload_id,
        read=lambda: images.fetch(change.image, change.upload_id),
        explicit=False,
    )
    return (
        blurred_thumbnail(scorer, labelled),
        f"{change.probability:.3f} {change.before} → {change.after}",
        f"{change.upload_id} {change.style}",
    )
