"""What moderation costs: arithmetic on counts and prices. Pure; amounts in yuan."""

from __future__ import annotations

import dataclasses
from typing import Any

#: Days of a month in every monthly figure.
DAYS_PER_MONTH = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prices:
    """What is paid.

    Args:
        cloud_yuan_per_1000: for 1,000 pictures at a provider.
        server_min_yuan, server_max_yuan: for the machine, a month.
        unit: what all of these are in, for people.
    """

    cloud_yuan_per_1000: float = 1.5
    server_min_yuan: float = 50.0
    server_max_yuan: float = 100.0
    unit: str = "yuan"


def month_yuan(per_day: float, yuan_per_1000: float) -> float:
    """What so many pictures a day cost in a month."""
    return per_day * DAYS_PER_MONTH * yuan_per_1000 / 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonthlyCost:
    """A month of `uploads_per_day` pictures, of which `gray_share` (0..1) go to the cloud."""

    uploads_per_day: float
    gray_share: float
    prices: Prices

    @property
    def calls_per_day(self) -> float:
        """Pictures a day that go to a provider."""
        return self.uploads_per_day * self.gray_share

    @property
    def cloud_only_yuan(self) -> float:
        """If every picture went to the cloud."""
        return month_yuan(self.uploads_per_day, self.prices.cloud_yuan_per_1000)

    @property
    def cloud_yuan(self) -> float:
        """For the gray pictures alone."""
        return month_yuan(self.calls_per_day, self.prices.cloud_yuan_per_1000)

    @property
    def total_yuan(self) -> tuple[float, float]:
        """(least, most): gray pictures and the machine."""
        cloud = self.cloud_yuan
        return cloud + self.prices.server_min_yuan, cloud + self.prices.server_max_yuan

    @property
    def saved_yuan(self) -> tuple[float, float]:
        """(least, most) against sending everything to the cloud; negative where it costs more."""
        low, high = self.total_yuan
        return self.cloud_only_yuan - high, self.cloud_only_yuan - low

    @property
    def break_even_uploads_per_day(self) -> tuple[float, float] | None:
        """(cheapest, dearest machine): above so many uploads a day it pays; None: never."""
        monthly = month_yuan(1 - self.gray_share, self.prices.cloud_yuan_per_1000)
        if monthly <= 0:
            return None
        return self.prices.server_min_yuan / monthly, self.prices.server_max_yuan / monthly

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; money rounded to fen."""

        def money(*amounts: float) -> list[float]:
            return [round(amount, 2) for amount in amounts]

        even = self.break_even_uploads_per_day
        return {
            "uploads_per_day": round(self.uploads_per_day, 2),
            "gray_share": round(self.gray_share, 6),
            "provider_calls_per_day": round(self.calls_per_day, 2),
            "cloud_only_yuan_per_month": round(self.cloud_only_yuan, 2),
            "cloud_yuan_per_month": round(self.cloud_yuan, 2),
            "total_yuan_per_month": money(*self.total_yuan),
            "saved_yuan_per_month": money(*self.saved_yuan),
            "break_even_uploads_per_day": money(*even) if even else None,
        }
