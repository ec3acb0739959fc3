"""Pictures that a rule can explain without a model. Pure; see docs/quality.md for its measure."""

from __future__ import annotations

from PIL import Image


def explain(image: Image.Image) -> str | None:
    """Say what a picture is where it is surely harmless, for example `single colour`."""
    low_high = image.getextrema()
    if all(high - low <= 8 for low, high in low_high):  # type: ignore[misc]
        return "single colour"
    return None
