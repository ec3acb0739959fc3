"""Figures as people read them, the same in every command, report and page."""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

#: Standard normal quantile of a two-sided 95 % interval.
Z95 = NormalDist().inv_cdf(0.975)

#: Header and rows of a table, the same on the terminal and on a page.
Table = tuple[list[str], list[list[object]]]


@dataclasses.dataclass(frozen=True)
class Rate:
    """`hits` of `total`, with a 95 % interval."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """0..1; None where there was nothing to count."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %; 0..1 where there was nothing to count.

        Source: Wilson 1927; it stays sensible where the hits are 0 or few, as they are here.
        """
        if not self.total:
            return 0.0, 1.0
        n, p, z2 = self.total, self.hits / self.total, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        low, high = self.interval
        return f"{self.value:.2%} ({low:.2%} to {high:.2%})"

    def to_json(self) -> dict[str, object]:
        """JSON-ready form."""
        return {
            "hits": self.hits,
            "total": self.total,
            "rate": self.value,
            "interval95": self.interval,
        }


def percent(share: float | None) -> str:
    """A share; a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def unit(currency: str) -> str:
    """What amounts are in, in words: `yuan`, or the code of another currency."""
    return "yuan" if currency == "CNY" else currency


def yuan(amount: float) -> str:
    """An amount of money with two digits, without its unit."""
    return f"{amount:,.2f}"


def span(low: float, high: float) -> str:
    """Two amounts of money; one where they are the same."""
    return yuan(low) if low == high else f"{yuan(low)} to {yuan(high)}"


def saved(low: float, high: float) -> str:
    """What is saved, least and most; what is not saved is paid more, in words instead of a sign."""
    if high < 0:
        return f"{span(-high, -low)} more"
    return span(low, high) if low >= 0 else f"{yuan(-low)} more to {yuan(high)} saved"
