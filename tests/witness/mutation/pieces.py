"""A file as a list of pieces, and what chance does to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

#: Numbers that readers get wrong.
_ODD = (
    *range(10), 15, 16, 17, 32, 64, 96, 97, 100, 127, 128, 255, 256, 257, 1000, 32767, 32768,
    65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1,
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A chunk, block, segment or box.

    Attributes:
        kind: its name or number.
        body: its content; for boxes that hold boxes, what stands before them.
        inside: pieces that it holds.
        fixed: bytes of pixels that chance had better leave alone: only their start is changed.
    """

    kind: bytes
    body: bytes
    inside: tuple[Piece, ...] | None = None
    fixed: bool = False


Pieces = list[Piece]


def change(pieces: Pieces, others: Pieces, dice: random.Random) -> tuple[Pieces, str]:
    """One change somewhere in the tree and its name."""
    if not pieces:
        return pieces, "empty"
    nests = [index for index, piece in enumerate(pieces) if piece.inside]
    if nests and dice.random() < 0.7:
        index = dice.choice(nests)
        nest = pieces[index]
        donors = [other for other in others if other.inside and other.kind == nest.kind]
        donor = list(dice.choice(donors).inside or ()) if donors else list(nest.inside or ())
        inside, word = change(list(nest.inside or ()), donor, dice)
        changed = replace(nest, inside=tuple(inside))
        return [*pieces[:index], changed, *pieces[index + 1 :]], word
    operation, word = dice.choices(_OPERATIONS, weights=_WEIGHTS)[0]
    return operation(pieces, others, dice), word


def _move(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    taken = dice.randrange(len(pieces))
    rest = pieces[:taken] + pieces[taken + 1 :]
    place = dice.randint(0, len(rest))
    return [*rest[:place], pieces[taken], *rest[place:]]


def _double(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    place = dice.randint(0, len(pieces))
    return [*pieces[:place], dice.choice(pieces), *pieces[place:]]


def _drop(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    taken = dice.randrange(len(pieces))
    return pieces[:taken] + pieces[taken + 1 :]


def _swap(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    one, two = dice.randrange(len(pieces)), dice.randrange(len(pieces))
    swapped = list(pieces)
    swapped[one], swapped[two] = swapped[two], swapped[one]
    return swapped


def _borrow(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    if not others:
        return pieces
    place = dice.randint(0, len(pieces))
    return [*pieces[:place], dice.choice(others), *pieces[place:]]


def _replace_by_other(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    index = dice.randrange(len(pieces))
    alike = [other for other in others if other.kind == pieces[index].kind]
    if not alike:
        return _borrow(pieces, others, dice)
    return [*pieces[:index], dice.choice(alike), *pieces[index + 1 :]]


def _rename(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
    index = dice.randrange(len(pieces))
    kind = dice.choice([other.kind for other in [*pieces, *others]])
    if len(kind) != len(pieces[index].kind):
        return pieces
    return [*pieces[:index], replace(pieces[index], kind=kind), *pieces[index + 1 :]]


def _edited(edit: Callable[[bytes, random.Random, bool], bytes]) -> Callable[..., Pieces]:
    def apply(pieces: Pieces, others: Pieces, dice: random.Random) -> Pieces:
        candidates = [index for index, piece in enumerate(pieces) if piece.body]
        metadata = [index for index in candidates if not pieces[index].fixed]
        chosen = metadata if metadata and dice.random() < 0.85 else candidates
        if not chosen:
            return pieces
        index = dice.choice(chosen)
        piece = pieces[index]
        changed = replace(piece, body=edit(piece.body, dice, piece.fixed))
        return [*pieces[:index], changed, *pieces[index + 1 :]]

    return apply


def _cut(body: bytes, dice: random.Random, fixed: bool) -> bytes:
    return body[: dice.randrange(len(body))]


def _lengthen(body: bytes, dice: random.Random, fixed: bool) -> bytes:
    return body + bytes(
        dice.choice((0, 255, dice.randrange(256))) for _ in range(dice.randint(1, 9))
    )


def _falsify_byte(body: bytes, dice: random.Random, fixed: bool) -> bytes:
    at = _place(body, dice, fixed)
    level = dice.choice(
        (dice.randrange(256), dice.choice(_ODD) & 255, body[at] ^ 1 << dice.randrange(8))
    )
    return body[:at] + bytes([level]) + body[at + 1 :]


def _falsify_number(body: bytes, dice: random.Random, fixed: bool) -> bytes:
    width = dice.choice((2, 4))
    if len(body) < width:
        return _falsify_byte(body, dice, fixed)
    at = min(_place(body, dice, fixed) // width * width, len(body) - width)
    order = dice.choice(("big", "little"))
    number = int.from_bytes(body[at : at + width], order)  # type: ignore[arg-type]
    number = dice.choice((dice.choice(_ODD), number + 1, number - 1, number * 2, number // 2))
    changed = (number % 256**width).to_bytes(width, order)  # type: ignore[arg-type]
    return body[:at] + changed + body[at + width :]


def _place(body: bytes, dice: random.Random, fixed: bool) -> int:
    reach = len(body)
    if fixed or dice.random() < 0.6:
        reach = min(reach, 24)
    return dice.randrange(reach)


_OPERATIONS = (
    (_move, "move"),
    (_double, "double"),
    (_drop, "drop"),
    (_swap, "swap"),
    (_borrow, "borrow"),
    (_replace_by_other, "replace"),
    (_rename, "rename"),
    (_edited(_cut), "shorten"),
    (_edited(_lengthen), "lengthen"),
    (_edited(_falsify_byte), "byte"),
    (_edited(_falsify_number), "number"),
)
_WEIGHTS = (3, 3, 2, 2, 4, 3, 1, 1, 1, 4, 4)
