"""One self-contained HTML file: tables, inline SVG charts, light and dark; no script, no address.

Used by the reports, which hand over numbers and get text back. Every text is escaped here; a page
forbids itself to load anything (Content-Security-Policy), so it can be mailed and opened anywhere.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

Point = tuple[float, float]

#: Width and height of a chart in SVG units; the page scales it.
WIDTH, HEIGHT = 640, 340

#: Space around the plot for axis labels: left, top, right, bottom.
LEFT, TOP, RIGHT, BOTTOM = 66, 30, 16, 46

#: CSS variables of series, in the order of use; dark and light values stand in `STYLE`.
COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")

STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--dim:#5b6571;--line:#d5dae0;--panel:#f5f7f9;
--c1:#1f6feb;--c2:#c2410c;--c3:#15803d;--c4:#7c3aed;--c5:#a16207;--c6:#0e7490;
--approved:#15803d;--gray:#b7791f;--blocked:#c62828;--rejected:#64748b}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e6e9ec;--dim:#9aa5b1;--line:#363d45;
--panel:#1d2125;--c1:#6ea8fe;--c2:#fb923c;--c3:#4ade80;--c4:#c4a6ff;--c5:#facc15;--c6:#67e8f9;
--approved:#4ade80;--gray:#facc15;--blocked:#f87171;--rejected:#94a3b8}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:24px 20px 60px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.2rem;margin:2em 0 .5em}
p.lead,figcaption,.dim{color:var(--dim)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:18px}
figure{margin:0;padding:12px;background:var(--panel);border:1px solid var(--line);border-radius:8px}
figure svg{width:100%;height:auto;display:block}figcaption{font-size:.88rem;margin-top:6px}
.scroll{overflow-x:auto;margin-top:14px}table{border-collapse:collapse;font-size:.92rem;min-width:40%}
th,td{padding:5px 12px 5px 0;text-align:left;border-bottom:1px solid var(--line);
vertical-align:top}
th{font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.note{border-left:4px solid var(--gray);padding:8px 14px;background:var(--panel);margin:14px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px}
.card img{width:100%;border-radius:4px;display:block}.card b{display:block;font-size:1.3rem}
.card img+b{font-size:1rem}.card small{color:var(--dim);overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.85rem;margin-top:4px}
.legend i{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:5px;
vertical-align:-1px}
"""


def esc(text: object) -> str:
    """Text that may stand in HTML and in attributes."""
    return html.escape(str(text), quote=True)


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve: its points in plot coordinates, a name for the legend and a CSS colour variable.

    Args:
        band: (lower, upper) edges drawn behind the line, same x as `points`.
        dots: draw the points themselves, with `titles` shown on hover.
    """

    name: str
    points: Sequence[Point]
    colour: str = "c1"
    dashed: bool = False
    dots: bool = False
    band: Sequence[tuple[float, float]] = ()
    titles: Sequence[str] = ()


class Page:
    """Collects sections; `render` gives the file's text."""

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{esc(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{esc(lead)}</p>')

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(f"<h2>{esc(text)}</h2>")

    def text(self, text: str, *, warns: bool = False) -> None:
        """A paragraph; one that warns stands out."""
        self._parts.append(f"<p{' class=note' if warns else ''}>{esc(text)}</p>")

    def cards(self, facts: Sequence[tuple[str, str]]) -> None:
        """Large figures with their names below."""
        body = "".join(
            f'<div class="card"><b>{esc(value)}</b><small>{esc(name)}</small></div>'
            for name, value in facts
        )
        self._parts.append(f'<div class="cards">{body}</div>')

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; numbers stand right. A cell of None is a dash."""
        numeric = [
            all(isinstance(row[n], int | float | None) or _is_number(row[n]) for row in rows)
            and bool(rows)
            and n > 0
            for n in range(len(header))
        ]

        def cell(tag: str, value: object, number: bool) -> str:
            mark = " class=n" if number else ""
            return f"<{tag}{mark}>{esc('–' if value is None else value)}</{tag}>"

        head = "".join(cell("th", name, n) for name, n in zip(header, numeric, strict=True))
        body = "".join(
            "<tr>" + "".join(cell("td", v, n) for v, n in zip(row, numeric, strict=True)) + "</tr>"
            for row in rows
        )
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def figures(self, figures: Sequence[tuple[str, str]]) -> None:
        """Charts side by side: (markup of a chart, caption)."""
        body = "".join(
            f"<figure>{chart}<figcaption>{esc(caption)}</figcaption></figure>"
            for chart, caption in figures
        )
        self._parts.append(f'<div class="grid">{body}</div>')

    def pictures(self, pictures: Sequence[tuple[str, str, str]]) -> None:
        """Thumbnails: (data URI, headline, small print)."""
        body = "".join(
            f'<div class="card"><img alt="{esc(headline)}" src="{esc(uri)}">'
            f"<b>{esc(headline)}</b><small>{esc(small)}</small></div>"
            for uri, headline, small in pictures
        )
        self._parts.append(f'<div class="cards">{body}</div>')

    def render(self) -> str:
        """The whole file."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f'<link rel="icon" href="data:,"><title>{esc(self._title)}</title>'
            f"<style>{STYLE}</style></head><body><main>{''.join(self._parts)}</main></body></html>"
        )


def _is_number(value: object) -> bool:
    text = str(value).strip("%±~ ").replace(",", "")
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or value in ("", "–")


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """(name, CSS colour variable) pairs as one line below a chart."""
    body = "".join(
        f'<span><i style="background:var(--{colour})"></i>{esc(name)}</span>'
        for name, colour in entries
    )
    return f'<div class="legend">{body}</div>'


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: Point | None = None,
    y_range: Point | None = None,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Curves over a common pair of linear axes; `marks` are labelled vertical lines."""
    points = [point for one in series for point in one.points]
    scale = _Scale(
        x_range or _extent([x for x, _ in points]),
        y_range or _extent([0.0, *(y for _, y in points)]),
    )
    parts = [_axes(scale, x_label, y_label)]
    for x, text in marks:
        px = scale.x(x)
        left = px < WIDTH * 0.7
        parts.append(
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            'stroke="var(--gray)" stroke-dasharray="4 4"/>'
            f'<text x="{px + (4 if left else -4):.1f}" y="{TOP + 11}" font-size="11" '
            f'text-anchor="{"start" if left else "end"}" fill="var(--dim)">{esc(text)}</text>'
        )
    parts += [_curve(one, scale) for one in series]
    names = [(one.name, one.colour) for one in series if one.name]
    return _svg(title, parts) + legend(names)


def bar_chart(
    title: str,
    labels: Sequence[str],
    stacks: Sequence[tuple[str, str, Sequence[float]]],
    *,
    y_label: str,
    x_label: str = "",
) -> str:
    """Stacked bars: `stacks` are (name, CSS colour variable, one value per label)."""
    totals = [sum(values[n] for _, _, values in stacks) for n in range(len(labels))]
    scale = _Scale((0, max(len(labels), 1)), (0, _ceiling(max(totals, default=0))))
    parts = [_axes(scale, x_label, y_label, x_ticks=False)]
    width = (scale.x(1) - scale.x(0)) * 0.82
    every = max(1, math.ceil(len(labels) / 12))
    for n, label in enumerate(labels):
        left, bottom = scale.x(n) + width * 0.11, 0.0
        for name, colour, values in stacks:
            if values[n] <= 0:
                continue
            y_top, y_bottom = scale.y(bottom + values[n]), scale.y(bottom)
            bottom += values[n]
            parts.append(
                f'<rect x="{left:.1f}" y="{y_top:.1f}" width="{width:.1f}" '
                f'height="{y_bottom - y_top:.1f}" fill="var(--{colour})">'
                f"<title>{esc(label)}: {values[n]:g} {esc(name)}</title></rect>"
            )
        if n % every == 0:
            parts.append(
                f'<text x="{left + width / 2:.1f}" y="{HEIGHT - BOTTOM + 15}" font-size="11" '
                f'text-anchor="middle" fill="var(--dim)">{esc(label)}</text>'
            )
    return _svg(title, parts) + legend([(name, colour) for name, colour, _ in stacks])


class _Scale:
    """Data to SVG coordinates."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range, self.y_range = _wide(x_range), _wide(y_range)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _wide(extent: tuple[float, float]) -> tuple[float, float]:
    low, high = extent
    return (low, high) if high > low else (low, low + 1.0)


def _extent(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return (0.0, 1.0)
    low, high = min(values), max(values)
    return (low, _ceiling(high) if low >= 0 else high)


def _ceiling(value: float) -> float:
    """The next round number: 1, 2, 2.5, 5 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.9999)


def _ticks(extent: tuple[float, float]) -> list[float]:
    low, high = extent
    step = _ceiling((high - low) / 6)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(scale: _Scale, x_label: str, y_label: str, *, x_ticks: bool = True) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in _ticks(scale.y_range):
        y = scale.y(value)
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" font-size="11" text-anchor="end" '
            f'fill="var(--dim)">{value:,.6g}</text>'
        )
    for value in _ticks(scale.x_range) if x_ticks else []:
        parts.append(
            f'<text x="{scale.x(value):.1f}" y="{bottom + 15}" font-size="11" '
            f'text-anchor="middle" fill="var(--dim)">{value:,.6g}</text>'
        )
    parts.append(
        f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="var(--dim)"/>'
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" font-size="12" text-anchor="middle" '
        f'fill="var(--dim)">{esc(x_label)}</text>'
        f'<text transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" font-size="12" '
        f'text-anchor="middle" fill="var(--dim)">{esc(y_label)}</text>'
    )
    return "".join(parts)


def _curve(one: Series, scale: _Scale) -> str:
    parts = []
    places = [(scale.x(x), scale.y(y)) for x, y in one.points]
    if one.band:
        upper = [(p[0], scale.y(high)) for p, (_, high) in zip(places, one.band, strict=True)]
        lower = [(p[0], scale.y(low)) for p, (low, _) in zip(places, one.band, strict=True)]
        edge = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
        parts.append(f'<polygon points="{edge}" fill="var(--{one.colour})" opacity="0.18"/>')
    if len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="var(--{one.colour})" '
            f'stroke-width="2" stroke-linejoin="round"{dash}/>'
        )
    for n, (x, y) in enumerate(places if one.dots else []):
        title = f"<title>{esc(one.titles[n])}</title>" if one.titles else ""
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--{one.colour})">{title}</circle>'
        )
    return "".join(parts)


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{esc(title)}" '
        f'font-family="system-ui,sans-serif"><text x="{LEFT}" y="18" font-size="12" '
        f'fill="var(--fg)" font-weight="600">{esc(title)}</text>{"".join(parts)}</svg>'
    )
