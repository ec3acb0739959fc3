"""What happens after an error. Pure: error class and attempt in, a decision out.

The life of a failing upload:

1. A step raises. `InvalidInput` is an answer, not a failure: the upload is rejected with its code.
2. `Transient` gives the lease back, due again after a delay that doubles with every attempt, plus
   jitter; the attempt is counted on the record, by stage and kind, so that waiting for one thing
   does not use up the patience for another. A server's Retry-After is honoured, within limits.
   A store or a host that does not answer is tried for hours: it comes back by itself, or a person
   repairs it, and neither is a reason to give an upload up.
3. After the last attempt, or at once for `Permanent`, the upload goes to the dead letters with its
   stage, error class, message, attempts, first and last failure. Its state is `dead`: not decided.
4. An exception that nobody foresaw counts as transient: it may be ours, and nothing is lost.
5. A worker that dies says nothing. Its lease runs out, the next worker takes that upload alone, and
   an upload whose holders died `MAX_CRASHES` times is quarantined in the dead letters.
6. An operator replays a dead letter: it re-enters its stage with a fresh count and its history.
"""

from __future__ import annotations

import dataclasses
import email.utils
from collections.abc import Callable, Sequence

from producer.contract import Stage
from producer.errors import InvalidInput, Permanent, StorageUnavailable

#: Deaths of the worker process with the same upload in its hands before it is quarantined.
MAX_CRASHES = 3

#: Seconds before attempt 2, 3, ... of a callback: about three days in all.
#: Source: the example schedule of Standard Webhooks 1.0, "Deliverability and reliability".
CALLBACK_SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)

#: The same for the other stages; the length + 1 is the number of attempts.
SCHEDULES_S: dict[Stage, tuple[float, ...]] = {
    Stage.MODERATE: (1.0, 5.0, 30.0, 120.0),
    Stage.REVIEW: (2.0, 10.0, 60.0, 300.0),
    Stage.COPY: (1.0, 5.0, 30.0, 120.0),
    Stage.AUDIT: (30.0, 300.0, 1800.0, 7200.0),
    Stage.CALLBACK: CALLBACK_SCHEDULE_S,
}

#: The same where a picture's store or host does not answer: eight hours before a person is needed.
STORAGE_SCHEDULE_S = (1.0, 5.0, 30.0, 120.0, 300.0, *(600.0,) * 47)

#: Seconds between two tries to remove a safe copy, without end.
REMOVAL_EVERY_S = 60.0

#: Part of a delay that is random, so that what failed together does not come back together.
JITTER = 0.2

#: Seconds; a Retry-After beyond this is clamped: who asks for days is asked again within the hour.
MAX_RETRY_AFTER_S = 3600.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """Try again after `delay_s` seconds."""

    delay_s: float


@dataclasses.dataclass(frozen=True)
class Reject:
    """The upload itself is unusable; `code` tells the web tier why."""

    code: str


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """Stop and wait for an operator."""

    reason: str


RetryDecision = Retry | Reject | DeadLetter


def kind_of(error: BaseException) -> str:
    """The kind of a failure; each kind of a stage has its own attempts."""
    return str(getattr(error, "code", "")) or type(error).__name__


def decide(
    error: BaseException,
    *,
    stage: Stage,
    attempt: int,
    random: Callable[[], float],
    schedule_s: Sequence[float] | None = None,
) -> RetryDecision:
    """Choose what happens after `error` ended attempt number `attempt` (1 is the first).

    Args:
        error: what was raised.
        stage: where.
        attempt: how many attempts have failed in this way by now, this one included.
        random: gives 0..1; spreads the delays.
        schedule_s: seconds before each further attempt; None: the stage's own.
    """
    if isinstance(error, InvalidInput):
        return Reject(error.code)
    if isinstance(error, Permanent):
        return DeadLetter(error.code)
    if schedule_s is not None:
        schedule = schedule_s
    elif isinstance(error, StorageUnavailable):
        schedule = STORAGE_SCHEDULE_S
    else:
        schedule = SCHEDULES_S[stage]
    if attempt > len(schedule):
        return DeadLetter("attempts_exhausted")
    delay_s = schedule[attempt - 1]
    asked_s = getattr(error, "retry_after_s", None)
    if asked_s is not None:
        delay_s = max(delay_s, min(asked_s, MAX_RETRY_AFTER_S))
    return Retry(delay_s * (1 + JITTER * random()))


def retry_after_s(value: str | None, *, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for, 0 to `MAX_RETRY_AFTER_S`; None: it does not say.

    Source: RFC 9110, section 10.2.3: a whole number of seconds, or an HTTP date.

    Args:
        value: the header as it came; whatever stands there, nothing is raised.
        now_s: seconds since the epoch, for a date.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            parsed = email.utils.parsedate_tz(text)
            if parsed is None:
                return None
            seconds = email.utils.mktime_tz(parsed) - now_s
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
