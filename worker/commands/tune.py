"""`avatarmod tune`: which cut-offs meet a target, and what they cost; or: what would change."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from producer.contract import Verdict
from producer.errors import ModerationError
from producer.images import Images
from producer.logs import configure_logging
from producer.plain import counted
from producer.settings import load_settings
from worker.commands.dataset import Dataset, dataset_options
from worker.commands.terminal import html_option, print_rows, write_html
from worker.moderation.panel import SecondScore, combine
from worker.moderation.policy import Policy
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.accuracy import Bools
from worker.tools.evaluation import Evaluation, arrays
from worker.tools.figures import Table, percent, unit
from worker.tools.misses import Misses
from worker.tools.page import blurred_thumbnail, render
from worker.tools.panel_tuning import search_both
from worker.tools.policies import PROPOSAL_FILE
from worker.tools.route_prices import prices, route_price, routes
from worker.tools.scoring import Scorer, as_pair, open_scorers
from worker.tools.tuning import Limits, Sample, Traffic, apply, frontier, lacking
from worker.tools.tuning_page import (
    Result,
    money_rows,
    panel_rows,
    policy_file,
    setting_rows,
    to_page,
)
from worker.tools.what_if import Change, WhatIf, what_if

#: Where the ledger has less than a day of uploads.
ASSUMED_UPLOADS_PER_DAY = 5000.0

#: Changed pictures that the page of a what-if shows.
SHOWN_CHANGES = 60


@click.command("tune")
@dataset_options
@click.option(
    "--bundle", "name", help="Bundle to tune for, or a pair such as a+b. Default: in use."
)
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
@click.option("--propose", is_flag=True, help="Show what was found in the console.")
@click.option(
    "--unverified",
    is_flag=True,
    help="Accept cut-offs that the labels are too few to verify; the policy file says so.",
)
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune(
    dataset: Dataset,
    name: str | None,
    max_false_blocks: float,
    max_missed: float,
    max_yuan: float | None,
    cautious: bool,
    uploads_per_day: float | None,
    explicit_share: float,
    proposed_file: Path | None,
    policy_out: Path | None,
    propose: bool,
    unverified: bool,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Find the cut-offs, and the second model's numbers, that leave the fewest pictures gray.

    DATASET as for `avatarmod evaluate`. Exit code 1, and nothing is written, when no cut-offs meet
    the target or the labels are too few to verify it: 3 / target pictures of the label, so 3,000
    harmless ones for 0.1 % and 150 explicit ones for 2 %.
    """
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "tune")
    bundle, present = as_pair(name or settings.bundle, policy_in_use(settings))
    if proposed_file is not None:
        if not dataset.is_ledger:
            raise click.UsageError("--what-if compares on the ledger: avatarmod tune ledger ...")
        _what_if(settings, present, policy_in_use(settings, proposed_file), html_file, as_json)
        return
    region = dataset.region_of(settings)
    photo, drawn = present.cut_offs(region)
    here = dataclasses.replace(present, photo=photo, drawn=drawn)
    measured, regions, misses = measured_traffic(settings)
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
        unit=unit(settings.currency),
    )
    with (
        dataset.open(settings) as samples,
        open_scorers(settings, [bundle], present) as [scorer],
    ):
        one = dataset.evaluate(settings, scorer, samples, present)
    sample = to_sample(one, here)
    found = search_both(
        lambda rules: to_sample(one, dataclasses.replace(here, second=rules)), here, traffic, limits
    )
    now = apply(sample, photo, drawn, traffic)
    result = Result(
        one=one,
        region=region,
        now=dataclasses.replace(now, second=here.second),
        found=found,
        points=frontier(sample, here, traffic),
        misses=misses,
        lacks=lacking(sample, limits),
        traffic=traffic,
        ways=ways,
        limits=limits,
        guessed=not (uploads_per_day or measured),
    )
    write_html(html_file, lambda: to_page(result))
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
    if propose:
        policy_out = settings.data_folder / PROPOSAL_FILE
        click.echo("the console shows it under Thresholds", err=True)
    if policy_out is not None:
        policy_out.write_text(policy_file(result, result.found, present), encoding="utf-8")
        click.echo(f"wrote {policy_out}{', unverified' if result.lacks else ''}", err=True)


def measured_traffic(settings: WorkerSettings) -> tuple[float | None, dict[str, int], Misses]:
    """(uploads a day over the ledger's last 30 days, uploads by region, what audits found).

    None with less than a day of them; no region where there is no ledger.
    """
    from worker.ledger.writer import Ledger

    try:
        ledger = Ledger.open(settings)
    except ModerationError:
        return None, {}, Misses(answers=())
    try:
        span, regions = ledger.span(), ledger.regions()
        misses = Misses(answers=ledger.audits(0.0, math.inf))
        if span is None or span[1] - span[0] < 86400:
            return None, regions, misses
        start = max(span[0], span[1] - 30 * 86400)
        uploads = ledger.count(start, span[1] + 1).uploads
        return uploads / ((span[1] - start) / 86400), regions, misses
    finally:
        ledger.close()


def to_sample(one: Evaluation, policy: Policy) -> Sample:
    """An evaluation's pictures as arrays, with what the policy's second model makes of each."""
    labels, probabilities = arrays(one.judged)

    def both(first: Verdict, verdict: Verdict) -> Bools:
        rules = policy.second
        said = (
            combine(first, j.probability, j.second, rules, is_drawn=j.drawn)[0] for j in one.judged
        )
        return np.asarray([each == verdict for each in said], dtype=bool)

    return Sample(
        probability=probabilities,
        explicit=labels,
        drawn=np.asarray([j.drawn for j in one.judged], dtype=bool),
        decided=np.asarray([j.judgement.by_rule for j in one.judged], dtype=bool),
        vetoed=both(Verdict.APPROVED, Verdict.GRAY),
        cleared=both(Verdict.GRAY, Verdict.APPROVED),
        joint=both(Verdict.GRAY, Verdict.BLOCKED),
        disputed=both(Verdict.BLOCKED, Verdict.GRAY),
    )


def _print(console: Console, result: Result) -> None:
    console.print(f"[bold]{result.one.judges}[/], {result.headline}", highlight=False)
    print_rows(console, setting_rows(result.named, result.limits.unit))
    header, rows = panel_rows(result.named)
    if rows:
        print_rows(console, (header, rows))
    for sentence in result.misses.sentences():
        console.print(sentence, highlight=False)
    console.print(result.priced, highlight=False)
    print_rows(console, money_rows(result.named, result.limits.unit))
    console.print("The frontier: none of these is better in everything.")
    print_rows(console, setting_rows(result.frontier, result.limits.unit))
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
    from worker.ledger.writer import Ledger

    with contextlib.ExitStack() as stack:
        ledger, images = Ledger.open(settings), Images(settings)
        stack.callback(ledger.close)
        stack.callback(images.close)
        [scorer] = stack.enter_context(open_scorers(settings, [settings.bundle], None))
        asked = [policy for policy in (present, proposed) if policy.second.ask != "off"]
        beside = {
            policy.second.bundle: stack.enter_context(
                open_scorers(settings, [settings.bundle], policy)
            )[0]
            for policy in asked
        }
        references = {
            row["upload_id"]: str(row["detail"].get("image", ""))
            for row in ledger.stream(kind="transition")
            if not row["from_state"]
        }

        def drawn(row: dict[str, object]) -> float | None:
            upload_id = str(row["upload_id"])
            try:
                data = images.fetch(references.get(upload_id, ""), upload_id)
                scored = scorer.score(data)
                # A small picture is judged as a drawing is.
                return 1.0 if scored.is_small else scorer.drawn(data, scored)
            except ModerationError:
                return None

        def second(row: dict[str, Any], bundle: str) -> SecondScore | None:
            upload_id = str(row["upload_id"])
            try:
                data = images.fetch(references.get(upload_id, ""), upload_id)
                return beside[bundle].second(data, beside[bundle].score(data))
            except ModerationError:
                return None

        found = what_if(ledger.judged(), references, present, proposed, drawn, second_score=second)
        write_html(html_file, lambda: _what_if_page(found, scorer, images))
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    console = Console()
    print_rows(console, _what_if_rows(found))
    before, after = found.gray_shares()
    console.print(f"Gray share: {percent(before)} now, {percent(after)} then.", highlight=False)
    if found.unknown or found.other_bundle:
        console.print(
            f"Left out: {found.unknown} whose style or second score cannot be told, "
            f"{found.other_bundle} "
            f"judged by another bundle than {found.bundle}.",
            style="yellow",
        )


def _what_if_rows(found: WhatIf) -> Table:
    rows: list[list[object]] = [
        [f"now {before}", *(found.counts[before, after] for after in Verdict)] for before in Verdict
    ]
    rows.append(["newly", *(found.newly(after) for after in Verdict)])
    return [counted(found.looked, "upload"), *(f"then {after}" for after in Verdict)], rows


def _what_if_page(found: WhatIf, scorer: Scorer, images: Images) -> str:
    changes = []
    for verdict in Verdict:
        mine = [change for change in found.changes if change.after == verdict]
        cards = [_card(change, scorer, images) for change in mine[:SHOWN_CHANGES]]
        if cards:
            changes.append((f"Newly {verdict}: {found.newly(verdict):,}", cards))
    return render(
        "what_if.html",
        title="What if",
        lead=f"{counted(found.looked, 'upload')} judged by {found.bundle}, twice",
        counts=_what_if_rows(found),
        changes=changes,
    )


def _card(change: Change, scorer: Scorer, images: Images) -> tuple[str, str, str]:
    second = "" if change.second is None else f" + {change.second:.3f}"
    return (
        blurred_thumbnail(scorer, lambda: images.fetch(change.image, change.upload_id)),
        f"{change.probability:.3f}{second} {change.before} → {change.after}",
        f"{change.upload_id} {change.style}",
    )
