"""Kinds that are legal or nearly so, and that hardly any program writes: one module a family.

Files of ordinary kinds in the wrong order stand one folder above; these use what the formats offer
and readers forget.
"""

from tests.witness.files.rare import (
    avif,
    avif_at_odds,
    bmp,
    gain,
    gif,
    jpeg,
    png,
    profiles,
    tables,
    webp,
)

__all__ = [
    "avif", "avif_at_odds", "bmp", "gain", "gif", "jpeg", "png", "profiles", "tables", "webp",
]  # fmt: skip
