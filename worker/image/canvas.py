"""Frames put together as browsers do it: rectangle, blend and disposal on a canvas of fixed size.

Source: GIF89a, 23 (disposal); PNG (third edition), 11.3.6; RFC 9649, 2.7.1. Browsers ignore the
background colours of GIF and WebP: a canvas begins transparent, and what is cleared is transparent.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from worker.image.containers.contents import Cel, Contents, eight_bit

Box = tuple[int, int, int, int]


class Canvas:
    """Shows the frames of one file one after the other."""

    def __init__(self, contents: Contents) -> None:
        """Prepare; the first frame is decoded by the first `show`."""
        self._size = contents.width_px, contents.height_px
        self._frames = contents.frames
        self._is_webp = contents.format == "WebP"
        self._doubts = contents.doubts
        self._next = 0
        self._image: Image.Image | None = None
        self._restore: tuple[Image.Image | None, Box] | None = None

    def show(self, index: int) -> Image.Image:
        """The whole picture while a frame is shown; asking in order is cheapest.

        Returns:
            The frame itself where it is all there is to see, else mode RGBA. It is only good until
            the next call.
        """
        if len(self._frames) == 1 and self._is_whole(self._frames[0]):
            return self._frames[0].decode()
        if index < self._next - 1:
            self._next, self._image, self._restore = 0, None, None
        while self._next <= index:
            self._paint(self._frames[self._next])
            self._next += 1
        assert self._image is not None
        return self._image

    def _is_whole(self, cel: Cel) -> bool:
        return (cel.left_px, cel.top_px, cel.width_px, cel.height_px) == (0, 0, *self._size)

    def _paint(self, cel: Cel) -> None:
        if self._image is None:
            self._image = Image.new("RGBA", self._size)
        self._dispose()
        left, top = cel.left_px, cel.top_px
        right, bottom = (
            min(left + cel.width_px, self._size[0]),
            min(top + cel.height_px, self._size[1]),
        )
        if right <= left or bottom <= top:
            cel.decode()
            return
        place = (left, top, right, bottom)
        if cel.disposal != "keep":
            kept = self._image.crop(place) if cel.disposal == "previous" else None
            self._restore = kept, place
        image = cel.decode()
        opaque = image.mode not in ("RGBA", "LA")
        if image.mode == "I;16":
            image = eight_bit(image)
        elif image.mode == "RGBX":
            image = image.convert("RGB")
        image = image.convert("RGBA").crop((0, 0, right - left, bottom - top))
        if cel.blends and not opaque:
            if self._is_webp:
                self._doubt_mixture(image, self._image.crop(place))
            self._image.alpha_composite(image, (left, top))
        else:
            self._image.paste(image, (left, top))

    def _doubt_mixture(self, image: Image.Image, below: Image.Image) -> None:
        """Chromium paints what shines through twice lighter in a page than on its own."""
        both = [np.asarray(each.getchannel("A")) for each in (image, below)]
        if np.logical_and(*((alpha > 0) & (alpha < 255) for alpha in both)).any():
            self._doubts.append("transparency over transparency")

    def _dispose(self) -> None:
        if self._restore is None or self._image is None:
            return
        kept, place = self._restore
        self._restore = None
        if kept is None:
            self._image.paste((0, 0, 0, 0), place)
        else:
            self._image.paste(kept, place[:2])
