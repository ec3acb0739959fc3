"""Is memory flat? Scores many pictures with one bundle and prints the resident set on the way."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from producer.settings import load_settings
from worker.model.bundle import Bundle
from worker.model.engine import Engine
from worker.resources import peak_rss_bytes, rss_bytes
from worker.settings import WorkerSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="open-nsfw")
    parser.add_argument(
        "--models-folder", type=Path, default=load_settings(WorkerSettings).models_folder
    )
    parser.add_argument("--images", type=int, default=10_000)
    args = parser.parse_args()
    engine = Engine(Bundle.load(args.bundle, args.models_folder), threads=1)
    spec = engine.bundle.input
    dice = np.random.default_rng(0)
    pixels = dice.integers(0, 256, (50, spec.height_px, spec.width_px, 3), dtype=np.uint8)
    start_s, readings = time.perf_counter(), {}
    for done in range(0, args.images, len(pixels)):
        # Half of the cut-offs lie near scores, so that re-scoring is part of it.
        engine.score(pixels[dice.permutation(len(pixels))], cut_offs=(0.05, 0.5, 0.95))
        count = done + len(pixels)
        if count in (50, 500) or count % max(1000, args.images // 10) == 0:
            readings[count] = round(rss_bytes() / 2**20, 1)
            print(f"{count:>7} pictures: {readings[count]:.1f} MiB", file=sys.stderr)
    report = {
        "bundle": engine.bundle.id,
        "images": args.images,
        "rss_mb": readings,
        "peak_rss_mb": round(peak_rss_bytes() / 2**20, 1),
        "seconds": round(time.perf_counter() - start_s, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
