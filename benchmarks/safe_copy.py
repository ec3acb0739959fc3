"""What the safe copy of an approved picture costs: processor time of worker and child, and bytes.

python -m benchmarks.safe_copy
"""

from __future__ import annotations

import statistics

from benchmarks.box_pictures import Pictures
from benchmarks.decode_cost import SPECS, spent_ms
from worker.image.containers.formats import sniff
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions

#: Pictures as sites get them; see box_pictures.py. One in fifty is an animation.
PICTURES = 400

MAX_SIDE_PX = 1024


def main() -> None:
    """Print milliseconds of processor time, which other programs on the machine do not change."""
    files = Pictures()
    times_ms: dict[str, list[float]] = {}
    grown: dict[str, list[float]] = {}
    with Decoder(DecodeLimits(), ViewOptions(spec=SPECS["384"])) as decoder:
        decoder.start()
        (child,) = decoder.child_pids()
        for _ in range(PICTURES):
            data = files.next()
            copies: list[bytes] = []

            def copy(data: bytes = data, copies: list[bytes] = copies) -> None:
                copies.append(decoder.safe_copy(data, MAX_SIDE_PX)[0])

            for kind in ("all", sniff(data)):
                times_ms.setdefault(kind, [])
                grown.setdefault(kind, [])
            spent = spent_ms(copy, child)
            for kind in ("all", sniff(data)):
                times_ms[kind].append(spent)
                grown[kind].append(len(copies[0]) / len(data))
    print("| pictures | number | median ms | 95 % | copy / original, bytes |")
    print("|---|--:|--:|--:|--:|")
    for kind, times in times_ms.items():
        late = statistics.quantiles(times, n=20)[-1]
        print(
            f"| {kind} | {len(times)} | {statistics.median(times):.1f} | {late:.1f} "
            f"| {statistics.median(grown[kind]):.2f} |"
        )


if __name__ == "__main__":
    main()
