"""Charts as SVG, drawn on the server: no script, no inline style, colours by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

#: Size of the drawing areas in their own units; the page scales them.
NARROW_WIDTH, WIDTH, WIDE_WIDTH, HEIGHT = 460, 720, 1000, 200

#: Room for the labels of the axes.
LEFT, BOTTOM, TOP = 40, 22, 10


def stacked_bars(
    series: Sequence[tuple[str, str, Sequence[float]]], labels: Sequence[str], title: str
) -> Markup:
    """Bars over time, one colour a series.

    Args:
        series: (css class, name, one value for each label), drawn from the bottom up.
        labels: what stands under the bars.
        title: what a screen reader says.
    """
    totals = [sum(values[n] for _, _, values in series) for n in range(len(labels))]
    # Half of it is labelled too, and shall be a whole number.
    top = max(2.0, _nice(max(totals, default=0), (1, 2, 4, 6, 10)))
    step = (WIDTH - LEFT) / max(len(labels), 1)
    width = max(step * 0.72, 1)
    parts = [_grid(top)]
    for n, label in enumerate(labels):
        x = LEFT + n * step + (step - width) / 2
        y = float(HEIGHT - BOTTOM)
        shapes = []
        for css, _, values in series:
            height = values[n] / top * (HEIGHT - BOTTOM - TOP)
            if height > 0:
                y -= height
                shapes.append(
                    f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{height:.1f}" rx="1.5"/>'
                )
        words = ", ".join(f"{name} {_short(values[n])}" for _, name, values in series if values[n])
        parts.append(f"<g><title>{escape(label)}: {escape(words or '0')}</title>")
        parts.append(
            f'<rect class="hit" x="{LEFT + n * step:.1f}" y="{TOP}" width="{step:.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP}"/>'
        )
        parts += [*shapes, "</g>"]
        if n % max(1, math.ceil(len(labels) / 8)) == 0:
            parts.append(_label(x + width / 2, label))
    return _svg(parts, title)


def line(values: Sequence[float | None], labels: Sequence[str], title: str) -> Markup:
    """A share from 0 to 1 over time; gaps where it is unknown."""
    known = [value for value in values if value is not None]
    top = min(1.0, _nice(max(known, default=0.0) * 100) / 100) or 0.01
    step = (NARROW_WIDTH - LEFT) / max(len(labels), 1)
    parts = [_grid(top, NARROW_WIDTH, percent=True)]
    path, is_open = [], False
    for n, value in enumerate(values):
        if value is None:
            is_open = False
            continue
        x = LEFT + (n + 0.5) * step
        y = HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)
        path.append(f"{'L' if is_open else 'M'}{x:.1f} {y:.1f}")
        is_open = True
        parts.append(
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(labels[n])}: {value:.1%}</title></circle>"
        )
    parts.insert(1, f'<path class="line" d="{" ".join(path)}"/>')
    for n in range(0, len(labels), max(1, math.ceil(len(labels) / 6))):
        parts.append(_label(LEFT + (n + 0.5) * step, labels[n], NARROW_WIDTH))
    return _svg(parts, title, NARROW_WIDTH)


def histogram(
    bins: Sequence[tuple[float, float, Sequence[tuple[str, int]]]],
    cut_offs: Sequence[tuple[str, str, float]],
    title: str,
) -> Markup:
    """Probabilities, both axes bent: the ends, where cut-offs lie, are wide, and heights are roots.

    Args:
        bins: (low, high, [(css class, count)...]) over 0..1.
        cut_offs: (css class, name, where) of each line.
        title: what a screen reader says.
    """
    tops = [sum(count for _, count in counts) for _, _, counts in bins]
    top = math.sqrt(max(tops, default=0) or 1)
    area, floor = HEIGHT - BOTTOM - 2 * TOP, HEIGHT - BOTTOM
    parts: list[str] = []
    for low, high, counts in bins:
        total = sum(count for _, count in counts)
        if not total:
            continue
        x, width = _across(low), _across(high) - _across(low)
        full, y = math.sqrt(total) / top * area, float(floor)
        parts.append(f"<g><title>{low:.2f} - {high:.2f}: {total:,}</title>")
        for css, count in counts:
            height = full * count / total
            y -= height
            parts.append(
                f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.8, 1):.1f}" '
                f'height="{height:.1f}"/>'
            )
        parts.append("</g>")
    parts.append(f'<path class="axis" d="M{LEFT} {floor}H{WIDE_WIDTH}"/>')
    for at in (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 1.0):
        css = "small" if at in (0.0, 0.05, 0.5, 0.95, 1.0) else "small minor"
        parts.append(_label(_across(at), f"{at:g}", WIDE_WIDTH, css))
    for css, name, at in cut_offs:
        parts.append(
            f'<g class="cut {css}"><title>{escape(name)}: {at:.3f}</title>'
            f'<path d="M{_across(at):.1f} {TOP}V{floor}"/></g>'
        )
    return _svg(parts, title, WIDE_WIDTH)


def _across(probability: float) -> float:
    return LEFT + _stretched(probability) * (WIDE_WIDTH - LEFT)


def scale(probability: float | None, approve_below: float, block_from: float, title: str) -> Markup:
    """One probability on the scale of the cut-offs, stretched towards both ends.

    Cut-offs lie near 0 and 1; on an even scale the interesting parts would be a hair wide.
    """
    width, height = 440, 46
    a, b = (_stretched(value) * width for value in (approve_below, block_from))
    parts = [
        f'<rect class="approved" x="0" y="14" width="{a:.1f}" height="12" rx="2"/>',
        f'<rect class="gray" x="{a:.1f}" y="14" width="{b - a:.1f}" height="12"/>',
        f'<rect class="blocked" x="{b:.1f}" y="14" width="{width - b:.1f}" height="12" rx="2"/>',
    ]
    for at, value in ((a, approve_below), (b, block_from)):
        parts.append(f'<path class="tick" d="M{at:.1f} 10V30"/>')
        anchor = "start" if at < 20 else "end" if at > width - 20 else "middle"
        parts.append(
            f'<text class="small" x="{at:.1f}" y="42" text-anchor="{anchor}">'
            f"{value * 100:g}%</text>"
        )
    if probability is not None:
        x = min(max(_stretched(probability) * width, 6), width - 6)
        parts.append(f'<path class="marker" d="M{x:.1f} 27l-6 -13a6.5 6.5 0 1 1 12 0z"/>')
    body = "".join(parts)
    return Markup(
        f'<svg class="scale" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def meter(used: float, limit: float | None, title: str) -> Markup:
    """How much of a budget is used."""
    share = min(used / limit, 1.0) if limit else 0.0
    css = "blocked" if share >= 1 else "gray" if share >= 0.8 else "approved"
    return Markup(
        f'<svg class="meter" viewBox="0 0 200 8" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}"><rect class="track" width="200" height="8" rx="4"/>'
        f'<rect class="{css}" width="{share * 200:.1f}" height="8" rx="4"/></svg>'
    )


def _stretched(p: float) -> float:
    """0..1 to 0..1, wider near both ends: half of it is the logit between 0.005 and 0.995."""
    low, high = 0.005, 0.995
    inside = min(max(p, low), high)
    logit = math.log(inside / (1 - inside)) / (2 * math.log(high / (1 - high))) + 0.5
    return 0.5 * p + 0.5 * logit


def _grid(top: float, width: int = WIDTH, *, percent: bool = False) -> str:
    parts = []
    for n in range(3):
        value = top * n / 2
        y = HEIGHT - BOTTOM - n / 2 * (HEIGHT - BOTTOM - TOP)
        text = f"{value:.0%}" if percent and top >= 0.02 else f"{value:.1%}" if percent else ""
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width}"/>')
        parts.append(
            f'<text class="small" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{text or _short(value)}</text>"
        )
    return "".join(parts)


def _label(x: float, text: str, width: int = WIDTH, css: str = "small") -> str:
    anchor = "start" if x < LEFT + 20 else "middle"
    x = LEFT if anchor == "start" else min(x, width - 14)
    return (
        f'<text class="{css}" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _svg(parts: Sequence[str], title: str, width: int = WIDTH) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def _nice(value: float, steps: Sequence[int] = (1, 2, 5, 10)) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ... at or above a value; at least 1."""
    if value <= 1:
        return 1.0
    size = 10 ** math.floor(math.log10(value))
    return float(next(step * size for step in steps if step * size >= value))


def _short(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
