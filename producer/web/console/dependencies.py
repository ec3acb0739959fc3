"""What the console is given by the side that knows the model, the ledger and the providers.

The console itself imports nothing of the worker; `avatarmod api` builds these parts. Each may be
absent: the pages then say so instead of failing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from producer.contract import Avatar, Region
from producer.findings import LooksLike


class Ledger(Protocol):
    """What is asked of the ledger; see worker/ledger/queries.py."""

    def recent(
        self,
        limit: int = 50,
        before: int | None = None,
        state: str = "",
        search: str = "",
        reason: str = "",
    ) -> list[dict[str, Any]]:
        """Each upload's last transition, newest first."""

    def story(self, upload_id: str) -> list[dict[str, Any]]:
        """Everything that happened to one upload, in order."""

    def histogram(self, days: float = 30, bins: int = 50, *, now: float | None = None) -> list[Any]:
        """Probabilities of the last days in bins of equal width."""

    def count(self, start: float, end: float) -> Any:
        """Counts of one period."""

    def counts(self, periods: Sequence[tuple[float, float]]) -> list[Any]:
        """Counts of each period."""

    def latencies(self, start: float, end: float, shares: Sequence[float]) -> dict[str, Any]:
        """Percentiles of the seconds to the first final verdict by tier."""

    def people(self, periods: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
        """Each period's decisions by person."""

    def second_opinions(self, start: float, end: float) -> tuple[int, int]:
        """How many contents people decided alike, of those that several decided."""


class Providers(Protocol):
    """The review providers and their shared limits."""

    def statuses(self) -> Sequence[Any]:
        """How each stands, in the order of the routes."""

    def today(self) -> tuple[float, float | None]:
        """(yuan paid to all since the budget's midnight, what may be paid a day)."""

    def reset(self, name: str) -> bool:
        """Close a provider's breaker; False when no route names it."""


class Policies(Protocol):
    """The cut-offs, what others would do, how they are changed; see worker/tools/policies.py."""

    @property
    def version(self) -> str:
        """Of the policy in use."""

    @property
    def place(self) -> str:
        """The file."""

    def cut_offs(self, region: Region) -> tuple[Any, Any]:
        """(for photos, for drawings), with the attributes of `CutOffs`."""

    def problem(self) -> str:
        """Why they cannot be changed from here; empty where they can."""

    def proposal(self) -> tuple[tuple[Any, Any], Sequence[str]] | None:
        """(for photos, for drawings) that `avatarmod tune` proposed, and its words."""

    def history(self) -> Sequence[Any]:
        """Every state of the policy: at, by, note, version; the present one first."""

    def judge_again(self, days: float, photo: Any, drawn: Any) -> Any:
        """The newest pictures judged twice: `totals()`, `changes`, `unknown`."""

    def apply(self, photo: Any, drawn: Any, *, by: str, note: str) -> Any:
        """Put other cut-offs in force; raises a PolicyError where it cannot."""

    def roll_back(self, *, by: str, note: str) -> Any:
        """Go back to what held before the last change; raises as `apply`."""


class Pictures(Protocol):
    """Hostile bytes to a JPEG that is safe to show."""

    def safe_jpeg(self, avatar: Avatar) -> tuple[bytes, str]:
        """The normalised picture of an upload, drawn anew by a process that decodes nothing else.

        With it comes the SHA-256 of the bytes it was drawn from: the record's, where it has one.

        Raises:
            ModerationError: it is gone, or no picture.
        """

    def sheet(
        self, avatar: Avatar, side_px: int, most: int = 1
    ) -> tuple[bytes, str, tuple[float, ...]]:
        """The same, small, or up to `most` frames of an animation in a row of squares.

        With it come the seconds that each frame is shown. What has one frame gives no bytes where
        more than one was asked for.

        Raises:
            ModerationError: as `safe_jpeg`.
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
        region: of uploads that name none.
        policies: whose cut-offs judge, and how they are changed.
        second_cut_offs: (for photos, for drawings) of a second model now: what it clears and what
            it vetoes; None where one model judges alone.
        misses: (start, end) -> how many approvals were wrong, from audits that ended then.
        cloud_yuan_per_1000: price of 1,000 pictures if all went to the cloud.
        review_yuan_per_1000: price of 1,000 calls of the provider that is asked first.
        timezone: whose midnight ends a day.
        look_up: (a picture's file or nothing, perceptual hashes) -> remembered pictures that look
            like it, the nearest first; raises ModerationError where it cannot be looked up. None
            where that cannot be done here.
    """

    ledger: Callable[[], Ledger | None]
    providers: Providers | None
    pictures: Pictures | None
    region: Region
    policies: Policies
    misses: Callable[[float, float], Any | None]
    cloud_yuan_per_1000: float
    review_yuan_per_1000: float
    timezone: str
    second_cut_offs: Callable[[], tuple[CutOffs, CutOffs] | None] = lambda: None
    look_up: Callable[[bytes, Sequence[bytes]], Sequence[LooksLike]] | None = None

    def close(self) -> None:
        """End what was started for the console."""
        if self.pictures is not None:
            self.pictures.close()
