"""Which formats are taken, told by a file's first bytes, and what one upload may cost.

Everything else that a file says is read by the modules in `containers`. Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from producer.errors import CorruptImage, ImageBomb, UnsupportedImage

#: What an uploader may send, for messages.
ACCEPTED = "JPEG, PNG, GIF, WebP, AVIF, HEIC or BMP"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})

#: First bytes of icons and cursors, also where they read as the size of another format's first box:
#: browsers look for these before.
_ICONS = (b"\0\0\1\0", b"\0\0\2\0")

#: Length of the second header of each BMP version, OS/2 1 to Windows 5.
_BMP_HEADERS = frozenset(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))

#: First bytes of what people send instead of a picture we take, and its name.
_REFUSED = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"II+\0", "a BigTIFF picture"),
    (b"MM\0+", "a BigTIFF picture"),
    (_ICONS[0], "a Windows icon"),
    (_ICONS[1], "a Windows cursor"),
    (b"PK\3\4", "a ZIP archive or office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"{\\rtf", "a rich text document"),
    (b"%!PS", "a PostScript document"),
    (b"gimp xcf", "a GIMP file"),
    (b"DDS ", "a DirectDraw texture"),
    (b"qoif", "a QOI picture"),
    (b"FLIF", "a FLIF picture"),
    (b"BPG\xfb", "a BPG picture"),
)
_TEXT_NAMES = ((b"<svg", "an SVG drawing"), (b"<html", "a web page"), (b"<!doctype", "a web page"))


#: Pixels of one frame from which a picture is large: 32 MB of colours, and as much to work on them.
_LARGE_PX = 8_000_000
#: Pixels of all frames: of those only what is scored is kept.
_LARGE_TOTAL_PX = 64_000_000


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What one upload may cost; everything but time is checked before it is spent.

    Attributes:
        max_bytes: size of the file.
        max_pixels: declared pixels of one frame.
        max_side_px: declared longer side.
        max_aspect_ratio: longer side divided by the shorter one.
        max_frames: frames in the file, all of which are looked at.
        max_total_pixels: declared pixels of all frames together.
        timeout_s: processor seconds; a busy machine does not make a good picture too slow.
            Four times as much by the wall clock is the end in any case.
        memory_bytes: what the child process may allocate beyond its size at rest.
        turns: file by which all processes of this machine take turns at large pictures, see
            room.py; "" has those of one decoder take turns.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 50_000_000
    max_side_px: int = 16_384
    max_aspect_ratio: float = 16.0
    max_frames: int = 1_000
    max_total_pixels: int = 300_000_000
    timeout_s: float = 5.0
    memory_bytes: int = 256 * 2**20
    turns: str = ""

    def is_large(self, frame_px: int, frames: int) -> bool:
        """Whether a picture of so many pixels a frame waits for its turn, see room.py."""
        return frame_px > _LARGE_PX or frame_px * frames > _LARGE_TOTAL_PX

    def check_size(self, width_px: int, height_px: int, frame_count: int = 1) -> None:
        """Refuse a size that is empty or above the limits.

        Raises:
            CorruptImage: a side is zero.
            ImageBomb: more pixels or frames than allowed.
            UnsupportedImage: a strip longer than the aspect ratio allows.
        """
        if width_px < 1 or height_px < 1 or frame_count < 1:
            raise CorruptImage(f"the picture is {width_px} x {height_px} px and shows nothing")
        long_px, short_px = max(width_px, height_px), min(width_px, height_px)
        if long_px > self.max_side_px or width_px * height_px > self.max_pixels:
            raise ImageBomb(
                f"the picture is {width_px} x {height_px} px; at most {self.max_side_px} px a side "
                f"and {self.max_pixels / 1e6:g} million pixels are accepted"
            )
        if frame_count > self.max_frames:
            raise ImageBomb(
                f"the animation has more than the {self.max_frames} frames that are accepted"
            )
        if width_px * height_px * frame_count > self.max_total_pixels:
            raise ImageBomb(
                f"{frame_count} frames of {width_px} x {height_px} px are more than "
                f"{self.max_total_pixels / 1e6:g} million pixels together"
            )
        if long_px > self.max_aspect_ratio * short_px:
            raise UnsupportedImage(
                f"a strip of {width_px} x {height_px} px cannot be an avatar; the longer side may "
                f"be at most {self.max_aspect_ratio:g} times the shorter one"
            )


def sniff(data: bytes) -> str:
    """Name the format by its first bytes, as browsers do.

    Raises:
        CorruptImage: there is nothing to look at.
        UnsupportedImage: anything but the allow-list; says what it is where that is known.

    Source: WHATWG MIME Sniffing, section 6.1, image type pattern matching.
    """
    if not data:
        raise CorruptImage("the file is empty")
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp" and not data.startswith(_ICONS):
        return _sniff_iso(data)
    raise UnsupportedImage(f"this is {_name_refused(data)}; send {ACCEPTED}")


def _sniff_iso(data: bytes) -> str:
    end = min(struct.unpack(">I", data[:4])[0], 4096)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    raise UnsupportedImage(f"this is an MP4 or QuickTime video; send {ACCEPTED}")


def _name_refused(data: bytes) -> str:
    for start, name in _REFUSED:
        if data.startswith(start):
            return name
    head = data[:1024].lower()
    for tag, name in _TEXT_NAMES:
        if tag in head:
            return name
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml"):
        return "an XML document"
    if not head.translate(None, bytes(range(32, 127)) + b"\t\r\n"):
        return "a text"
    return "not a picture that we know"
