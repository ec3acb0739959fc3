"""`avatarmod tune`: which cut-offs meet a target, and what they cost; or: what would change."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from producer.contract import Region, Verdict
from producer.errors import ModerationError
from producer.images import Images
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.accuracy import Rate
from worker.commands.evaluate import dataset_options, open_dataset, open_scorers, progress_bar
from worker.commands.report import print_rows
from worker.dataset import Labelled
from worker.evaluation import Evaluation, evaluate
from worker.evaluation_page import blurred_thumbnail, rate_text
from worker.page import Page, Series, line_chart
from worker.policy import Policy, load_policy
from worker.report import percent, yuan
from worker.review.settings import PROVIDER_NAMES
from worker.scoring import Scorer
from worker.settings import WorkerSettings
from worker.tuning import Limits, Sample, Setting, Traffic, apply, frontier, policy_toml, search
from worker.what_if import Change, WhatIf, what_if

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
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Find the cut-offs that meet a target with the fewest gray pictures.

    DATASET as for `avatarmod evaluate`. Exit code 1 when no cut-offs meet the target.
    """
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "tune")
    present = load_policy(settings.policy_file)
    if proposed_file is not None:
        if dataset != "ledger":
            raise click.UsageError("--what-if compares on the ledger: avatarmod tune ledger ...")
        _what_if(settings, present, load_policy(proposed_file), html_file, as_json)
        return
    traffic = Traffic(
        uploads_per_day=uploads_per_day or measured_uploads_per_day(settings) or 5000.0,
        explicit_share=explicit_share / 100,
        yuan_per_1000=prices(settings),
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
    now = apply(sample, present.photo, present.drawn, traffic)
    found = search(sample, present, traffic, limits)
    points = frontier(sample, present, traffic)
    if html_file is not None:
        page = to_page(one, now, found, points, traffic, limits)
        html_file.write_text(page, encoding="utf-8")
        click.echo(f"wrote {html_file}", err=True)
    if as_json:
        answer = {
            "bundle": one.bundle,
            "present": now.to_json(),
            "found": found.to_json() if found else None,
            "frontier": [point.to_json() for point in points],
            "unknown": one.unknowns(),
        }
        click.echo(json.dumps(answer))
    else:
        _print(Console(), one, now, found, points, traffic)
    if found is None:
        raise click.ClickException(_no_solution(limits, points))
    if policy_out is not None:
        policy_out.write_text(_policy_file(one, found, present, limits), encoding="utf-8")
        click.echo(f"wrote {policy_out}", err=True)


def prices(settings: WorkerSettings) -> dict[str, float]:
    """Price of 1,000 pictures by provider: those in use, else all that are billed by call."""
    used = {*settings.review_domestic, *settings.review_overseas}
    listed = {name: settings.limits_of(name).yuan_per_1000 for name in PROVIDER_NAMES}
    return {n: p for n, p in listed.items() if (n in used if used else p > 0)}


def measured_uploads_per_day(settings: WorkerSettings) -> float | None:
    """Uploads a day over the ledger's last 30 days; None with less than a day of them."""
    from worker.ledger import Ledger

    try:
        ledger = Ledger.open(settings)
    except ModerationError:
        return None
    try:
        span = ledger.span()
        if span is None or span[1] - span[0] < 86400:
            return None
        start = max(span[0], span[1] - 30 * 86400)
        return ledger.count(start, span[1] + 1).uploads / ((span[1] - start) / 86400)
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


def _no_solution(limits: Limits, points: list[Setting]) -> str:
    money = "" if math.isinf(limits.yuan_per_month) else f", {yuan(limits.yuan_per_month)} yuan"
    hint = (
        "; with --cautious more labelled pictures narrow the intervals" if limits.cautious else ""
    )
    cheapest = min((p.cheapest_yuan for p in points), default=None)
    least = "" if cheapest is None else f"; the cheapest on the frontier is {yuan(cheapest)} yuan"
    return (
        f"no cut-offs meet {percent(limits.false_blocks)} false blocks, {percent(limits.misses)} "
        f"missed{money}{least}{hint}"
    )


def _policy_file(one: Evaluation, found: Setting, present: Policy, limits: Limits) -> str:
    comment = [
        f"Made by avatarmod tune on {dt.datetime.now(dt.UTC).date().isoformat()}",
        f"for {one.bundle}, from {len(one.judged)} labelled pictures.",
        f"Target: {percent(limits.false_blocks)} false blocks, {percent(limits.misses)} missed.",
        f"Measured: false blocks {found.false_blocks}, missed {found.misses}.",
    ]
    if present.regions:
        comment.append("The present policy's own rules for regions are not carried over.")
    return policy_toml(found.photo, found.drawn, present, comment)


def setting_rows(named: list[tuple[str, Setting]]) -> tuple[list[str], list[list[object]]]:
    """Settings side by side."""
    header = ["", "photo", "drawn", "false blocks %", "missed %", "gray %", "calls/day", "yuan/mo"]

    rows: list[list[object]] = []
    for name, one in named:
        rows.append(
            [
                name,
                f"{one.photo.approve_below:.3g}/{one.photo.block_from:.3g}",
                f"{one.drawn.approve_below:.3g}/{one.drawn.block_from:.3g}",
                rate_text(one.false_blocks),
                rate_text(one.misses),
                f"{100 * one.gray_share:.1f}",
                f"{one.calls_per_day:,.0f}",
                yuan(one.cheapest_yuan),
            ]
        )
    return header, rows


def money_rows(named: list[tuple[str, Setting]]) -> tuple[list[str], list[list[object]]]:
    """Yuan a month by provider, if every gray picture went there."""
    providers = sorted({name for _, one in named for name in one.yuan_per_month})
    rows: list[list[object]] = [
        [provider, *(yuan(one.yuan_per_month[provider]) for _, one in named)]
        for provider in providers
    ]
    return ["yuan a month", *(name for name, _ in named)], rows


def _print(
    console: Console,
    one: Evaluation,
    now: Setting,
    found: Setting | None,
    points: list[Setting],
    traffic: Traffic,
) -> None:
    console.print(
        f"[bold]{one.bundle}[/], {len(one.judged)} labelled pictures; "
        f"{traffic.uploads_per_day:,.0f} uploads a day, "
        f"{percent(traffic.explicit_share)} of them explicit (assumed)",
        highlight=False,
    )
    named = [("now", now)] + ([("found", found)] if found else [])
    print_rows(console, *setting_rows(named))
    print_rows(console, *money_rows(named))
    console.print("The frontier: none of these is better in everything.")
    print_rows(console, *setting_rows([(str(n), point) for n, point in enumerate(points, 1)]))
    for sentence in one.unknowns():
        console.print(sentence, style="yellow")


def to_page(
    one: Evaluation,
    now: Setting,
    found: Setting | None,
    points: list[Setting],
    traffic: Traffic,
    limits: Limits,
) -> str:
    """The frontier as one HTML file."""
    page = Page(
        "Cut-offs and what they cost",
        f"{one.bundle}, {len(one.judged):,} labelled pictures, {traffic.uploads_per_day:,.0f} "
        f"uploads a day, {percent(traffic.explicit_share)} of them explicit (assumed)",
    )
    if found is None:
        page.text(_no_solution(limits, points), warns=True)
    for sentence in one.unknowns():
        page.text(sentence, warns=True)
    charts = []
    kinds: tuple[tuple[str, Callable[[Setting], Rate]], ...] = (
        ("Misses and money", lambda s: s.misses),
        ("False blocks and money", lambda s: s.false_blocks),
    )
    for title, rate_of in kinds:
        dots = [(s.cheapest_yuan, 100 * (rate_of(s).value or 0.0)) for s in points]
        series = [
            Series("frontier", [], "c1"),
            *(
                Series(
                    "",
                    [dot],
                    "c1",
                    dots=True,
                    titles=[
                        f"photo {s.photo.approve_below:g}/{s.photo.block_from:g}, drawn "
                        f"{s.drawn.approve_below:g}/{s.drawn.block_from:g}: {rate_of(s)}"
                    ],
                )
                for dot, s in zip(dots, points, strict=True)
            ),
            Series(
                "now", [(now.cheapest_yuan, 100 * (rate_of(now).value or 0.0))], "c2", dots=True
            ),
        ]
        if found is not None:
            dot = (found.cheapest_yuan, 100 * (rate_of(found).value or 0.0))
            series.append(Series("found", [dot], "c3", dots=True))
        chart = line_chart(title, series, x_label="yuan a month", y_label="percent")
        charts.append((chart, "Each dot is a set of cut-offs that no other beats in everything."))
    page.figures(charts)
    page.heading("Now, and what was found")
    page.table(*setting_rows([("now", now)] + ([("found", found)] if found else [])))
    page.table(*money_rows([("now", now)] + ([("found", found)] if found else [])))
    page.heading("The frontier")
    page.table(*setting_rows([(str(n), point) for n, point in enumerate(points, 1)]))
    return page.render()


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
    return [f"{found.looked} uploads", *(f"then {after}" for after in Verdict)], rows


def _what_if_page(found: WhatIf, scorer: Scorer, images: Images) -> str:
    page = Page("What if", f"{found.looked:,} uploads judged by {found.bundle}, twice")
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
