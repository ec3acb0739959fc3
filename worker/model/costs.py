"""What bundles cost on this machine, as measured when they were installed or verified.

One small JSON file in the models folder; absent or unreadable, nothing is known.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from producer.whole_files import write_whole
from worker.model.engine import Engine
from worker.resources import rss_bytes

#: In the models folder, by bundle id.
FILE = ".costs.json"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Milliseconds a picture, and MiB of memory that loading took."""

    ms: float
    mb: float


def measure(load: Callable[[], Engine]) -> tuple[Engine, Cost]:
    """Load an engine and time it; raises what loading raises."""
    before = rss_bytes()
    engine = load()
    ms = engine.time_per_picture_s() * 1000
    return engine, Cost(ms=round(ms, 1), mb=round(max(0, rss_bytes() - before) / 2**20))


def known_costs(models_folder: Path) -> dict[str, Cost]:
    """What was measured here, by bundle id."""
    try:
        data = json.loads((models_folder / FILE).read_bytes())
        return {str(name): Cost(**entry) for name, entry in data.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember_cost(models_folder: Path, bundle_id: str, cost: Cost) -> None:
    """Write down what was measured; a folder that cannot be written keeps nothing."""
    costs = {**known_costs(models_folder), bundle_id: cost}
    text = json.dumps({name: asdict(each) for name, each in sorted(costs.items())}, indent=2)
    with contextlib.suppress(OSError):
        models_folder.mkdir(parents=True, exist_ok=True)
        write_whole(models_folder / FILE, f"{text}\n".encode(), 0o644)
