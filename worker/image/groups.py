"""Frames that look alike, as one: what stands for all that an animation shows.

Frames are compared by what the model would get of them, pixel by pixel, so that nothing which a
score could tell apart counts as the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from worker.image import generated
from worker.image.frames import Frame
from worker.image.preprocess import Uint8Array
from worker.image.shown import View

#: Levels (0..255) by which two pictures must differ within a cell to be seen, on average over its
#: pixels and channels: each pixel's difference counts, so that a pattern does not even out.
VISIBLE_LEVELS = 10
#: Cells along the longer side of what is compared: of 7 pixels for a model of 224.
_CELLS = 32
_THIRDS = np.full(3, 1 / 3, np.float32)
#: Groups whose pixels are kept; the rest counts as not seen.
_MOST_KEPT = 256


def differ(one: Uint8Array, other: Uint8Array) -> bool:
    """Whether somebody would see that two pictures of one size are not the same."""
    apart = ImageChops.difference(Image.fromarray(one), Image.fromarray(other))
    return bool(_means(apart).max() >= VISIBLE_LEVELS)


def cells(pixels: Uint8Array) -> npt.NDArray[np.float32]:
    """Mean level of each cell, over its pixels and channels, in one row."""
    return _means(Image.fromarray(pixels))


def _means(image: Image.Image) -> npt.NDArray[np.float32]:
    small = image.reduce(max(1, max(image.size) // _CELLS))
    return np.asarray(small).reshape(-1, 3) @ _THIRDS


@dataclass
class Group:
    """Frames that look like the first of them, or like the first that shows anything at all."""

    looks: list[View]
    means: npt.NDArray[np.float32]
    shown_s: float = 0.0
    count: int = 0

    def is_like(self, looks: Sequence[View], means: npt.NDArray[np.float32]) -> bool:
        """Whether every view of a frame looks like this group's."""
        if len(looks) != len(self.looks) or np.abs(means - self.means).max() >= VISIBLE_LEVELS:
            return False
        return all(
            (mine.background, mine.crop) == (theirs.background, theirs.crop)
            and not differ(mine.pixels, theirs.pixels)
            for mine, theirs in zip(self.looks, looks, strict=True)
        )

    def show(self, frame: Frame) -> None:
        """Count the time of one more frame."""
        self.shown_s += frame.duration_s
        self.count += 1

    def join(self, frame: Frame, looks: Sequence[View]) -> None:
        """Take in a frame; what is faint stands for what shows nothing, which is not scored."""
        self.show(frame)
        for at, (mine, theirs) in enumerate(zip(self.looks, looks, strict=True)):
            if mine is not theirs and _shows_nothing(mine) and not _shows_nothing(theirs):
                self.looks[at] = theirs
                self.means = _means_of(self.looks)

    def views(self) -> list[View]:
        """Its views without those that look like another of them."""
        found: list[View] = []
        # In place of what shows nothing, what is faint is kept.
        order = sorted(self.looks, key=_shows_nothing) if len(self.looks) > 1 else self.looks
        for look in order:
            if all(differ(look.pixels, other.pixels) for other in found):
                found.append(look)
        return found


def _shows_nothing(look: View) -> bool:
    return generated.shows_nothing(look.pixels)


def _means_of(looks: Sequence[View]) -> npt.NDArray[np.float32]:
    return np.concatenate([cells(look.pixels) for look in looks])


@dataclass
class Groups:
    """All groups of one file, in the order in which they appear."""

    groups: list[Group] = field(default_factory=list)
    explanations: list[str | None] = field(default_factory=list)
    is_overfull: bool = False
    _last: Group | None = None
    _seen: dict[bytes, Group | None] = field(default_factory=dict)

    def is_repeated(self, frame: Frame) -> bool:
        """Whether a frame is another one to the last pixel; its time is then counted there."""
        key = _key(frame)
        if key not in self._seen:
            return False
        if group := self._seen[key]:
            group.show(frame)
        return True

    def add(self, frame: Frame, looks: list[View], *, is_only: bool, flat_rule: bool) -> bool:
        """Put a frame to its like.

        Args:
            frame: with its time and pictures.
            looks: all its views.
            is_only: there are no others.
            flat_rule: ask the flat rule about it.

        Returns:
            Whether it looks like none before it.
        """
        means = np.zeros(0, np.float32)
        if not is_only:
            means = _means_of(looks)
        if flat_rule and None not in self.explanations:
            # What is too faint to be scored by itself must be explained all the same.
            self.explanations.append(explain(frame))
        group = self._find(looks, means)
        if group is None and len(self.groups) < _MOST_KEPT:
            group = Group(looks, means)
            self.groups.append(group)
        if not is_only:
            self._seen[_key(frame)] = group
        if group is None:
            self.is_overfull = True
            return True
        is_new = group.count == 0
        group.join(frame, looks)
        self._last = group
        return is_new

    def _find(self, looks: list[View], means: npt.NDArray[np.float32]) -> Group | None:
        if self._last is not None and self._last.is_like(looks, means):
            return self._last
        return next((group for group in self.groups if group.is_like(looks, means)), None)

    @property
    def explanation(self) -> str | None:
        """The flat rule's word if it has one for every frame."""
        return None if None in self.explanations or not self.explanations else self.explanations[-1]

    def longest(self, most: int) -> list[list[View]]:
        """Views of the groups that are shown longest, in the order in which they appear."""
        weights: npt.NDArray[np.float64] = np.array([group.shown_s for group in self.groups])
        if not weights.any():
            weights = np.array([group.count for group in self.groups], dtype=np.float64)
        chosen = sorted(np.argsort(-weights, kind="stable")[:most].tolist())
        return [self.groups[at].views() for at in chosen]


def _key(frame: Frame) -> bytes:
    digest = hashlib.blake2b()
    for name, image in frame.renditions.items():
        digest.update(f"{name} {image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.digest()


def explain(frame: Frame) -> str | None:
    """The flat rule explains each rendition, or none; never what colour data or alpha changed."""
    if not frame.is_plain or frame.image.mode != "RGB":
        return None
    return generated.explain(frame.image)
