"""A contact sheet of files that show one thing and are scored as another."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.witness.coverage import Finding

_CELL_PX, _GAP_PX, _TEXT_PX = 112, 4, 14
_PER_SIDE, _MOST_ROWS = 4, 60


def write(findings: list[Finding], path: Path) -> None:
    """One row a file: left what browsers show and no view looks like, right what is scored."""
    rows = findings[:_MOST_ROWS]
    width_px = 2 * _PER_SIDE * (_CELL_PX + _GAP_PX) + 3 * _GAP_PX
    row_px = _CELL_PX + 2 * _TEXT_PX + _GAP_PX
    sheet = Image.new("RGB", (width_px, max(1, len(rows)) * row_px), (245, 240, 225))
    draw = ImageDraw.Draw(sheet)
    for number, finding in enumerate(rows):
        top = number * row_px
        draw.text((_GAP_PX, top), _caption(finding), (0, 0, 0))
        views = finding.picture.views if finding.picture else []
        middle = _PER_SIDE * (_CELL_PX + _GAP_PX) + 2 * _GAP_PX
        draw.line((middle - _GAP_PX, top + _TEXT_PX, middle - _GAP_PX, top + row_px), (200, 0, 0))
        shown = [(f"{thing.label} {thing.apart:.0f}", thing.pixels) for thing in finding.unlike]
        scored = [
            (f"frame {view.frame} {view.background} {view.crop}", view.pixels) for view in views
        ]
        for left, cells in ((_GAP_PX, shown), (middle, scored)):
            for place, (label, pixels) in enumerate(cells[:_PER_SIDE]):
                x = left + place * (_CELL_PX + _GAP_PX)
                cell = Image.fromarray(pixels).resize((_CELL_PX, _CELL_PX))
                sheet.paste(cell, (x, top + _TEXT_PX))
                draw.text((x, top + _TEXT_PX + _CELL_PX), label[:22], (90, 90, 90))
    sheet.save(path)


def _caption(finding: Finding) -> str:
    flat = finding.picture.flat if finding.picture else None
    return finding.name + (f"  (explained as {flat})" if flat else "")
