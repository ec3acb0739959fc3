"""What the child process adds to decoding one picture: the same work inside and at arm's length.

python benchmarks/decode_cost.py
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from worker.image.decoder import DecodeLimits, Decoder, ViewOptions
from worker.image.frames import Frames, prepare_codecs
from worker.image.preprocess import InputSpec
from worker.image.views import look, short_side_needed_px

ROUNDS = 60

SPECS = {
    "224": InputSpec(
        width_px=224, height_px=224, resize="stretch", resize_px=256, interpolation="bilinear"
    ),
    "384": InputSpec(
        width_px=384, height_px=384, resize="short_side", resize_px=384, interpolation="bicubic"
    ),
}


def main() -> None:
    """Print milliseconds of processor time, which other programs on the machine do not change."""
    prepare_codecs()
    limits = DecodeLimits()
    cells = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    print("| picture | model side | in process, CPU ms | child and parent, CPU ms | added |")
    print("|---|--:|--:|--:|--:|")
    for side, spec in SPECS.items():
        options = ViewOptions(spec=spec)
        with Decoder(limits, options) as decoder:
            start_s = time.perf_counter()
            decoder.start()
            start_up_ms = (time.perf_counter() - start_s) * 1000
            for size_px in (128, 256, 512):
                image = Image.fromarray(cells).resize((size_px, size_px), Image.Resampling.BICUBIC)
                for name in ("JPEG", "PNG", "WebP"):
                    buffer = io.BytesIO()
                    image.save(buffer, name)
                    inside_ms, outside_ms = _typical(buffer.getvalue(), decoder, limits, options)
                    print(
                        f"| {name} {size_px} px | {side} | {inside_ms:.2f} | {outside_ms:.2f} "
                        f"| {outside_ms - inside_ms:.2f} |"
                    )
            print(f"\nstart of a child: {start_up_ms:.0f} ms\n")


def _typical(
    data: bytes, decoder: Decoder, limits: DecodeLimits, options: ViewOptions
) -> tuple[float, float]:
    needed_px = short_side_needed_px(options)
    (child,) = decoder.child_pids()
    inside_ms = outside_ms = 0.0
    for _ in range(ROUNDS):
        inside_ms += spent_ms(lambda: look(Frames(data, limits, needed_px), options), child)
        outside_ms += spent_ms(lambda: decoder.decode(data), child)
    return inside_ms / ROUNDS, outside_ms / ROUNDS


def spent_ms(action: Callable[[], object], child: int) -> float:
    """Processor time of this process and of the child."""
    start_ns = time.process_time_ns() + _child_ns(child)
    action()
    return (time.process_time_ns() + _child_ns(child) - start_ns) / 1e6


def _child_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


if __name__ == "__main__":
    main()
