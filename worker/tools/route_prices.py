"""What a gray picture costs: the price of the provider that its region's uploads go to first.

Tuning and dry runs speak of money by this; a cheaper provider across a border that no setting opens
is no price that anybody can pay.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from producer.contract import Region
from worker.review.settings import ReviewSettings
from worker.tools.figures import unit

#: Providers at home in a region, for where none is configured; the first is assumed.
#: Source: the adapters' own `home` with their default regions.
AT_HOME = {
    Region.DOMESTIC: ("aliyun2", "aliyun", "tencent"),
    Region.OVERSEAS: ("cloudflare", "rekognition", "huggingface"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """Where one region's gray pictures go.

    Args:
        share: of the uploads, 0..1.
        provider: the one that is asked first.
        configured: False where no provider is, and this one is assumed.
        unit: what the price is in, for people.
    """

    region: Region
    share: float
    provider: str
    yuan_per_1000: float
    configured: bool
    unit: str = "yuan"

    def __str__(self) -> str:
        assumed = "" if self.configured else ", assumed: none is configured"
        return (
            f"{self.provider} for {self.share:.0%} {self.region}, {self.yuan_per_1000:g} "
            f"{self.unit} for 1,000{assumed}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)


def routes(settings: ReviewSettings, uploads: Mapping[str, int]) -> tuple[Route, ...]:
    """One route for each region with uploads; of the default region where there are none.

    Args:
        settings: providers, prices, and the region of uploads that name none.
        uploads: how many by region.
    """
    counts = Counter[Region]()
    for name, number in uploads.items():
        counts[Region(name) if name else settings.default_region] += number
    counts = counts if counts.total() else Counter([settings.default_region])
    found = []
    for region in sorted(counts):
        configured = settings.route_of(region)
        provider = (configured or AT_HOME[region])[0]
        found.append(
            Route(
                region=region,
                share=counts[region] / counts.total(),
                provider=provider,
                yuan_per_1000=settings.limits_of(provider).yuan_per_1000,
                configured=bool(configured),
                unit=unit(settings.currency),
            )
        )
    return tuple(found)


def route_price(ways: Sequence[Route]) -> float:
    """Yuan for 1,000 gray pictures, the regions weighted by their shares."""
    return sum(way.share * way.yuan_per_1000 for way in ways)


def prices(settings: ReviewSettings, ways: Sequence[Route]) -> dict[str, float]:
    """Price of 1,000 pictures by every provider that these regions' uploads may go to."""
    names: dict[str, None] = {}
    for way in ways:
        names |= dict.fromkeys(settings.route_of(way.region) or AT_HOME[way.region])
    return {name: settings.limits_of(name).yuan_per_1000 for name in names}
