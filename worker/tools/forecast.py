"""How long a backfill will take and what it will cost, told from a sample that is scored here."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from producer.contract import Region, Verdict
from producer.errors import InvalidInput, ModerationError
from worker.model.bundle import Bundle
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.backfill import Item
from worker.tools.figures import Rate
from worker.tools.route_prices import route_price, routes
from worker.tools.scoring import Scorer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a sample says about the whole; `gray` with its 95 % interval.

    Args:
        routes: where gray pictures go and at what price, in words.
        yuan_per_1000: that price, the sample's regions weighted.
    """

    total: int
    sampled: int
    verdicts: dict[str, int]
    seconds_per_picture: float
    gray: Rate
    routes: tuple[str, ...]
    yuan_per_1000: float

    @property
    def duration_s(self) -> float:
        """With one worker like this process and nothing else to do."""
        return self.total * self.seconds_per_picture

    @property
    def cost_yuan(self) -> tuple[float, float, float]:
        """(expected, low, high) at the providers of the pictures' regions."""
        low, high = self.gray.interval
        price = self.total * self.yuan_per_1000 / 1000
        return (self.gray.value or 0.0) * price, low * price, high * price

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        expected, low, high = self.cost_yuan
        return {
            "total": self.total,
            "sampled": self.sampled,
            "verdicts": self.verdicts,
            "seconds_per_picture": round(self.seconds_per_picture, 5),
            "duration_s": round(self.duration_s, 1),
            "gray": self.gray.to_json(),
            "routes": list(self.routes),
            "cost_yuan": {"expected": expected, "low": low, "high": high},
        }


def forecast(
    settings: WorkerSettings, items: Iterable[Item], total: int, read: Callable[[Item], bytes]
) -> Forecast:
    """Score a sample of `total` pictures here and now, as a worker would; `read` gives bytes."""
    policy = policy_in_use(settings)
    bundle = Bundle.load(settings.bundle, settings.models_folder)
    verdicts, regions = Counter[str](), Counter[str]()
    with Scorer(settings, bundle, None, policy) as scorer:
        began_s, warm_s = time.monotonic(), None
        for item in items:
            try:
                regions[item.region] += 1
                region = Region(item.region) if item.region else settings.default_region
                _, judged = scorer.look(read(item), policy, region)
                verdicts[str(judged.verdict)] += 1
            except InvalidInput:
                verdicts["rejected"] += 1
            except ModerationError as error:
                verdicts[error.code] += 1
            # The first picture pays for loading the model.
            warm_s = warm_s or time.monotonic()
        ended_s = time.monotonic()
    ways = routes(settings, regions)
    sampled = sum(verdicts.values())
    # Of a single picture nothing is known but the time with loading.
    spent_s = ended_s - (warm_s if warm_s and sampled > 1 else began_s)
    return Forecast(
        total=total,
        sampled=sampled,
        verdicts=dict(verdicts),
        seconds_per_picture=spent_s / max(sampled - 1, 1),
        gray=Rate(verdicts[str(Verdict.GRAY)], sampled),
        routes=tuple(map(str, ways)),
        yuan_per_1000=route_price(ways),
    )
