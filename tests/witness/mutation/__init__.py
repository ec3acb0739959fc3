"""Files that nobody wrote: valid ones whose structure was changed by chance, by a seed.

Chunks, blocks, segments and boxes are moved, doubled, dropped, swapped, borrowed from another
file, cut, lengthened and falsified; checksums, sizes and offsets are then made right again, most of
the time, so that a reader gets as far as the change.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.witness.files import FORMATS
from tests.witness.mutation import bmp, gif, iso, jpeg, png, webp
from tests.witness.mutation.pieces import Piece, change

#: How each format is taken apart and put together again.
_CODECS: dict[str, tuple[Callable[[bytes], list[Piece]], Callable[..., bytes]]] = {
    "png": (png.split, png.join),
    "apng": (png.split, png.join),
    "gif": (gif.split, gif.join),
    "jpeg": (jpeg.split, jpeg.join),
    "webp": (webp.split, webp.join),
    "bmp": (bmp.split, bmp.join),
    "avif": (iso.split, iso.join),
}
_MOST_SEED_BYTES = 40_000


def mutated(count: int, seed: int, *formats: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of so many changed files; the same for the same seed."""
    names = formats or tuple(_CODECS)
    originals = {name: _originals(name) for name in names}
    for number in range(count):
        dice = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        yield mutate(name, originals[name], dice, number)


def _originals(name: str) -> list[tuple[str, list[Piece]]]:
    split, _ = _CODECS[name]
    small = [(kind, data) for kind, data in FORMATS[name]() if len(data) <= _MOST_SEED_BYTES]
    return [(kind, split(data)) for kind, data in small]


def mutate(
    name: str, originals: list[tuple[str, list[Piece]]], dice: random.Random, number: int
) -> tuple[str, bytes]:
    """One changed file of a format."""
    _, join = _CODECS[name]
    kind, pieces = dice.choice(originals)
    _, others = dice.choice(originals)
    said = []
    for _ in range(dice.choices((1, 2, 3), weights=(5, 3, 1))[0]):
        pieces, word = change(pieces, others, dice)
        said.append(word)
    data = join(pieces, dice)
    if dice.random() < 0.03:
        data, said = data[: dice.randrange(len(data) // 2, len(data) + 1)], [*said, "cut"]
    stem, _, ending = kind.rpartition(".")
    return f"{name}/{number:05}-{stem}~{'+'.join(said)}.{ending}", data
