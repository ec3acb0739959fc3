"""What each container shows where its parts are late, doubled, damaged or at odds."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image

from producer.errors import CorruptImage, InvalidInput
from tests.unit.pictures import (
    STRETCH,
    animate,
    blotches,
    chunk,
    encode,
    icc_profile,
    png,
    png_of,
)
from tests.unit.test_colours import SRGB_TO_XYZ
from tests.witness.files.avif import SRGB, Item, box, boxes, coded, full, ispe, pixi, still
from worker.image.containers import read
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frame, Frames
from worker.image.views import ViewOptions, look

#: A profile that swaps red and green.
SWAPPED = icc_profile(SRGB_TO_XYZ[:, [1, 0, 2]], 2.2)
PATCHES = np.array(
    [[[200, 60, 30], [20, 180, 90], [40, 70, 210], [128, 128, 128]]] * 4, dtype=np.uint8
)
GAMMA = chunk(b"gAMA", (100_000).to_bytes(4, "big"))
PLAIN_GAMMA = chunk(b"gAMA", (45_455).to_bytes(4, "big"))
ICC = chunk(b"iCCP", b"icc\0\0" + zlib.compress(SWAPPED))
KEY = chunk(b"tRNS", struct.pack(">3H", 200, 60, 30))


def opened(data: bytes) -> tuple[Frame, list[str]]:
    """The first frame and the doubts."""
    frames = Frames(data, DecodeLimits(), 10**6)
    return frames.read(0), frames.doubts


def shown(data: bytes, index: int = 0) -> npt.NDArray[np.int64]:
    """What browsers show of a frame."""
    image = Frames(data, DecodeLimits(), 10**6).read(index).image
    return np.asarray(image).astype(np.int64)


# -- PNG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "levels"),
    # A gamma of 1 / 2.2 is not quite sRGB's curve, and browsers apply it.
    [(b"", GAMMA, 0), (b"", ICC, 0), (b"", KEY, 0), (PLAIN_GAMMA + GAMMA, b"", 9)],
)
def test_png_chunks_late_or_twice_change_nothing_and_are_doubted(
    before: bytes, after: bytes, levels: int
) -> None:
    """Browsers take the first in a legal place; other programs may not."""
    frame, doubts = opened(png(PATCHES, colour_type=2, chunks=before, after=after))
    apart = np.abs(np.asarray(frame.image).astype(int) - PATCHES)
    assert apart.max() <= levels
    assert doubts


def test_a_gamma_that_is_nearly_srgbs_is_colour_data() -> None:
    """Dark levels move by nine, so a gradient is no longer one that a rule explains."""
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[:, None, None], (96, 96, 3))
    plain, _ = opened(png(ramp, colour_type=2))
    frame, doubts = opened(png(ramp, colour_type=2, chunks=PLAIN_GAMMA))
    assert (plain.is_plain, frame.is_plain, doubts) == (True, False, [])
    assert 5 <= np.abs(np.asarray(frame.image).astype(int) - ramp).max() <= 10
    assert np.array_equal(np.asarray(frame.renditions["stored"]), ramp)


def test_png_cicp_goes_before_iccp_and_both_are_seen() -> None:
    """Code points of sRGB overrule a profile; a program that knows only profiles shows another."""
    cicp = chunk(b"cICP", bytes([1, 13, 0, 1]))
    frame, doubts = opened(png(PATCHES, colour_type=2, chunks=cicp + ICC))
    assert not doubts
    assert np.array_equal(np.asarray(frame.image), PATCHES)
    swapped = np.asarray(frame.renditions["icc"]).astype(int)
    assert np.abs(swapped[0, 0] - PATCHES[0, 0][[1, 0, 2]]).max() < 8


def test_png_chromaticities_swap_colours_as_they_say() -> None:
    """CHRM with gAMA defines the colours; the stored ones are seen too."""
    points = [0.3127, 0.329, 0.3, 0.6, 0.64, 0.33, 0.15, 0.06]
    body = struct.pack(">8I", *(round(point * 100_000) for point in points))
    frame, _ = opened(png(PATCHES, colour_type=2, chunks=PLAIN_GAMMA + chunk(b"cHRM", body)))
    swapped = np.asarray(frame.image).astype(int)
    assert np.abs(swapped[0, 0] - PATCHES[0, 0][[1, 0, 2]]).max() < 8
    assert np.array_equal(np.asarray(frame.renditions["stored"]), PATCHES)


def test_png_transparency_is_compared_at_its_own_depth() -> None:
    """16-bit colours that differ in their low byte only, and every level of two and four bits."""
    samples = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]]])
    key = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    data = png(samples, colour_type=2, bit_depth=16, chunks=key)
    assert shown(data)[0, :, 3].tolist() == [0, 255]
    for depth, row in ((2, b"\x1b"), (4, b"\x01\x23")):
        for level in range(4):
            key = chunk(b"tRNS", struct.pack(">H", level))
            pixels = zlib.compress(b"\0" + row)
            alpha = shown(png_of(4, 1, pixels, 0, depth, key))[0, :, 3]
            assert alpha.tolist() == [0 if at == level else 255 for at in range(4)]


def test_png_srgb_late_and_alone_is_no_doubt() -> None:
    """It says what everybody takes for granted; late beside another colour chunk it does not."""
    palette, late = chunk(b"PLTE", bytes(6)), chunk(b"sRGB", b"\0")
    pixels = np.array([[0, 1]])
    assert not opened(png(pixels, colour_type=3, chunks=palette + late))[1]
    assert opened(png(pixels, colour_type=3, chunks=GAMMA + palette + late))[1]
    assert opened(png(pixels, colour_type=3, chunks=palette + late + GAMMA))[1]


@pytest.mark.parametrize(
    ("srgb", "gamma", "renditions", "is_doubted"),
    [
        (b"\0", 45_455, [""], False),
        (b"\0", 10_000, ["", "gama"], False),
        (b"\4", 10_000, ["", "stored"], True),
        (b"", 10_000, ["", "stored"], True),
    ],
)
def test_png_gamma_beside_srgb_is_seen_too(
    srgb: bytes, gamma: int, renditions: list[str], is_doubted: bool
) -> None:
    """Firefox goes by it; all do where the other chunk says nothing that there is."""
    gama = chunk(b"gAMA", gamma.to_bytes(4, "big"))
    frame, doubts = opened(png(PATCHES, colour_type=2, chunks=chunk(b"sRGB", srgb) + gama))
    assert list(frame.renditions) == renditions
    assert frame.is_plain is (renditions == [""])
    assert bool(doubts) is is_doubted


def test_png_index_outside_of_the_palette_is_doubted() -> None:
    """Browsers do not agree on it."""
    palette = chunk(b"PLTE", bytes(6))
    assert opened(png(np.array([[0, 2]]), colour_type=3, chunks=palette))[1]
    assert not opened(png(np.array([[0, 1]]), colour_type=3, chunks=palette))[1]


@pytest.mark.parametrize("interlaced", [0, 1])
def test_png_with_fewer_rows_than_it_says_is_refused(interlaced: int) -> None:
    """Browsers show what is missing as transparent."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, interlaced)
    rows = zlib.compress((b"\0" + bytes([200] * 24)) * 5)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(InvalidInput):
        shown(b"\x89PNG\r\n\x1a\n" + parts)
    black = png(np.zeros((5, 5, 3)), colour_type=2)
    assert not shown(black).any()


def test_apng_late_announcement_hides_no_frame() -> None:
    """A second acTL without frames leaves the animation what it was."""
    data = animate([blotches(40, 40, 1), blotches(40, 40, 2)], "PNG", [10, 60_000])
    end = data.rindex(b"IEND") - 4
    late = data[:end] + chunk(b"acTL", bytes(8)) + data[end:]
    frames = Frames(late, DecodeLimits(), 768)
    assert len(frames) == 2
    assert frames.doubts


# -- composition ---------------------------------------------------------------------------------


def _gif(frames: list[tuple[int, int, tuple[int, int, int, int], int]], screen: int = 8) -> bytes:
    """A GIF of plain frames: disposal, transparent index or -1, rectangle, index of a colour."""
    parts = [b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x91, 0, 0)]
    parts.append(bytes([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250]))
    for disposal, clear, (left, top, width, height), colour in frames:
        flags = disposal << 2 | (clear >= 0)
        parts.append(b"\x21\xf9\4" + struct.pack("<BHBB", flags, 10, max(clear, 0), 0))
        image = Image.new("P", (width, height), colour)
        image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250])
        written = encode(image, "GIF", optimize=False)
        at = written.index(b"\x2c" + bytes(4) + struct.pack("<HH", width, height))
        pixels = written[at + 10 + (3 << (written[at + 9] & 7) + 1) * (written[at + 9] >> 7) :]
        parts.append(b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0) + pixels[:-1])
    return b"".join(parts) + b"\x3b"


RED, GREEN, BLUE, NOTHING = (250, 0, 0), (0, 250, 0), (0, 0, 250), (0, 0, 0, 0)


def colour_at(data: bytes, index: int, x: int, y: int) -> tuple[int, ...]:
    """A pixel of a composed frame; without its alpha where it is opaque."""
    pixel = tuple(int(value) for value in shown(data, index)[y, x])
    return pixel[:3] if len(pixel) == 3 or pixel[3] == 255 else pixel


@pytest.mark.parametrize(("disposal", "left"), [(0, GREEN), (1, GREEN), (2, NOTHING), (3, RED)])
def test_gif_disposal_is_done_as_browsers_do_it(disposal: int, left: tuple[int, ...]) -> None:
    """Kept, cleared to nothing whatever the background colour, or put back."""
    whole, corner, other = (0, 0, 8, 8), (0, 0, 4, 4), (6, 6, 2, 2)
    data = _gif([(1, -1, whole, 1), (disposal, -1, corner, 2), (1, -1, other, 3)])
    assert colour_at(data, 1, 1, 1) == GREEN
    assert colour_at(data, 2, 1, 1) == left
    assert colour_at(data, 2, 7, 7) == BLUE
    assert colour_at(data, 2, 5, 1) == RED


def test_gif_frames_are_clipped_to_the_screen() -> None:
    """A later frame larger than the screen makes nothing smaller."""
    data = _gif([(1, -1, (0, 0, 8, 8), 1), (1, -1, (4, 4, 40, 40), 2)])
    contents = read(data, DecodeLimits())
    assert (contents.width_px, contents.height_px) == (8, 8)
    assert colour_at(data, 1, 7, 7) == GREEN
    assert colour_at(data, 1, 1, 1) == RED


def test_gif_time_decides_what_is_scored() -> None:
    """Decoys shown for an instant do not hide the frame that is shown for a minute."""
    frames = [blotches(48, 48, seed) for seed in range(20)]
    durations = [20] * 20
    durations[1] = 60_000
    data = animate(frames, "GIF", durations)
    options = ViewOptions(spec=STRETCH, max_frames=8)
    found = look(Frames(data, DecodeLimits(), 768), options)
    assert 1 in [view.frame for view in found.views]
    assert found.unseen == "unseen_frames"


@pytest.mark.parametrize("name", ["GIF", "PNG", "WebP"])
def test_frames_that_only_a_mosaic_finds_equal_are_two(name: str) -> None:
    """Stripes and their negative have the same mean everywhere."""
    stripes = np.zeros((112, 112, 3), dtype=np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    frames = [Image.fromarray(stripes), Image.fromarray(255 - stripes)]
    data = animate(frames, name, 100, **({"lossless": True} if name == "WebP" else {}))
    found = look(Frames(data, DecodeLimits(), 768), ViewOptions(spec=STRETCH))
    assert [view.frame for view in found.views] == [0, 1]


# -- JPEG ----------------------------------------------------------------------------------------


def _segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def _jpeg(*segments: bytes) -> bytes:
    data = encode(Image.fromarray(PATCHES.repeat(8, axis=0).repeat(8, axis=1)), "JPEG", quality=95)
    return data[:2] + b"".join(segments) + data[2:]


def test_jpeg_profile_in_impossible_pieces_is_not_applied() -> None:
    """Number 2 of 1 is no profile, and some program may think otherwise."""
    frame, doubts = opened(_jpeg(_segment(0xE2, b"ICC_PROFILE\0\2\1" + SWAPPED)))
    assert list(frame.renditions) == [""]
    assert doubts
    right, doubts = opened(_jpeg(_segment(0xE2, b"ICC_PROFILE\0\1\1" + SWAPPED)))
    assert list(right.renditions) == ["", "stored"]
    assert not doubts


def test_jpeg_orientation_of_xmp_is_what_some_see() -> None:
    """Browsers read EXIF only."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    frame, doubts = opened(_jpeg(_segment(0xE1, xmp)))
    assert list(frame.renditions) == ["", "turned-6"]
    assert frame.image.size == (32, 32)
    assert not doubts


def test_jpeg_orientation_with_an_unusual_type_is_doubted() -> None:
    """One SHORT is what browsers read; a LONG turns the picture elsewhere."""
    long_form = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0"
    frame, doubts = opened(_jpeg(_segment(0xE1, long_form)))
    assert list(frame.renditions) == [""]
    assert doubts


def _parts(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Segments in front of the first scan, and each scan with the tables before it."""
    front, scans, at = [data[:2]], [], 2
    while data[at + 1] != 0xD9:
        kind, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if kind == 0xDA:
            while data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
            scans.append(data[at:end])
        elif scans:
            scans.append(data[at:end])
        else:
            front.append(data[at:end])
        at = end
    return front, scans


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_scans_are_each_taken_once(mode: str, options: dict[str, bool]) -> None:
    """As programs write them there is no doubt; doubled or dropped, decoders smooth or stop."""
    image = blotches(64, 64).convert(mode)
    for subsampling in (0, 2):
        data = encode(image, "JPEG", subsampling=subsampling, optimize=True, **options)
        assert not opened(data)[1]
    front, scans = _parts(data)
    found = [at for at, scan in enumerate(scans) if scan[1] == 0xDA]
    for at in found:
        for kept in ([*scans[: at + 1], *scans[at:]], [*scans[:at], *scans[at + 1 :]]):
            with contextlib.suppress(InvalidInput):
                assert read(b"".join([*front, *kept, b"\xff\xd9"]), DecodeLimits()).doubts


def test_jpeg_pixels_end_at_the_first_marker() -> None:
    """What follows a segment in the middle of a scan is shown by nobody."""
    front, scans = _parts(_jpeg())
    (scan,) = scans
    middle = len(scan) // 2
    data = b"".join([*front, scan[:middle], _segment(0xFE, b"comment"), scan[middle:], b"\xff\xd9"])
    _, doubts = opened(data)
    assert doubts
    cut = b"".join([*front, scan[:middle], b"\xff\xd9"])
    assert (shown(data) == shown(cut)).all()


@pytest.mark.parametrize(("place", "symbol"), [(0, 12), (1, 0x0B)])
def test_jpeg_codes_that_no_program_writes_are_doubted(place: int, symbol: int) -> None:
    """More bits than 8-bit levels need, or one symbol twice: decoders clip what comes of it."""
    data = encode(blotches(64, 64), "JPEG")
    ats = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xc4"]
    at = ats[place] + 4 + 17
    assert data[ats[place] + 4] >> 4 == place
    for odd in (symbol, data[at + 1]):
        assert opened(data[:at] + bytes([odd]) + data[at + 1 :])[1]
    assert not opened(data)[1]


def test_jpeg_is_decoded_in_full() -> None:
    """What averages out in the codec's own small sizes is seen."""
    pattern = np.zeros((1536, 1536), dtype=np.uint8)
    pattern[:, ::2] = 255
    pattern[:768] = 128
    data = encode(Image.fromarray(pattern), "JPEG", quality=95)
    image = Frames(data, DecodeLimits(), 768).read(0).image
    assert image.size == (768, 768)
    assert abs(int(np.asarray(image)[700, 100, 0]) - 128) < 4


# -- BMP, WebP, AVIF and HEIC ---------------------------------------------------------------------


def _bmp(masks: tuple[int, int, int, int], pixels: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, 0, 0, 0, 0, 0)
    body = header + struct.pack("<4I", *masks) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(body)) + body + pixels


def test_bmp_masks_and_alpha() -> None:
    """Any masks; alpha as browsers show it, and ignored as others do."""
    masks = (0xFF, 0xFF00, 0xFF0000, 0x80000000)
    frame, doubts = opened(_bmp(masks, bytes([1, 2, 3, 0x80, 4, 5, 6, 0])))
    assert np.asarray(frame.image).tolist() == [[[1, 2, 3, 255], [4, 5, 6, 0]]]
    assert frame.ignores_alpha
    assert not doubts


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_runs_are_followed(bits: int) -> None:
    """Runs, literal pixels, ends of lines, and steps over pixels that stay transparent."""
    header = struct.pack("<IiiHHIIiiII", 40, 6, 2, 1, bits, 1 if bits == 8 else 2, 0, 0, 0, 4, 0)
    colours = bytes([0, 0, 0, 0, 250, 0, 0, 0, 0, 250, 0, 0, 0, 0, 250, 0])
    run, literal, last = b"\4\2", b"\1\2\3\0", b"\1\1"
    if bits == 4:
        run, literal, last = b"\4\x21", b"\x12\x30", b"\1\x11"
    pixels = run + b"\0\2\2\0" + b"\0\0" + b"\2\0" + b"\0\3" + literal + last + b"\0\1"
    start = 14 + len(header) + len(colours)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, start) + header + colours + pixels
    frame, doubts = opened(data)
    blue, green, red, black = (0, 0, 250), (0, 250, 0), (250, 0, 0), (0, 0, 0)
    four = [green] * 4 if bits == 8 else [green, blue, green, blue]
    found = np.asarray(frame.image)
    assert [tuple(pixel[:3]) for pixel in found[0]] == [black, black, blue, green, red, blue]
    assert [tuple(pixel[:3]) for pixel in found[1, :4]] == four
    assert found[..., 3].tolist() == [[255] * 6, [255] * 4 + [0] * 2]
    assert doubts


def test_webp_parts_at_odds_are_doubted() -> None:
    """A second picture or a profile that is not announced."""
    data = encode(blotches(40, 40), "WebP", lossless=True)
    twice = data + data[12:]
    twice = twice[:4] + struct.pack("<I", len(twice) - 8) + twice[8:]
    assert opened(twice)[1]
    with_profile = encode(blotches(40, 40), "WebP", lossless=True, icc_profile=SWAPPED)
    at = with_profile.index(b"VP8X") + 8
    silent = with_profile[:at] + bytes([with_profile[at] & ~0x20]) + with_profile[at + 1 :]
    assert not opened(with_profile)[1]
    assert opened(silent)[1]


def _transparent(seed: int = 0) -> Image.Image:
    image = blotches(64, 64, seed).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((64, 64)))
    return image


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_transparency_that_is_not_announced_is_doubted(lossless: bool) -> None:
    """Chromium takes the colours of such frames for multiplied by it already."""
    still = encode(_transparent(), "WebP", lossless=lossless)
    moving = animate([_transparent(), _transparent(1)], "WebP", lossless=lossless)
    opaque = animate([blotches(64, 64), blotches(64, 64, 1)], "WebP", lossless=lossless)
    for data in (still, moving, opaque):
        assert not opened(data)[1]
    for data, is_doubted in ((still, True), (moving, True), (opaque, False)):
        if b"VP8X" in data:
            at = data.index(b"VP8X") + 8
            silent = data[:at] + bytes([data[at] & ~0x10]) + data[at + 1 :]
            assert bool(opened(silent)[1]) == is_doubted


def test_webp_transparency_against_its_own_bit_is_doubted() -> None:
    """The bit of VP8L says that there is none, the pixels have it, and browsers believe those."""
    data = encode(_transparent(), "WebP", lossless=True)
    at = data.index(b"VP8L") + 12
    assert opened(data[:at] + bytes([data[at] & ~0x10]) + data[at + 1 :])[1]
    assert not opened(data)[1]


def test_avif_is_turned_here() -> None:
    """A quarter turn against the clock; the decoder's library would not do it."""
    stored = Image.fromarray(PATCHES.repeat(16, axis=0).repeat(16, axis=1)[:, :32])
    data = encode(stored, "AVIF", quality=95, subsampling="4:4:4")
    at = data.index(b"pixi") - 4
    (size,) = struct.unpack_from(">I", data, at)
    turned = data[: at + 4] + b"irot" + b"\1" + bytes(size - 9) + data[at + size :]
    expected = np.rot90(np.asarray(stored)).astype(int)
    assert np.abs(shown(turned) - expected).mean() < 4


def test_heic_and_avif_keep_their_transparency() -> None:
    """It goes into the small file that the decoder gets."""
    image = blotches(64, 48).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((64, 48)))
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90)
    for data in (buffer.getvalue(), encode(image, "AVIF", quality=90)):
        alpha = shown(data)[..., 3]
        assert np.abs(alpha - np.asarray(image)[..., 3]).mean() < 4


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WebP", "BMP", "AVIF"])
def test_no_cut_file_passes(name: str) -> None:
    """At any place where pixels are lost: refused, never an exception of another kind."""
    data = encode(blotches(24, 24), name)
    for end in range(0, len(data) - (12 if name == "PNG" else 3), 7):
        with pytest.raises(InvalidInput):
            Frames(data[:end], DecodeLimits(), 768).read(0)


def _without_end(data: bytes, name: str) -> list[bytes]:
    """The file as programs leave it that forget its last bytes, none of which is a pixel's."""
    if name == "PNG":
        return [*(data[:-length] for length in (1, 4, 11, 12)), data[:-4] + b"oops"]
    if name == "WebP":
        return [data[:4] + struct.pack("<I", len(data) - 8 + more) + data[8:] for more in (1, 500)]
    if name == "GIF":
        return [data[:-1], data[:-1] + b"\0\0\x3b", data[:-1] + b"rubbish"]
    return [data[:-1], data[:-2]]


@pytest.mark.parametrize("name", ["PNG", "JPEG", "progressive JPEG", "GIF", "WebP"])
def test_a_file_that_lacks_only_its_end_is_read(name: str) -> None:
    """Nothing of the picture is missing, browsers show it, and programs write such files."""
    format_name = name.rpartition(" ")[2]
    options = {"progressive": True} if " " in name else {}
    data = encode(blotches(50, 40), format_name, **options)
    for cut in _without_end(data, format_name):
        frame, doubts = opened(cut)
        assert np.array_equal(np.asarray(frame.image), np.asarray(opened(data)[0].image))
        # Chromium leaves out the last rows of what may go on.
        assert bool(doubts) is (name in ("JPEG", "WebP"))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_some_pixels_and_its_end_is_refused(progressive: bool) -> None:
    """However few: what would come next makes a difference."""
    data = encode(blotches(64, 64), "JPEG", progressive=progressive)
    for length in range(5, 60, 5):
        with pytest.raises(CorruptImage, match="truncated"):
            opened(data[:-length])


def test_transparency_of_avif_is_also_seen_as_if_of_video_range() -> None:
    """Chromium takes all levels for those of video, Firefox those of video for all."""
    image = blotches(64, 48).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 100))
    frame, _ = opened(encode(image, "AVIF", quality=95))
    usual, wider = (np.asarray(frame.renditions[name]) for name in ("", "alpha-wider"))
    assert np.array_equal(usual[..., :3], wider[..., :3])
    assert np.abs(usual[..., 3].astype(int) - 100).max() <= 2
    assert np.abs(wider[..., 3].astype(int) - 98).max() <= 3


def _with_alpha(level: int, range_of: str, *more: bytes) -> bytes:
    data = encode(Image.new("L", (96, 96), level), "AVIF", subsampling="4:0:0", range=range_of)
    top = dict(boxes(data))
    parts = dict(boxes(dict(boxes(dict(boxes(top[b"meta"][4:]))[b"iprp"]))[b"ipco"]))
    kind = full(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    properties = (ispe(), pixi(1), box(b"av1C", parts[b"av1C"]), kind, *more)
    mask = Item(2, top[b"mdat"], properties, references=((b"auxl", 1),))
    return still([coded("sand", SRGB), mask])


def test_narrow_transparency_of_avif_is_also_seen_as_it_is_stored() -> None:
    """So Firefox shows it; what is invisible elsewhere shines through there."""
    for level, range_of, name, other in (
        (0, "limited", "alpha-narrower", 16),
        (0, "full", "alpha-wider", 0),
        (100, "full", "alpha-wider", 98),
    ):
        frame, doubts = opened(_with_alpha(level, range_of))
        assert not doubts
        assert list(frame.renditions) == ["", name]
        alpha = np.asarray(frame.renditions[name])[..., 3].astype(int)
        assert np.abs(alpha - other).max() <= 3


def test_transparency_of_avif_with_a_crop_of_its_own_is_doubted() -> None:
    """Firefox applies it, Chromium shows nothing."""
    crop = box(b"clap", struct.pack(">IIIIiIiI", 48, 1, 48, 1, 0, 1, 0, 1))
    assert opened(_with_alpha(100, "full", crop))[1]


def test_a_gif_whose_first_frame_is_larger_one_way_and_smaller_the_other_is_doubted() -> None:
    """Browsers make screens of different sizes of it; larger both ways they agree."""
    for size, is_doubted in (((17, 64), True), ((64, 64), False), ((64, 20), False)):
        data = bytearray(encode(blotches(*size), "GIF"))
        data[6:10] = struct.pack("<HH", 64, 20)
        assert bool(opened(bytes(data))[1]) is is_doubted


def test_runs_of_bmp_without_their_end_are_doubted() -> None:
    """All pixels are there; Chromium leaves out the last row. Fewer pixels are refused."""
    colours = bytes(range(64))
    rows = [b"\x20" + bytes([row % 16]) + b"\0\0" for row in range(24)]
    for count, is_read in ((24, True), (23, False)):
        body = b"".join(rows[:count])
        head = struct.pack("<IiiHHIIiiII", 40, 32, 24, 1, 8, 1, 0, 0, 0, 16, 0)
        start = struct.pack("<IHHI", 118 + len(body), 0, 0, 118)
        data = b"BM" + start + head + colours + body
        if is_read:
            assert opened(data)[1]
        else:
            with pytest.raises(CorruptImage, match="truncated"):
                opened(data)


def test_a_faint_second_frame_is_not_explained_with_the_first() -> None:
    """The flat rule looks at every frame, also at those too faint to be scored twice."""
    tile = Image.new("RGB", (96, 96), (60, 90, 200))
    faint = Image.blend(tile, blotches(96, 96), 0.1)
    found = look(
        Frames(animate([tile, faint], "PNG"), DecodeLimits(), 768), ViewOptions(spec=STRETCH)
    )
    assert found.flat is None
