"""Small pictures for people who look at many: one frame, or an animation's frames in a row.

Runs in the decoding child process.
"""

from __future__ import annotations

import io

from PIL import Image

from worker.image.frames import Frame, Frames
from worker.image.shown import Background, shown

#: Ground of a frame that is not square, and JPEG quality.
_GROUND, _QUALITY = (128, 128, 128), 82


def sheet(
    frames: Frames, frame: int, background: Background, side_px: int, most: int
) -> tuple[bytes, list[float]]:
    """Draw frames anew, in one JPEG.

    Args:
        frames: of one file.
        frame: the one that scored worst, which is always among them.
        background: what that view was put over.
        side_px: longest side of one frame.
        most: frames at most; 1 draws the worst one alone, in its own shape.

    Returns:
        A JPEG of squares in a row, and how long each is shown in seconds until the next one is; a
        file that has one frame gives no picture where more than one was asked for.
    """
    count = len(frames)
    worst = min(frame, count - 1)
    if most == 1:
        return _jpeg(_small(frames.read(worst), background, side_px)), []
    if count == 1:
        return b"", []
    chosen = _spread(count, worst, most)
    row = Image.new("RGB", (side_px * len(chosen), side_px), _GROUND)
    for place, index in enumerate(chosen):
        small = _small(frames.read(index), background, side_px)
        left, top = (side_px - small.width) // 2, (side_px - small.height) // 2
        row.paste(small, (place * side_px + left, top))
    ends = [*chosen[1:], count]
    lengths = [
        sum(frames.declared.frames[n].duration_s for n in range(first, end))
        for first, end in zip(chosen, ends, strict=True)
    ]
    return _jpeg(row), lengths


def _spread(count: int, worst: int, most: int) -> list[int]:
    """Frames at even distances, the first among them; the worst one takes its neighbour's place."""
    chosen = sorted({n * count // most for n in range(most)})
    if worst not in chosen:
        nearest = min(chosen[1:] or chosen, key=lambda n: abs(n - worst))
        chosen[chosen.index(nearest)] = worst
    return sorted(chosen)


def _small(frame: Frame, background: Background, side_px: int) -> Image.Image:
    image = shown(frame, background).copy()
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return image


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # A picture of Pillow's carries what its file said; only pixels may leave.
    plain = Image.frombytes("RGB", image.size, image.tobytes())
    plain.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
