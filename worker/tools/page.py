"""Reports as one self-contained HTML file: Jinja2 templates, charts as SVG by matplotlib.

Pages are light and dark, have no script and forbid themselves to load anything, so that they can be
mailed and opened anywhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from producer.errors import ModerationError
from worker.tools.scoring import Scorer

TEMPLATES = Path(__file__).parent / "templates"

#: A chart and its caption.
Captioned = tuple[Markup, str]

#: Colours of verdicts.
VERDICTS = {"approved": "#22a35a", "gray": "#d79b1e", "blocked": "#d64545", "rejected": "#7b8794"}

#: Stands for the page's own text colour in a chart; see chart.mplstyle.
TEXT = "#010101"

#: Thumbnails: side in pixels and radius of the blur; nobody should have to see what is there.
THUMB_PX, BLUR_PX = 160, 9


def render(template: str, **facts: Any) -> str:
    """Fill a template of the folder `templates`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**facts)


def chart(
    title: str, draw: Callable[[Axes], object], *, x: str = "", y: str = "", unit: bool = False
) -> Markup:
    """One chart as SVG.

    Args:
        title: also its name for those who cannot see it.
        draw: draws on the axes.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        unit: both axes go from 0 to 1.
    """
    out = io.StringIO()
    with style.context(TEMPLATES / "chart.mplstyle"):
        figure = Figure()
        axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
        draw(axes)
        if unit:
            axes.set(xlim=(0, 1), ylim=(0, 1))
        if axes.get_legend_handles_labels()[1]:
            axes.legend()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    _, _, svg = out.getvalue().replace(TEXT, "currentColor").partition("<svg")
    return Markup(f'<svg role="img" aria-label="{escape(title)}"{svg}')


def stacked_bars(axes: Axes, labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Bars of several values on top of each other, by the colour of what they are called."""
    bottom = [0.0] * len(labels)
    for name, values in series.items():
        axes.bar(range(len(labels)), values, bottom=bottom, label=name, color=VERDICTS.get(name))
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    shown = range(0, len(labels), max(1, -(-len(labels) // 8)))
    axes.set_xticks(list(shown), [labels[n] for n in shown])


def blurred_thumbnail(scorer: Scorer, read: Callable[[], bytes]) -> str:
    """A small, blurred picture as a data URI; a grey tile where it is gone by now."""
    try:
        image: Image.Image = Image.open(io.BytesIO(scorer.thumbnail_jpeg(read())))
        image.thumbnail((THUMB_PX, THUMB_PX))
        image = image.filter(ImageFilter.GaussianBlur(BLUR_PX))
    except (ModerationError, OSError):
        image = Image.new("RGB", (THUMB_PX, THUMB_PX), (128, 128, 128))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=60)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
