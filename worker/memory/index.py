"""Which remembered pictures look like one: their hashes, found by the parts that agree.

Half a million hashes of 256 bits are 16 MB, and as much again what finds them. They lie in a file
that all processes of a machine map, so that they are in memory once; what came since it was written
is held beside it. Of each hash the last 64 bits, which change least in a copy, are cut into four
parts. Two that differ there by 15 bits at most have a part that differs by at most 3; so only the
hashes in those buckets are compared, one in 25. Pure but for the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

#: Bits of 256 by which two pictures that look the same may differ.
#: Source: PDQ's authors, github.com/facebook/ThreatExchange/tree/main/pdq, "distance 31".
MOST_BITS = 31

#: The word of a hash that is cut into parts, and its parts of 16 bits.
_WORD, _PARTS = 3, 4

#: Bits by which the word may differ: of 31 spread over 256, 7.8 fall here.
_MOST_OF_WORD = 20

#: What a part may differ by: the 697 patterns of at most 3 of 16 bits. Of pairs that are 31 bits
#: apart, spread evenly, one in 40,000 has no such part.
_NEAR = np.flatnonzero(np.bitwise_count(np.arange(1 << 16, dtype=np.uint16)) <= 3)

#: Bytes before the arrays, with their sizes and what the file holds (JSON).
_HEADER_BYTES = 4096

#: Grows when the file changes its form.
_VERSION = 3

Words = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One remembered picture: its place in the log, the name of its pixels, its hashes."""

    id: str
    pixels: str
    hashes: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """Remembered pictures, ready to be searched.

    Attributes:
        origin: names the memory that they are of.
        last: place in the log up to which they are complete.
        ids: (N, 2) both parts of each picture's place in the log.
        pixels: (N,) first 64 bits of the names of their pixels; 0 for none.
        starts: (N + 1,) first hash of each picture.
        words: (4, H) hashes, 64 bits a row.
        rows: (4, H) numbers of hashes, sorted by each part.
        edges: (4, 65537) where in `rows` each value of a part begins.
    """

    origin: str
    last: str
    ids: Words
    pixels: Words
    starts: npt.NDArray[np.uint32]
    words: Words
    rows: npt.NDArray[np.uint32]
    edges: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, items: Sequence[Item]) -> Self:
        """An index of some pictures, in the order of the log."""
        hashes = b"".join(digest for item in items for digest in item.hashes)
        counts = [len(item.hashes) for item in items]
        return cls._sorted(
            origin="",
            last=items[-1].id if items else "",
            ids=np.array([place_of(item.id) for item in items], np.uint64).reshape(-1, 2),
            pixels=np.array([_first_bits(item.pixels) for item in items], np.uint64),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
            words=np.ascontiguousarray(np.frombuffer(hashes, np.uint64).reshape(-1, 4).T),
        )

    @classmethod
    def _sorted(cls, *, words: Words, **rest: Any) -> Self:
        """With the order of each part."""
        parts = words[_WORD].view(np.uint16).reshape(-1, _PARTS).T
        rows = np.argsort(parts, axis=1, kind="stable").astype(np.uint32)
        counts = np.stack([np.bincount(part, minlength=1 << 16) for part in parts])
        edges = np.zeros((_PARTS, (1 << 16) + 1), np.uint32)
        np.cumsum(counts, axis=1, out=edges[:, 1:])
        return cls(words=words, rows=rows, edges=edges, **rest)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, parts: Sequence[Index]) -> Self:
        """Indexes of one memory, in the order of its log, as one."""
        sizes = [part.words.shape[1] for part in parts]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        starts = [part.starts[:-1] + at for part, at in zip(parts, offsets[:-1], strict=True)]
        return cls._sorted(
            origin=parts[0].origin,
            last=next((part.last for part in reversed(parts) if part.last), ""),
            ids=np.concatenate([part.ids for part in parts]),
            pixels=np.concatenate([part.pixels for part in parts]),
            starts=np.concatenate([*starts, offsets[-1:]]).astype(np.uint32),
            words=np.concatenate([part.words for part in parts], axis=1),
        )

    def with_pixels(self, pixels: str) -> list[str]:
        """Places of pictures whose pixels may have this name; to be compared in full."""
        if not pixels:
            return []
        return [self._id(int(at)) for at in np.flatnonzero(self.pixels == _first_bits(pixels))]

    def near(self, digest: bytes) -> dict[str, int]:
        """Places of pictures that look like one, with the bits by which they differ.

        Args:
            digest: 32 bytes.
        """
        found: dict[str, int] = {}
        if not self.words.size:
            return found
        query = np.frombuffer(digest, np.uint64)
        rows = self._candidates(query)
        apart = np.bitwise_count(self.words[_WORD].take(rows) ^ query[_WORD])
        rows = rows[apart <= _MOST_OF_WORD]
        bits = np.bitwise_count(self.words.take(rows, axis=1) ^ query[:, None]).sum(axis=0)
        for row, distance in zip(rows[bits <= MOST_BITS], bits[bits <= MOST_BITS], strict=True):
            place = self._id(int(np.searchsorted(self.starts, row, side="right")) - 1)
            found[place] = min(int(distance), found.get(place, MOST_BITS))
        return found

    def _candidates(self, query: Words) -> npt.NDArray[np.uint32]:
        """Numbers of the hashes that have a part in common with one, or nearly."""
        parts = query[_WORD : _WORD + 1].view(np.uint16).astype(np.intp)
        buckets = parts[:, None] ^ _NEAR
        part = np.arange(_PARTS)[:, None]
        first = self.edges[part, buckets].astype(np.int32)
        sizes = (self.edges[part, buckets + 1] - first).astype(np.int32).ravel()
        # Each bucket is a slice of `rows`; all of them, one after the other: steps of one within a
        # bucket, and from the end of one to the beginning of the next.
        first = (first + (part * self.rows.shape[1]).astype(np.int32)).ravel()[sizes > 0]
        sizes = sizes[sizes > 0]
        ends = np.cumsum(sizes)
        steps = np.ones(ends[-1] if ends.size else 0, np.int32)
        steps[:1] = first[:1]
        steps[ends[:-1]] = first[1:] - (first[:-1] + sizes[:-1] - 1)
        return self.rows.ravel().take(np.cumsum(steps, dtype=np.int32))

    def _id(self, at: int) -> str:
        return f"{self.ids[at, 0]}-{self.ids[at, 1]}"

    # -- file ----------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the file in one step: whoever reads it has the old one or the new one."""
        header = {
            "version": _VERSION,
            "origin": self.origin,
            "last": self.last,
            "pictures": len(self),
            "hashes": self.words.shape[1],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with new.open("wb") as file:
                file.write(json.dumps(header).encode().ljust(_HEADER_BYTES))
                for name in _shapes(len(self), self.words.shape[1]):
                    file.write(np.ascontiguousarray(getattr(self, name)).data)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Map a file; None where there is none, or none that this version can read."""
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            header = json.loads(data[:_HEADER_BYTES])
            if header["version"] != _VERSION:
                return None
            pictures, hashes = int(header["pictures"]), int(header["hashes"])
            at, arrays = _HEADER_BYTES, dict[str, Any]()
            for name, (kind, shape) in _shapes(pictures, hashes).items():
                found = np.frombuffer(data, kind, math.prod(shape), offset=at)
                arrays[name] = found.reshape(shape)
                at += found.nbytes
            return cls(origin=str(header["origin"]), last=str(header["last"]), **arrays)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _shapes(pictures: int, hashes: int) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """The arrays of a file in their order: those of 64 bits first, so that each is aligned."""
    return {
        "words": (np.uint64, (4, hashes)),
        "ids": (np.uint64, (pictures, 2)),
        "pixels": (np.uint64, (pictures,)),
        "rows": (np.uint32, (_PARTS, hashes)),
        "edges": (np.uint32, (_PARTS, (1 << 16) + 1)),
        "starts": (np.uint32, (pictures + 1,)),
    }


def place_of(place: str) -> tuple[int, int]:
    """A place in the log as numbers; what has a greater one came later."""
    time_ms, _, number = (place or "0-0").partition("-")
    return int(time_ms), int(number)


def _first_bits(pixels: str) -> int:
    return int(pixels[:16] or "0", 16)
