"""Evaluations for people: rows for the terminal, and one HTML file with plots and mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from sklearn import metrics

from producer.plain import counted
from worker.moderation.policy import CutOffs
from worker.tools.accuracy import Bools, Floats, reliability
from worker.tools.evaluation import Evaluation, Judged, arrays
from worker.tools.figures import Rate, Table
from worker.tools.page import Captioned, blurred_thumbnail, chart, render
from worker.tools.scoring import Scorer

#: Bins of the histogram of probabilities.
BINS = 20


def rate_rows(evaluation: Evaluation) -> Table:
    """One row a group: what the cut-offs make of it, with 95 % intervals."""
    header = ["", "harmless", "explicit", "false blocks % (95 %)", "misses % (95 %)", "gray %"]
    return header, [
        [
            _label(key),
            m.harmless,
            m.explicit,
            *map(rate_text, (m.false_blocks, m.false_approvals)),
            "–" if m.gray.value is None else f"{100 * m.gray.value:.1f}",
        ]
        for key, m in evaluation.groups.items()
    ]


def score_rows(evaluation: Evaluation) -> Table:
    """One row a group: how good the probabilities are, whatever the cut-offs."""
    rows: list[list[object]] = []
    for key, m in evaluation.groups.items():
        numbers = (m.auroc, m.average_precision, m.quality.brier, m.quality.calibration_error)
        rows.append([_label(key), *("–" if n is None else f"{n:.4f}" for n in numbers)])
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


def to_page(evaluations: Sequence[Evaluation], scorers: Sequence[Scorer], cut_offs: CutOffs) -> str:
    """All bundles side by side as one HTML file; `cut_offs` are marked in the plots."""
    first = evaluations[0]
    mistakes = []
    for one, scorer in zip(evaluations, scorers, strict=True):
        titles = ("Harmless, but not approved", "Explicit, but not blocked")
        for title, found in zip(titles, one.mistakes(), strict=True):
            mistakes.append((f"{title} ({one.judges})", [_card(each, scorer) for each in found]))
    return render(
        "evaluation.html",
        title="Evaluation",
        lead=f"{counted(len(first.judged), 'picture')}: {first.overall.harmless:,} harmless, "
        f"{first.overall.explicit:,} explicit; policy {first.policy}",
        unknowns=first.unknowns(),
        charts=_charts(evaluations, cut_offs),
        evaluations=[
            {
                "bundle": one.judges,
                "rates": rate_rows(one),
                "scores": score_rows(one),
                "left_out": one.left_out(),
            }
            for one in evaluations
        ],
        mistakes=mistakes,
    )


def _card(one: Judged, scorer: Scorer) -> tuple[str, str, str]:
    return (
        blurred_thumbnail(scorer, one.labelled.read),
        f"{_scores(one)} {one.verdict}",
        f"{one.labelled.name}: {one.style}, {one.scored.format}, "
        f"{one.scored.width_px} x {one.scored.height_px} px",
    )


def _charts(evaluations: Sequence[Evaluation], cut_offs: CutOffs) -> list[Captioned]:
    named = [(one.judges, *arrays(one.judged)) for one in evaluations]

    def roc(axes: Axes) -> None:
        for name, labels, scores in named:
            axes.plot(*metrics.roc_curve(labels, scores)[:2], label=name)
        axes.plot([0, 1], [0, 1], "--", color="gray", label="a coin")

    def recall(axes: Axes) -> None:
        for name, labels, scores in named:
            precision, found, _ = metrics.precision_recall_curve(labels, scores)
            axes.plot(found, precision, label=name)

    def alarms(axes: Axes) -> None:
        edges = np.linspace(0, 1, 201)
        for name, labels, scores in named:
            harmless = np.sort(scores[~labels])
            below = np.searchsorted(harmless, edges, side="left") / len(harmless)
            axes.plot(edges, 1 - below, label=name)
        for place, text in ((cut_offs.approve_below, "approve"), (cut_offs.block_from, "block")):
            axes.axvline(place, linestyle=":", color="gray")
            axes.text(place, 1, f" {text}", va="top")

    charts: list[Captioned] = []
    if evaluations[0].overall.auroc is not None:
        charts = [
            (
                chart("ROC", roc, x="false alarms", y="found", unit=True),
                "How many explicit pictures are found at each share of false alarms.",
            ),
            (
                chart("Precision and recall", recall, x="recall", y="precision", unit=True),
                "Of what is called explicit, how much is; against how much of it is found.",
            ),
            reliability_chart(named),
        ]
    charts += [_histogram(*one) for one in named]
    if evaluations[0].overall.harmless:
        drawn = chart("False alarms by cut-off", alarms, x="probability", y="share", unit=True)
        charts.append((drawn, "Share of harmless pictures at or above each probability."))
    return charts


def _scores(one: Judged) -> str:
    """What each model said."""
    second = f" + {one.second.probability:.3f}" if one.second else ""
    return f"{one.probability:.3f}{second}"


def reliability_chart(named: Sequence[tuple[str, Bools, Floats]]) -> Captioned:
    """How often a probability is right; `named` are (name, true labels, probabilities)."""

    def draw(axes: Axes) -> None:
        for name, labels, probabilities in named:
            bins = reliability(labels, probabilities)
            x = [b.mean_probability for b in bins]
            [line] = axes.plot(x, [b.explicit.value or 0.0 for b in bins], "o-", label=name)
            low, high = zip(*(b.explicit.interval for b in bins), strict=True)
            axes.fill_between(x, low, high, alpha=0.2, color=line.get_color())
        axes.plot([0, 1], [0, 1], "--", color="gray", label="right")

    drawn = chart("Reliability", draw, x="probability said", y="share explicit", unit=True)
    return drawn, "A calibrated model lies on the line; bands are 95 % intervals of each bin."


def _histogram(name: str, labels: Bools, scores: Floats) -> Captioned:
    def draw(axes: Axes) -> None:
        kinds = [scores[~labels], scores[labels]]
        axes.hist(kinds, BINS, range=(0, 1), stacked=True, label=["harmless", "explicit"])

    return chart("Probabilities", draw, x="probability", y="pictures"), f"What {name} said."
