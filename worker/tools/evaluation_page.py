"""Evaluations for people: rows for the terminal, and one HTML file with plots and mistakes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from producer.errors import ModerationError
from worker.policy import Policy
from worker.tools import accuracy
from worker.tools.accuracy import Rate
from worker.tools.dataset import Labelled
from worker.tools.evaluation import Evaluation
from worker.tools.page import COLOURS, Page, Series, bar_chart, line_chart
from worker.tools.scoring import Scorer
from worker.tools.words import counted

#: Thumbnails: side in pixels and radius of the blur; nobody should have to see what is there.
THUMB_PX, BLUR_PX = 160, 9

#: Bins of the histogram of probabilities.
BINS = 20


def rate_rows(evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
    """One row a group: what the cut-offs make of it, with 95 % intervals."""
    header = ["", "harmless", "explicit", "false blocks % (95 %)", "misses % (95 %)", "gray %"]
    rows: list[list[object]] = [
        [
            _label(key),
            m.harmless,
            m.explicit,
            *map(rate_text, (m.false_blocks, m.false_approvals)),
            "–" if m.gray.value is None else f"{100 * m.gray.value:.1f}",
        ]
        for key, m in evaluation.groups.items()
    ]
    return header, rows


def score_rows(evaluation: Evaluation) -> tuple[list[str], list[list[object]]]:
    """One row a group: how good the probabilities are, whatever the cut-offs."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    rows: list[list[object]] = [
        [_label(key), *map(number, (m.auroc, m.average_precision, m.brier, m.calibration_error))]
        for key, m in evaluation.groups.items()
    ]
    return ["", "AUROC", "average precision", "Brier", "calibration error"], rows


def _label(key: tuple[str, str]) -> str:
    by, name = key
    return "all" if by == "all" else f"{by}: {name}"


def rate_text(rate: Rate) -> str:
    """A rate and its interval in percent."""
    if rate.value is None:
        return "–"
    low, high = rate.interval
    return f"{100 * rate.value:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def to_page(evaluations: Sequence[Evaluation], scorers: Sequence[Scorer], policy: Policy) -> str:
    """All bundles side by side as one HTML file."""
    first = evaluations[0]
    page = Page(
        "Evaluation",
        f"{counted(len(first.judged), 'picture')}: {first.overall.harmless:,} harmless, "
        f"{first.overall.explicit:,} explicit; policy {policy.version}",
    )
    for sentence in first.unknowns():
        page.text(sentence, warns=True)
    page.figures(_charts(evaluations, policy))
    for evaluation in evaluations:
        page.heading(evaluation.bundle)
        page.table(*rate_rows(evaluation))
        page.table(*score_rows(evaluation))
        if left_out := evaluation.left_out():
            page.text(f"Left out: {left_out}.")
    for evaluation, scorer in zip(evaluations, scorers, strict=True):
        _show_mistakes(page, evaluation, scorer)
    return page.render()


def _charts(evaluations: Sequence[Evaluation], policy: Policy) -> list[tuple[str, str]]:
    marks = [
        (policy.photo.approve_below, "approve below"),
        (policy.photo.block_from, "block from"),
    ]
    charts = []
    rocs, recalls, reliabilities = [], [], []
    for evaluation, colour in zip(evaluations, COLOURS * len(evaluations), strict=False):
        labels, scores = accuracy.as_arrays(
            [j.explicit for j in evaluation.judged], [j.probability for j in evaluation.judged]
        )
        name = evaluation.bundle
        if evaluation.overall.auroc is not None:
            rocs.append(Series(name, accuracy.thin(*accuracy.roc_curve(labels, scores)), colour))
            curve = accuracy.precision_recall_curve(labels, scores)
            recalls.append(Series(name, accuracy.thin(*curve), colour))
            bins = accuracy.reliability(labels, scores)
            reliabilities.append(
                Series(
                    name,
                    [(b.mean_probability, b.explicit.value or 0.0) for b in bins],
                    colour,
                    dots=True,
                    band=[b.explicit.interval for b in bins],
                    titles=[f"{counted(b.count, 'picture')}, {b.explicit}" for b in bins],
                )
            )
    if rocs:
        guess = Series("a coin", [(0, 0), (1, 1)], "rejected", dashed=True)
        perfect = Series("right", [(0, 0), (1, 1)], "rejected", dashed=True)
        charts += [
            (
                line_chart(
                    "ROC",
                    [*rocs, guess],
                    x_label="false alarms",
                    y_label="found",
                    x_range=(0, 1),
                    y_range=(0, 1),
                ),
                "How many explicit pictures are found at each share of false alarms.",
            ),
            (
                line_chart(
                    "Precision and recall",
                    recalls,
                    x_label="recall",
                    y_label="precision",
                    x_range=(0, 1),
                    y_range=(0, 1),
                ),
                "Of what is called explicit, how much is; against how much of it is found.",
            ),
            (
                line_chart(
                    "Reliability",
                    [*reliabilities, perfect],
                    x_label="probability said",
                    y_label="share explicit",
                    x_range=(0, 1),
                    y_range=(0, 1),
                ),
                "A calibrated model lies on the line; bands are 95 % intervals of each bin.",
            ),
        ]
    charts += [_histogram(evaluation) for evaluation in evaluations]
    charts += [_alarm_curve(evaluations, marks)] if evaluations[0].overall.harmless else []
    return charts


def _histogram(evaluation: Evaluation) -> tuple[str, str]:
    edges = np.linspace(0, 1, BINS + 1)
    counts = {
        explicit: np.histogram(
            [j.probability for j in evaluation.judged if j.explicit == explicit], edges
        )[0]
        for explicit in (False, True)
    }
    chart = bar_chart(
        "Probabilities",
        [f"{edge:.2f}" for edge in edges[:-1]],
        [
            ("harmless", "c1", [float(n) for n in counts[False]]),
            ("explicit", "c2", [float(n) for n in counts[True]]),
        ],
        y_label="pictures",
        x_label="probability",
    )
    return chart, f"What {evaluation.bundle} said."


def _alarm_curve(
    evaluations: Sequence[Evaluation], marks: Sequence[tuple[float, str]]
) -> tuple[str, str]:
    series = []
    for evaluation, colour in zip(evaluations, COLOURS * len(evaluations), strict=False):
        harmless = np.sort([j.probability for j in evaluation.judged if not j.explicit])
        edges = np.linspace(0, 1, 201)
        above = 1 - np.searchsorted(harmless, edges, side="left") / len(harmless)
        points = [(float(x), float(y)) for x, y in zip(edges, above, strict=True)]
        series.append(Series(evaluation.bundle, points, colour))
    chart = line_chart(
        "False alarms by cut-off",
        series,
        x_label="probability",
        y_label="share of harmless",
        x_range=(0, 1),
        marks=marks,
    )
    return chart, "Share of harmless pictures at or above each probability."


def _show_mistakes(page: Page, evaluation: Evaluation, scorer: Scorer) -> None:
    harmless, explicit = evaluation.mistakes()
    for title, found in (
        ("Harmless, but not approved", harmless),
        ("Explicit, but not blocked", explicit),
    ):
        if not found:
            continue
        page.heading(f"{title} ({evaluation.bundle})")
        page.pictures(
            [
                (
                    blurred_thumbnail(scorer, one.labelled),
                    f"{one.probability:.3f} {one.verdict}",
                    f"{one.labelled.name}: {one.style}, {one.scored.format}, "
                    f"{one.scored.width_px} x {one.scored.height_px} px",
                )
                for one in found
            ]
        )


def blurred_thumbnail(scorer: Scorer, labelled: Labelled) -> str:
    """A small, blurred picture as a data URI; a grey tile where it is gone by now."""
    try:
        data = scorer.thumbnail_jpeg(labelled.read())
        image: Image.Image = Image.open(io.BytesIO(data))
        image.thumbnail((THUMB_PX, THUMB_PX))
        image = image.filter(ImageFilter.GaussianBlur(BLUR_PX))
    except (ModerationError, OSError):
        image = Image.new("RGB", (THUMB_PX, THUMB_PX), (128, 128, 128))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=60)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
