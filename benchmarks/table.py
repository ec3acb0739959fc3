"""Every figure of speed in one table, from one run: `make bench`.

Runs the other benchmarks one after the other and shows of each what docs/performance.md quotes.
Ratios hold from machine to machine, milliseconds do not. What a benchmark cannot measure here, for
example a peer that is not installed, is left out by name.

    python -m benchmarks.table [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

#: What, its figure with the unit.
Rows = Iterator[tuple[str, str]]


def engines(found: dict[str, Any]) -> Rows:
    """One image on one core, against the peers that are installed."""
    pipeline = min(
        (e["ms_per_image"] for e in found["engines"] if e["name"] == "pipeline"), default=0
    )
    for each in found["engines"]:
        ratio = f", {pipeline / each['ms_per_image']:.2f} times the pipeline" if pipeline else ""
        name = f"{each['name']}, batch {each['batch']}"
        yield name, f"{each['ms_per_image']:.1f} ms, {each['peak_rss_mb']:.0f} MB{ratio}"
    for name, why in found["absent"].items():
        yield name, f"left out: {why}"


def queue(found: dict[str, Any]) -> Rows:
    """What the queue adds to engine and decoding."""
    yield "queue alone, one image", f"{found['overhead_cpu_ms_per_image']:.2f} ms of the processor"
    for name, value in found.items():
        if "share" in name or "latency" in name:
            yield name.replace("_", " "), str(value)


def start(found: dict[str, Any]) -> Rows:
    """How long people wait."""
    for name, (seconds, cpu_s) in found.items():
        yield name, f"{seconds:.2f} s, of the processor {cpu_s:.2f} s"


def growth(found: dict[str, Any]) -> Rows:
    """The same question with few and with many records."""
    runs = found["runs"]
    for what in ("records", "rows"):
        yield what, " -> ".join(f"{run[what]:,}" for run in runs)
    for name in runs[0]["times_ms"]:
        yield name, " -> ".join(f"{run['times_ms'][name][0]:.1f}" for run in runs) + " ms"


#: Title -> command, its rows.
PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], Rows]]] = {
    "engine": ("benchmarks.engine", engines),
    "through the queue": ("benchmarks.through_queue", queue),
    "start": ("benchmarks.start", start),
    "growth": ("benchmarks.growth", growth),
}


def main() -> int:
    """Run all of it; the exit code is 1 when a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three minutes instead of thirty")
    parser.add_argument("--json", action="store_true", help="print what each benchmark found")
    options = parser.parse_args()
    said, table, failed = Console(stderr=True), Table(title="avatar-moderation"), False
    table.add_column("what")
    table.add_column("figure")
    report: dict[str, Any] = {}
    for title, (module, rows) in PARTS.items():
        said.print(f"{title} ...")
        line = [sys.executable, "-m", module, "--json", *(["--quick"] if options.quick else [])]
        ended = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
        table.add_section()
        if ended.returncode:
            failed = True
            table.add_row(title, f"failed with code {ended.returncode}; see above")
            continue
        report[title] = json.loads(ended.stdout)
        for what, figure in rows(report[title]):
            table.add_row(what, figure)
    if options.json:
        print(json.dumps(report))
    else:
        Console().print(table)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
