"""How far one model's scores are from another's, over pictures; the basis of the guard band."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, UnidentifiedImageError

from producer.errors import BundleError
from worker.image.preprocess import fit
from worker.model.bundle import Bundle, Parity
from worker.model.calibration import Calibration, logit, straddles
from worker.model.engine import Engine

#: Least number of pictures that a report may rest on.
MIN_PICTURES = 200

#: Cut-offs of the built-in policy, for photographs; flips and re-scored shares refer to them.
DEFAULT_CUT_OFFS = (0.05, 0.95)

#: The guard band is the largest error seen, widened by this for pictures that were not.
_GUARD_MARGIN = 1.25

#: What a bundle may differ from its reference: (max, 99th percentile) of the probabilities.
LIMITS = {"fp32": (1e-3, 1e-3), "int8": (0.15, 0.10)}

Scores = npt.NDArray[np.float64]


def synthetic_pictures(count: int, seed: int = 0) -> Iterator[Image.Image]:
    """Draw pictures of many kinds and shapes: gradients, shapes, blobs, textures; all harmless.

    Args:
        count: how many.
        seed: equal seeds give equal pictures.

    Yields:
        RGB pictures with sides of 48 to 640 px.
    """
    for index in range(count):
        dice = np.random.default_rng([seed, index])
        size = (int(dice.integers(48, 640)), int(dice.integers(48, 640)))
        grid = dice.integers(0, 256, (int(dice.integers(2, 9)), int(dice.integers(2, 9)), 3))
        picture = Image.fromarray(grid.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        kind = index % 4
        if kind in (1, 3):
            _draw_shapes(picture, dice)
        if kind == 2:
            noise = dice.normal(0, dice.uniform(4, 60), (size[1], size[0], 3))
            pixels = np.clip(np.asarray(picture, np.float64) + noise, 0, 255)
            picture = Image.fromarray(pixels.astype(np.uint8))
        if kind == 3:
            picture = picture.filter(ImageFilter.GaussianBlur(float(dice.uniform(0.5, 6))))
        yield picture


def folder_pictures(folder: Path) -> list[Path]:
    """Return the files of a folder that may be pictures, sorted.

    Raises:
        BundleError: the folder is missing or holds none.
    """
    endings = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)
    if not found:
        raise BundleError(f"no picture lies in {folder} ({', '.join(sorted(endings))})")
    return found


def pictures(folder: Path | None, count: int) -> Iterator[Image.Image]:
    """Yield up to `count` real pictures of a folder, then synthetic ones."""
    real = 0
    for path in folder_pictures(folder)[:count] if folder else ():
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
            continue
        real += 1
        yield picture
    yield from synthetic_pictures(count - real)


def score_all(
    engines: Sequence[Engine],
    images: Iterator[Image.Image],
    advance: Callable[[], None] = lambda: None,
) -> list[Scores]:
    """Score every picture with every engine, one picture in memory at a time.

    Args:
        engines: their bundles share one input rule.
        images: RGB pictures.
        advance: called after each picture.

    Returns:
        One array of raw scores per engine.
    """
    rows = []
    for image in images:
        pixels = fit(image, engines[0].bundle.input)[None]
        rows.append([float(engine.run(pixels)[0]) for engine in engines])
        advance()
    return list(np.asarray(rows, np.float64).T)


def compare(
    candidate: Scores,
    reference: Scores,
    *,
    calibration: Calibration,
    reference_name: str,
    rescored: Scores | None = None,
    cut_offs: Sequence[float] = DEFAULT_CUT_OFFS,
) -> Parity:
    """Report how far `candidate` is from `reference`.

    Args:
        candidate: raw scores of the artefact.
        reference: raw scores of what it must equal.
        calibration: of the artefact.
        reference_name: for the report.
        rescored: raw scores of the float32 model that re-scores what is in the guard band.
        cut_offs: for flips and the share that is re-scored.
    """
    p = np.array([calibration.probability(raw) for raw in candidate])
    q = np.array([calibration.probability(raw) for raw in reference])
    error = np.abs(p - q)
    logit_error = np.abs([logit(a) - logit(b) for a, b in zip(candidate, reference, strict=True)])
    band = float(logit_error.max()) * _GUARD_MARGIN
    details: dict[str, Any] = {
        "max_logit_error": round(float(logit_error.max()), 6),
        "cut_offs": list(cut_offs),
        "flips": int((_verdicts(p, cut_offs) != _verdicts(q, cut_offs)).sum()),
        "raw_score_quantiles": [
            round(x, 4) for x in np.quantile(reference, [0, 0.25, 0.5, 0.75, 1])
        ],
    }
    if rescored is not None:
        near = np.array([straddles(calibration, raw, band, cut_offs) for raw in candidate])
        final = np.where(near, [calibration.probability(raw) for raw in rescored], p)
        exact = np.array([calibration.probability(raw) for raw in rescored])
        details["rescored_share"] = round(float(near.mean()), 4)
        details["flips_after_rescoring"] = int(
            (_verdicts(final, cut_offs) != _verdicts(exact, cut_offs)).sum()
        )
    return Parity(
        pictures=len(candidate),
        reference=reference_name,
        max_error=float(error.max()),
        p99_error=float(np.quantile(error, 0.99)),
        guard_band=round(band, 6),
        details=details,
    )


def check_limits(parity: Parity, bundle: Bundle) -> None:
    """Refuse a bundle that is too far from its reference.

    Raises:
        BundleError: with the figures and the limits.
    """
    most, p99 = LIMITS[bundle.precision]
    if parity.max_error <= most and parity.p99_error <= p99:
        return
    raise BundleError(
        f"{bundle.id} is too far from {parity.reference} over {parity.pictures} pictures: the "
        f"probabilities differ by up to {parity.max_error:.4f} (limit {most}), 99th percentile "
        f"{parity.p99_error:.4f} (limit {p99}), {parity.details['flips']} verdicts flip; "
        "nothing was written"
    )


def _verdicts(probabilities: Scores, cut_offs: Sequence[float]) -> npt.NDArray[np.int64]:
    return np.digitize(probabilities, sorted(cut_offs))


def _draw_shapes(picture: Image.Image, dice: np.random.Generator) -> None:
    draw = ImageDraw.Draw(picture)
    for _ in range(int(dice.integers(3, 20))):
        corners = dice.uniform(0, 1, (2, 2)) * picture.size
        low, high = corners.min(axis=0), corners.max(axis=0)
        box = [float(value) for value in (*low, *high)]
        colour = tuple(int(value) for value in dice.integers(0, 256, 3))
        shape = (draw.ellipse, draw.rectangle)[int(dice.integers(2))]
        shape(box, fill=colour, outline=(0, 0, 0), width=int(dice.integers(0, 4)))
