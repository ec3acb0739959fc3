"""Mutated files of every format against the decoder: pixels or a refusal, never a crash or a hang.

The ordinary tests run a few hundred seeded cases. For a long run:

    python -m tests.fuzz.decode --cases 20000
"""

from __future__ import annotations

import io
import random
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import pillow_heif

from producer.errors import InvalidInput
from tests.unit.pictures import STRETCH, animate, blotches, encode, orientation_exif
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions

#: Small, so that a mutation is likely to hit something that matters.
LIMITS = DecodeLimits(
    max_bytes=2**20, max_pixels=4_000_000, max_total_pixels=20_000_000, timeout_s=5.0
)
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 256, 65536)


@dataclass
class Tally:
    """What a run found."""

    outcomes: Counter[str] = field(default_factory=Counter)
    children: set[int] = field(default_factory=set)
    slowest_s: float = 0.0
    peak_bytes: int = 0


def run(cases: int, seed: int) -> Tally:
    """Decode mutated files; any error but a refusal ends the run with the case's number.

    Raises:
        AssertionError: names the case, which `case` makes again.
    """
    tally = Tally()
    with Decoder(LIMITS, ViewOptions(spec=STRETCH, served_crop="both")) as decoder:
        decoder.start()
        for number in range(cases):
            name, data = case(seed, number)
            start_s = time.monotonic()
            try:
                picture = decoder.decode(data)
                assert picture.views, f"case {seed}/{number} has no views"
                result = "pixels"
            except InvalidInput as error:
                result = f"{error.code}"
                if "crashes" in str(error):
                    result = f"crash: {error}"
            except Exception as error:
                raise AssertionError(f"case {seed}/{number} ({name}): {error!r}") from error
            tally.outcomes[f"{name}: {result}"] += 1
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - start_s)
            for pid in decoder.child_pids():
                tally.children.add(pid)
                tally.peak_bytes = max(tally.peak_bytes, _peak_bytes(pid))
    return tally


def case(seed: int, number: int) -> tuple[str, bytes]:
    """Make one case again: the format and the mutated file."""
    dice = random.Random(f"{seed}/{number}")
    name, data = dice.choice(_seeds())
    mutated = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 8, 40))):
        _mutate(mutated, dice)
    if name in ("PNG", "APNG") and dice.random() < 0.9:
        # With checksums that hold, the codec sees the damage and not only our walker.
        return name, _with_checksums(bytes(mutated))
    return name, bytes(mutated)


def _seeds() -> list[tuple[str, bytes]]:
    if not _SEEDS:
        still, clear = blotches(40, 30), blotches(30, 40).convert("RGBA")
        clear.putalpha(blotches(30, 40, 3).convert("L"))
        frames = [blotches(24, 24, seed) for seed in range(3)]
        exif = orientation_exif(6)
        heic = io.BytesIO()
        pillow_heif.from_pillow(still).save(heic)
        _SEEDS.extend(
            [
                ("PNG", encode(clear, "PNG", exif=exif)),
                ("PNG", encode(still.quantize(16), "PNG", transparency=3)),
                ("PNG", encode(still.convert("1"), "PNG")),
                ("APNG", animate(frames, "PNG")),
                ("JPEG", encode(still, "JPEG", exif=exif)),
                ("JPEG", encode(still, "JPEG", progressive=True)),
                ("JPEG", encode(still.convert("CMYK"), "JPEG")),
                ("GIF", encode(still, "GIF")),
                ("GIF", animate(frames, "GIF")),
                ("WebP", encode(clear, "WebP", exif=exif)),
                ("WebP", encode(still, "WebP", lossless=True)),
                ("WebP", animate(frames, "WebP")),
                ("BMP", encode(still, "BMP")),
                ("BMP", encode(still.convert("P"), "BMP")),
                ("AVIF", encode(clear, "AVIF")),
                ("AVIF", animate(frames, "AVIF")),
                ("HEIC", heic.getvalue()),
            ]
        )
    return _SEEDS


_SEEDS: list[tuple[str, bytes]] = []


def _mutate(data: bytearray, dice: random.Random) -> None:
    if len(data) < 8:
        return
    # Half of the time near the start, where sizes and counts are.
    end = min(len(data), 120) if dice.random() < 0.5 else len(data)
    at = dice.randrange(end)
    match dice.randrange(8):
        case 0:
            data[at] ^= 1 << dice.randrange(8)
        case 1:
            data[at] = dice.randrange(256)
        case 2 | 3:
            width, order = dice.choice((1, 2, 4)), dice.choice(("big", "little"))
            value = dice.choice(_EDGES) & (256**width - 1)
            data[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]
        case 4:
            del data[at : at + dice.randrange(1, 40)]
        case 5:
            data[at:at] = dice.randbytes(dice.randrange(1, 40))
        case 6:
            start = dice.randrange(len(data))
            data[at:at] = data[start : start + dice.randrange(1, 200)]
        case _:
            if dice.random() < 0.3:
                del data[dice.randrange(len(data)) :]
            else:
                data[at : at + 4] = bytes(4)


def _with_checksums(data: bytes) -> bytes:
    """Give every chunk of a PNG that can still be walked the checksum that its content has."""
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        fixed += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(fixed + data[at:])


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


@click.command()
@click.option("--cases", default=20_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(cases: int, seed: int) -> None:
    """Run many cases and print what came of them."""
    start_s = time.monotonic()
    tally = run(cases, seed)
    for name, count in sorted(tally.outcomes.items()):
        print(f"{count:7} {name}")
    print(
        f"{cases} cases in {time.monotonic() - start_s:.0f} s; slowest {tally.slowest_s:.2f} s; "
        f"{len(tally.children)} child processes; peak {tally.peak_bytes / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
