"""What the console is given by the side that knows the model, the ledger and the providers.

The console itself imports nothing of the worker; `avatarmod api` builds these parts. Each may be
absent: the pages then say so instead of failing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from producer.contract import Avatar, Region


class Ledger(Protocol):
    """What is asked of the ledger; see worker/ledger_reads.py."""

    def recent(
        self, limit: int = 50, before: int | None = None, state: str = "", search: str = ""
    ) -> list[dict[str, Any]]:
        """Each upload's last transition, newest first."""

    def story(self, upload_id: str) -> list[dict[str, Any]]:
        """Everything that happened to one upload, in order."""

    def histogram(self, days: float = 30, bins: int = 50, *, now: float | None = None) -> list[Any]:
        """Probabilities of the last days in bins of equal width."""

    def count(self, start: float, end: float) -> Any:
        """Counts of one period."""

    def latencies(self, start: float, end: float, shares: Sequence[float]) -> dict[str, Any]:
        """Percentiles of the seconds to the first final verdict by tier."""


class Providers(Protocol):
    """The review providers and their shared limits."""

    def statuses(self) -> Sequence[Any]:
        """How each stands, in the order of the routes."""

    def reset(self, name: str) -> bool:
        """Close a provider's breaker; False when no route names it."""


class Pictures(Protocol):
    """Hostile bytes to a JPEG that is safe to show."""

    def safe_jpeg(self, avatar: Avatar) -> bytes:
        """The normalised picture of an upload, drawn anew by a process that decodes nothing else.

        Raises:
            ModerationError: it is gone, or no picture.
        """

    def close(self) -> None:
        """End what decodes."""


@dataclasses.dataclass(frozen=True)
class CutOffs:
    """Probabilities below `approve_below` are approved, from `block_from` on blocked."""

    approve_below: float
    block_from: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything the console is given.

    Args:
        ledger: opens the ledger, or None where there is none (yet).
        providers: None without the review settings.
        pictures: None where pictures cannot be decoded here.
        cut_offs: (for photos, for drawings) by region.
        cloud_yuan_per_1000: price of 1,000 pictures if all went to the cloud.
        review_yuan_per_1000: price of 1,000 calls of the provider that is asked first.
        timezone: whose midnight ends a day.
    """

    ledger: Callable[[], Ledger | None]
    providers: Providers | None
    pictures: Pictures | None
    cut_offs: Callable[[Region], tuple[CutOffs, CutOffs]]
    cloud_yuan_per_1000: float
    review_yuan_per_1000: float
    timezone: str

    def close(self) -> None:
        """End what was started for the console."""
        if self.pictures is not None:
            self.pictures.close()
