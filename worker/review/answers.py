"""What the router is asked and what it answers: plain data, no I/O, no clock.

The task that asks turns each answer into a transition of the upload's record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from producer.errors import ModerationError
from producer.findings import Opinion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """A provider approved or blocked.

    Args:
        opinion: with `decision` approve or block, never uncertain.
        tried: what to store on the record, `provider:outcome` each.
    """

    opinion: Opinion
    tried: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing decided: look again after `delay_s`.

    Args:
        delay_s: seconds from now.
        why: `same_picture`, `rate`, `concurrency`, `breaker`, `retry`, `next_provider`.
        tried: what to store on the record and hand in next time.
        opinions: uncertain opinions so far, for the ledger.
        detail: one sentence for people.
    """

    delay_s: float
    why: str
    tried: tuple[str, ...]
    opinions: tuple[Opinion, ...] = ()
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hold:
    """A person must decide.

    Args:
        reason: stable code: `no_provider`, `provider_uncertain`, `provider_rejected_image`,
            `providers_failed`, `provider_wait_too_long`, `budget_spent`.
        detail: one sentence for people.
        tried: what to store on the record.
        opinions: uncertain opinions, for the person and the ledger.
    """

    reason: str
    detail: str
    tried: tuple[str, ...]
    opinions: tuple[Opinion, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Approve:
    """Approved unseen, because the budget is spent and settings say so.

    Args:
        reason: stable code `budget_spent_approve_below`.
        detail: one sentence for people.
    """

    reason: str
    detail: str
    tried: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Every provider failed and settings ask for a dead letter.

    Args:
        error: the last failure.
    """

    error: ModerationError
    tried: tuple[str, ...]


Answer = Answered | Wait | Hold | Approve | GiveUp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One call of `Router.review`, with what was learnt on the way."""

    upload_id: str
    seq: int
    sha256: str
    route: tuple[str, ...]
    jpeg: Callable[[], bytes]
    probability: float
    age_s: float
    tried: tuple[str, ...]
    is_audit: bool = False
    opinions: tuple[Opinion, ...] = ()

    @property
    def is_uncertain(self) -> bool:
        """Whether a provider has looked at it and could not say."""
        return any(entry.endswith(":uncertain") for entry in self.tried)

    @property
    def failures(self) -> int:
        """Failed tries so far, at all providers together."""
        return sum(entry.endswith((":failed", ":unknown")) for entry in self.tried)

    def noting(self, entry: str) -> Question:
        """With one more `provider:outcome`; uncertain is noted once."""
        if entry.endswith(":uncertain") and entry in self.tried:
            return self
        return dataclasses.replace(self, tried=(*self.tried, entry))

    def with_opinion(self, opinion: Opinion) -> Question:
        """With one more uncertain opinion."""
        return dataclasses.replace(self, opinions=(*self.opinions, opinion))

    def left(self, tries: int) -> list[str]:
        """Providers of the route that have not answered, nor failed too often."""
        return [name for name in self.route if not self._is_done(name, tries)]

    def _is_done(self, name: str, tries: int) -> bool:
        failed = self.tried.count(f"{name}:failed")
        # An answer nobody understands is asked for once more, then never again.
        unknown = self.tried.count(f"{name}:unknown")
        final = f"{name}:uncertain" in self.tried or f"{name}:rejected" in self.tried
        return final or failed + unknown >= tries or unknown >= 2
