"""Our own strict reading of every container: bytes in, what a browser would show of them out.

One module a format. Each walks the file once, keeps the parts that browsers use from where browsers
accept them, and gives a decoder library a small file written anew: nothing else reaches it. What a
file says twice, late or against itself is noted as a doubt. Used in the decoding child only.
"""

from __future__ import annotations

import struct

from producer.errors import CorruptImage
from worker.image.containers import bmp, gif, isobmff, jpeg, png, webp
from worker.image.containers.contents import Contents
from worker.image.containers.formats import DecodeLimits, sniff

__all__ = ["Contents", "read"]

_READERS = {
    "PNG": png.read,
    "JPEG": jpeg.read,
    "GIF": gif.read,
    "WebP": webp.read,
    "BMP": bmp.read,
    "AVIF": isobmff.read_avif,
    "HEIC": isobmff.read_heic,
}


def read(data: bytes, limits: DecodeLimits) -> Contents:
    """Name the format and read what the file shows, without decoding a pixel.

    Raises:
        UnsupportedImage: not on the allow-list, or a strip.
        CorruptImage: empty, truncated or contradicting itself.
        ImageBomb: more pixels, frames, scans or parts than allowed.
    """
    name = sniff(data)
    try:
        contents = _READERS[name](data, limits)
    except (struct.error, IndexError) as error:
        raise CorruptImage(f"the {name} file is truncated") from error
    limits.check_size(contents.width_px, contents.height_px, len(contents.frames))
    return contents
