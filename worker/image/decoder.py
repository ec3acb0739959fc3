"""Hostile bytes -> pixels, at arm's length: every file is decoded in a child process.

The children and what becomes of those that crash are in children.py; what runs in them is in
child.py. Nothing that a file does reaches the worker itself.

With `first_look`, most files are done by a child that gives each half a second; one that needs more
time or memory, or crashes it, is for a second child in the background, which has the full limits, a
lower priority, and one file for its whole life.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from producer.errors import CorruptImage
from worker.image.children import Children
from worker.image.containers.formats import DecodeLimits
from worker.image.room import Room
from worker.image.safe_copy import check
from worker.image.shown import Background, Crop, View
from worker.image.views import ViewOptions

__all__ = ["Background", "Crop", "DecodeLimits", "Decoder", "Picture", "View", "ViewOptions"]

#: Short side below which scores and the style head mean less.
SMALL_SIDE_PX = 80
#: Processor seconds of a first look; ordinary avatars take a tenth (`benchmarks/decode_cost.py`).
FIRST_LOOK_S = 0.5
#: Bytes that a first look may allocate: a picture of 4096 x 4096 px fits.
FIRST_LOOK_BYTES = 128 * 2**20


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What an upload turned out to be.

    Attributes:
        format: for example `PNG`.
        width_px: as declared, before it is turned upright.
        height_px: as declared.
        frame_count: 1 for a still picture.
        views: what is to be scored, never empty.
        flat: why no model is needed, for example `single colour`; None where one is.
        unseen: why views do not cover all that people may see, `unseen_frames` or `ambiguous`;
            "" where they do.
        prints: perceptual hashes to look for, of 32 bytes; empty where nobody asked.
        pixels: names all that the file shows, in hex; empty where nobody asked, or no file can be
            relied on to show it again.
    """

    format: str
    width_px: int
    height_px: int
    frame_count: int
    views: list[View]
    flat: str | None
    unseen: str = ""
    prints: tuple[bytes, ...] = ()
    pixels: str = ""

    @property
    def is_small(self) -> bool:
        """Whether a model sees mostly what scaling made up; see docs/quality.md."""
        return min(self.width_px, self.height_px) < SMALL_SIDE_PX


class Decoder:
    """Decodes files in child processes; safe to use from several threads.

    Args:
        limits: what one file may cost.
        options: how pictures are looked at.
        workers: files decoded at the same time with the full limits.
        first_look: give every file a short look first; `decode` raises `NeedsLonger` where that is
            not enough, and `patient` goes on in the background.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        options: ViewOptions,
        workers: int = 1,
        *,
        first_look: bool = False,
    ) -> None:
        """Prepare; children start when first needed, or with `start`."""
        room = Room(limits.turns)
        self._full = Children(limits, options, workers, room, background=first_look)
        self._first: Children | None = None
        if first_look:
            small = min(limits.memory_bytes, FIRST_LOOK_BYTES)
            self._first = Children(replace(limits, memory_bytes=small), options, workers, room)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Start every child now, but for one in the background.

        Raises:
            DecoderUnavailable: a child cannot be started; says why.
        """
        (self._first or self._full).start()

    def close(self) -> None:
        """Wait for pictures under way and end the children; another `decode` starts new ones.

        What runs in the background is not waited for: it raises `DecoderUnavailable`.
        """
        self._full.close()
        if self._first is not None:
            self._first.close()

    def child_pids(self) -> list[int]:
        """Process ids of the children that run now, for status pages and tests."""
        return [*(self._first.pids() if self._first else []), *self._full.pids()]

    def try_to_escape(self) -> tuple[list[str], list[str]]:
        """What the kernel lacks to confine a child, and what a child can do that it must not.

        Raises:
            DecoderUnavailable: no child process can be started or kept alive.
        """
        header, _ = self._full.ask({"op": "attempt"}, b"")
        return [str(name) for name in header["lacking"]], [str(name) for name in header["worked"]]

    def decode(self, data: bytes, *, patient: bool = False, prints: bool = False) -> Picture:
        """Return what is to be scored.

        Args:
            data: the file.
            patient: with the full limits from the beginning; makes no difference without
                `first_look`.
            prints: also what the picture is looked for by among those remembered.

        Raises:
            InvalidInput: the file is refused: `ImageTooLarge`, `UnsupportedImage`, `CorruptImage`,
                `ImageBomb` or `ImageTooSlow`.
            NeedsLonger: the first look was not enough.
            DecoderUnavailable: no child process can be started or kept alive.
        """
        request = {"op": "decode", "prints": prints, "first_look_s": 0.0}
        if self._first is None or patient:
            header, payload = self._full.ask(request, data)
        else:
            header, payload = self._first.look({**request, "first_look_s": FIRST_LOOK_S}, data)
        try:
            return Picture(
                format=str(header["format"]),
                width_px=int(header["width_px"]),
                height_px=int(header["height_px"]),
                frame_count=int(header["frame_count"]),
                flat=header["flat"],
                unseen=str(header["unseen"]),
                prints=_hashes(header["prints"]),
                pixels=_digest(header["pixels"]),
                views=list(_unpack(header["views"], payload)),
            )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise CorruptImage("the file makes the decoder answer nonsense") from error

    def normalise(self, data: bytes, *, frame: int = 0, background: Background = "") -> bytes:
        """Return the JPEG that review providers are sent.

        Args:
            data: the file.
            frame: the frame that scored worst.
            background: what that view was put over; "" puts transparency over grey.

        Returns:
            Short side at least 256 px, long side at most 1024 px, under 180,000 bytes.

        Raises:
            InvalidInput, DecoderUnavailable: as `decode`.
        """
        request = {"op": "normalise", "frame": frame, "background": background, "first_look_s": 0}
        return self._full.ask(request, data)[1]

    def sheet(
        self,
        data: bytes,
        *,
        frame: int = 0,
        background: Background = "",
        side_px: int,
        most: int = 1,
    ) -> tuple[bytes, list[float]]:
        """Draw a file small, or its frames in a row, see sheet.py.

        Raises:
            InvalidInput, DecoderUnavailable: as `decode`.
        """
        asked = {"frame": frame, "background": background, "side_px": side_px, "most": most}
        header, jpeg = self._full.ask({"op": "sheet", **asked, "first_look_s": 0}, data)
        try:
            return jpeg, [float(one) for one in header["durations_s"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptImage("the file makes the decoder answer nonsense") from error

    def prints(
        self, data: bytes, *, frame: int = 0, background: Background = ""
    ) -> tuple[tuple[bytes, ...], str]:
        """By what a file that is remembered is found again, see prints.py.

        Args:
            data: the file.
            frame: the frame that scored worst.
            background: what that view was put over.

        Returns:
            Perceptual hashes of 32 bytes, and a name of all its pixels in hex; both may be empty.

        Raises:
            InvalidInput, DecoderUnavailable: as `decode`.
        """
        request = {"op": "prints", "frame": frame, "background": background, "first_look_s": 0}
        header, _ = self._full.ask(request, data)
        try:
            return _hashes(header["prints"]), _digest(header["pixels"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptImage("the file makes the decoder answer nonsense") from error

    def safe_copy(self, data: bytes, max_side_px: int) -> tuple[bytes, str, int, int]:
        """Encode anew what browsers show of a file, see safe_copy.py.

        Args:
            data: the file.
            max_side_px: longest side of the copy.

        Returns:
            A file without metadata, its media type, and its width and height in pixels.

        Raises:
            InvalidInput, DecoderUnavailable: as `decode`.
        """
        request = {"op": "safe_copy", "max_side_px": max_side_px, "first_look_s": 0}
        header, copy = self._full.ask(request, data)
        try:
            return copy, check(copy), int(header["width"]), int(header["height"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptImage("the file makes the decoder answer nonsense") from error


def _hashes(texts: list[str]) -> tuple[bytes, ...]:
    found = tuple(bytes.fromhex(text) for text in texts)
    if any(len(digest) != 32 for digest in found):
        raise ValueError("a hash is not of 256 bits")
    return found


def _digest(text: str) -> str:
    """What a child may call a file's pixels; it must not choose what else is looked up by it."""
    if text and len(bytes.fromhex(text)) != 32:
        raise ValueError("not a hash")
    return text


def _unpack(views: list[dict[str, Any]], payload: bytes) -> Iterator[View]:
    at = 0
    for view in views:
        arrays = []
        for height, width in view.pop("sizes"):
            count = int(height) * int(width) * 3
            pixels = np.frombuffer(payload, np.uint8, count, offset=at)
            arrays.append(pixels.reshape((int(height), int(width), 3)))
            at += count
        yield View(pixels=arrays[0], second=arrays[1] if len(arrays) > 1 else None, **view)
