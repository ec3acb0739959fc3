"""What a file says it is, read from its bytes without decoding a pixel, and what it may cost.

`declare` names the format by content, walks the file's structure to its end and refuses what is
truncated, not on the allow-list or larger than `DecodeLimits`, before anything is allocated for it.
AVIF and HEIC have no walker here: `frames` checks what their libraries read from the header.
Pure; runs in the decoding child process.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from producer.errors import CorruptImage, ImageBomb, UnsupportedImage

#: What an uploader may send, for messages.
ACCEPTED = "JPEG, PNG, GIF, WebP, AVIF, HEIC or BMP"

#: A progressive JPEG has about ten scans; thousands make a small file take minutes.
MAX_JPEG_SCANS = 100

#: Hundredths of a second below which browsers show a GIF frame for a tenth of a second.
_GIF_FAST_CS = 2

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
#: Start-of-frame markers carry the size; C4, C8 and CC are other things (ITU T.81, table B.1).
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})

#: First bytes of what people send instead of a picture we take, and its name.
_REFUSED = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop file"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"II+\0", "a BigTIFF picture"),
    (b"MM\0+", "a BigTIFF picture"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\0\0\2\0", "a Windows cursor"),
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
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 50_000_000
    max_side_px: int = 16_384
    max_aspect_ratio: float = 16.0
    max_frames: int = 1_000
    max_total_pixels: int = 300_000_000
    timeout_s: float = 5.0
    memory_bytes: int = 256 * 2**20

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


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a file says of itself.

    `durations_s` has one entry a frame, as browsers would show it; empty when the format's library
    must tell. Width, height and frames are 0 for AVIF and HEIC.
    """

    format: str
    width_px: int = 0
    height_px: int = 0
    frame_count: int = 0
    durations_s: tuple[float, ...] = ()


def declare(data: bytes, limits: DecodeLimits) -> Declared:
    """Name the format and read what it declares.

    Raises:
        UnsupportedImage: not on the allow-list, or a strip.
        CorruptImage: empty, truncated or contradicting itself.
        ImageBomb: more pixels, frames or scans than allowed.
    """
    name = sniff(data)
    walk = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WebP": _webp, "BMP": _bmp}.get(name)
    if walk is None:
        return Declared(format=name)
    try:
        declared = walk(data, limits)
    except (struct.error, IndexError) as error:
        raise CorruptImage(f"the {name} file is truncated") from error
    limits.check_size(declared.width_px, declared.height_px, declared.frame_count)
    return declared


def sniff(data: bytes) -> str:
    """Name the format by its first bytes, as browsers do.

    Raises:
        CorruptImage: there is nothing to look at.
        UnsupportedImage: anything but the allow-list; says what it is where that is known.

    Source: WHATWG MIME Sniffing, section 6.1, image type pattern matching.
    """
    if not data:
        raise CorruptImage("the file is empty")
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
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


def _png(data: bytes, limits: DecodeLimits) -> Declared:
    width_px = height_px = claimed = 0
    has_pixels = has_hidden_default = False
    durations: list[float] = []
    for kind, body in _png_chunks(data):
        if kind == b"IHDR":
            width_px, height_px = struct.unpack(">II", body[:8])
            limits.check_size(width_px, height_px)
        elif kind == b"acTL":
            claimed = struct.unpack(">I", body[:4])[0]
            limits.check_size(width_px, height_px, max(claimed, 1))
        elif kind == b"fcTL":
            durations.append(_apng_duration(body, width_px, height_px))
        elif kind == b"IDAT" and not has_pixels:
            has_pixels = True
            has_hidden_default = claimed > 0 and not durations
    if not has_pixels:
        raise CorruptImage("the PNG file has no pixels")
    if claimed != len(durations) and claimed:
        raise CorruptImage(f"the PNG file announces {claimed} frames and has {len(durations)}")
    if claimed and has_hidden_default:
        durations.insert(0, 0.0)
    frames = tuple(durations) if claimed else (0.0,)
    return Declared(
        format="PNG",
        width_px=width_px,
        height_px=height_px,
        frame_count=len(frames),
        durations_s=frames,
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG_SIGNATURE)
    if data[at + 4 : at + 8] != b"IHDR":
        raise CorruptImage("the PNG file does not begin with its header")
    while True:
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        if not kind[0] & 0x20 and checksum != zlib.crc32(body, zlib.crc32(kind)):
            raise CorruptImage(f"the PNG file's {kind.decode('latin-1')} chunk is damaged")
        if kind == b"IEND":
            return
        yield kind, body
        at += 12 + length


def _apng_duration(body: bytes, width_px: int, height_px: int) -> float:
    width, height, left, top, over, under = struct.unpack(">IIIIHH", body[4:24])
    if not width or not height or left + width > width_px or top + height > height_px:
        raise CorruptImage("a frame of the PNG animation lies outside the picture")
    return float(over / (under or 100))


def _jpeg(data: bytes, limits: DecodeLimits) -> Declared:
    width_px = height_px = scans = 0
    at = 2
    while True:
        match = _JPEG_MARKER.search(data, at)
        if match is None:
            raise CorruptImage("the JPEG file is truncated: it has no end")
        marker, at = match.group(1)[0], match.end()
        if marker == 0xD9:
            break
        if marker in (0xD8, 0x01):
            continue
        (length,) = struct.unpack(">H", data[at : at + 2])
        if marker in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 3 : at + 7])
            limits.check_size(width, height)
            width_px, height_px = max(width_px, width), max(height_px, height)
        scans += marker == 0xDA
        at += length
    if scans > MAX_JPEG_SCANS:
        raise ImageBomb(f"the JPEG file has {scans} scans; at most {MAX_JPEG_SCANS} are accepted")
    if not scans:
        raise CorruptImage("the JPEG file has no pixels")
    return Declared(
        format="JPEG", width_px=width_px, height_px=height_px, frame_count=1, durations_s=(0.0,)
    )


def _gif(data: bytes, limits: DecodeLimits) -> Declared:
    width_px, height_px, flags = struct.unpack("<HHB", data[6:11])
    at = 13 + _gif_table_bytes(flags)
    durations: list[float] = []
    delay_cs = 0
    # Old programs leave out the end mark, and browsers do not miss it.
    while at < len(data) and (block := data[at]) != 0x3B:
        if block == 0x21:
            if data[at + 1] == 0xF9:
                (delay_cs,) = struct.unpack("<H", data[at + 4 : at + 6])
            at = _gif_skip(data, at + 2)
        elif block == 0x2C:
            left, top, width, height, flags = struct.unpack("<HHHHB", data[at + 1 : at + 10])
            width_px, height_px = max(width_px, left + width), max(height_px, top + height)
            durations.append(0.1 if delay_cs < _GIF_FAST_CS else delay_cs / 100)
            limits.check_size(width_px, height_px, len(durations))
            at = _gif_skip(data, at + 11 + _gif_table_bytes(flags))
            delay_cs = 0
        else:
            raise CorruptImage("the GIF file is damaged between its frames")
    if not durations:
        raise CorruptImage("the GIF file has no pixels")
    return Declared(
        format="GIF",
        width_px=width_px,
        height_px=height_px,
        frame_count=len(durations),
        durations_s=tuple(durations),
    )


def _gif_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_skip(data: bytes, at: int) -> int:
    # A last block that is cut short may still hold every pixel: that is for the codec to say.
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


def _webp(data: bytes, limits: DecodeLimits) -> Declared:
    (size,) = struct.unpack("<I", data[4:8])
    if size + 8 > len(data):
        raise CorruptImage(f"the WebP file is truncated: {len(data)} of {size + 8} bytes")
    width_px = height_px = 0
    durations: list[float] = []
    has_still = False
    for kind, body in _webp_chunks(data[: size + 8]):
        if kind == b"VP8X":
            width_px, height_px = (_u24(body[at : at + 3]) + 1 for at in (4, 7))
        elif kind == b"ANMF":
            durations.append(_u24(body[12:15]) / 1000)
            limits.check_size(width_px, height_px, len(durations))
        elif kind in (b"VP8 ", b"VP8L"):
            has_still = True
            width, height = _webp_size(kind, body)
            width_px, height_px = max(width_px, width), max(height_px, height)
    if not has_still and not durations:
        raise CorruptImage("the WebP file has no pixels")
    frames = tuple(durations) or (0.0,)
    return Declared(
        format="WebP",
        width_px=width_px,
        height_px=height_px,
        frame_count=len(frames),
        durations_s=frames,
    )


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        if at + 8 + length > len(data):
            raise CorruptImage("the WebP file is truncated")
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _u24(body: bytes) -> int:
    return int(struct.unpack("<I", body + b"\0")[0])


#: Length of the second header of each BMP version, OS/2 1 to Windows 5.
_BMP_HEADERS = frozenset(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))


def _bmp(data: bytes, limits: DecodeLimits) -> Declared:
    (header_bytes,) = struct.unpack("<I", data[14:18])
    if header_bytes == 12:
        width, height = struct.unpack("<HH", data[18:22])
    else:
        width, height = struct.unpack("<ii", data[18:26])
    limits.check_size(abs(width), abs(height))
    return Declared(
        format="BMP", width_px=abs(width), height_px=abs(height), frame_count=1, durations_s=(0.0,)
    )
