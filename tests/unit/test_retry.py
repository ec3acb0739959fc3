"""Every error of the tree has its decision, by class and attempt."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import errors
from producer.contract import Stage
from worker import retry

#: What happens after the first attempt of each class of the tree. A new class must be entered here.
EXPECTED: dict[str, str] = {
    "ModerationError": "retry",
    "InvalidInput": "reject",
    "InvalidUpload": "reject",
    "PrivateAddress": "reject",
    "InsecureAddress": "reject",
    "ImageMissing": "reject",
    "ImageChanged": "reject",
    "ImageTooLarge": "reject",
    "ImageBomb": "reject",
    "UnsupportedImage": "reject",
    "CorruptImage": "reject",
    "ImageTooSlow": "reject",
    "Transient": "retry",
    "StorageUnavailable": "retry",
    "StorageMisconfigured": "retry",
    "DecoderUnavailable": "retry",
    "NeedsLonger": "retry",
    "ProviderUnavailable": "retry",
    "ProviderRateLimited": "retry",
    "ProviderSilent": "retry",
    "ProviderAnswerUnknown": "retry",
    "CallbackFailed": "retry",
    "LedgerUnavailable": "retry",
    "BrokerUnavailable": "retry",
    "QueueFull": "retry",
    "StorageFull": "retry",
    "Permanent": "bury",
    "InferenceFailed": "bury",
    "ProviderRejectedImage": "bury",
    "ProviderMisconfigured": "bury",
    "CallbackRefused": "bury",
    "WorkerKilled": "bury",
    "UnknownUpload": "retry",
}

KINDS = {retry.Retry: "retry", retry.Reject: "reject", retry.DeadLetter: "bury"}


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    """A class and everything below it."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


ALL = sorted(
    {e for e in tree(errors.ModerationError) if e.__module__ == errors.__name__},
    key=lambda error: error.__name__,
)


def decide(error: BaseException, *, stage: Stage = Stage.MODERATE, attempt: int = 1) -> object:
    """A decision without jitter."""
    return retry.decide(error, stage=stage, attempt=attempt, random=lambda: 0.0)


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
@pytest.mark.parametrize("stage", Stage)
def test_every_error_has_its_decision(error: type[Exception], stage: Stage) -> None:
    """A class without an entry in the table above fails here."""
    assert KINDS[type(decide(error("why"), stage=stage))] == EXPECTED[error.__name__]  # type: ignore[index]


def test_the_table_names_no_class_that_is_gone() -> None:
    """Table and tree are equal, and the tree is drawn in the module's docstring."""
    assert {error.__name__ for error in ALL} == set(EXPECTED)
    refusals = [e for e in tree(errors.ConfigurationError) if e.__module__ == errors.__name__]
    for error in [*ALL, *refusals]:
        assert error.__name__ in (inspect.getdoc(errors) or "")


def test_every_error_has_a_code_of_its_own() -> None:
    """Codes go into records and answers; two classes must not share one."""
    codes = [error.code for error in ALL]  # type: ignore[attr-defined]
    assert len(set(codes)) == len(codes)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)


def test_a_rejection_tells_the_web_tier_why() -> None:
    """The code of the error is the reason in the record."""
    assert decide(errors.ImageBomb("60000 x 60000")) == retry.Reject("too_many_pixels")
    assert decide(errors.WorkerKilled("3 times")) == retry.DeadLetter("worker_killed")


@pytest.mark.parametrize("error", [RuntimeError("bug"), MemoryError(), KeyError("x")])
def test_what_nobody_foresaw_is_tried_again(error: Exception) -> None:
    """It may be ours, and nothing is lost."""
    assert decide(error) == retry.Retry(retry.SCHEDULES_S[Stage.MODERATE][0])


@pytest.mark.parametrize("stage", Stage)
def test_the_schedule_is_kept_and_then_it_ends(stage: Stage) -> None:
    """Each attempt has its delay; the one after the last is a dead letter."""
    schedule = retry.SCHEDULES_S[stage]
    error = errors.DecoderUnavailable("no process")
    delays = [decide(error, stage=stage, attempt=n) for n in range(1, len(schedule) + 1)]
    assert delays == [retry.Retry(delay) for delay in schedule]
    assert list(schedule) == sorted(schedule)
    end = decide(error, stage=stage, attempt=len(schedule) + 1)
    assert end == retry.DeadLetter("attempts_exhausted")


@pytest.mark.parametrize("error", [errors.StorageUnavailable, errors.StorageMisconfigured])
@pytest.mark.parametrize("stage", [Stage.MODERATE, Stage.REVIEW])
def test_a_store_or_a_host_that_is_away_is_tried_for_hours(
    error: type[Exception], stage: Stage
) -> None:
    """It comes back, or somebody repairs it; then uploads follow within ten minutes or so."""
    schedule = retry.STORAGE_SCHEDULE_S
    attempts = range(1, len(schedule) + 1)
    delays = [decide(error("away"), stage=stage, attempt=n) for n in attempts]
    assert delays == [retry.Retry(delay) for delay in schedule]
    assert 6 * 3600 < sum(schedule) < 24 * 3600
    assert max(schedule) <= 900
    end = decide(error("away"), stage=stage, attempt=len(schedule) + 1)
    assert end == retry.DeadLetter("attempts_exhausted")


def test_another_schedule_takes_the_place_of_the_stages_own() -> None:
    """An operator's own list of delays is kept to its end."""
    error = errors.CallbackFailed("500", status=500)
    options = {"stage": Stage.CALLBACK, "random": lambda: 0.0, "schedule_s": (0.5, 1.5)}
    assert retry.decide(error, attempt=2, **options) == retry.Retry(1.5)  # type: ignore[arg-type]
    assert isinstance(retry.decide(error, attempt=3, **options), retry.DeadLetter)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked_s", "delay_s"), [(None, 5.0), (0.0, 5.0), (60.0, 60.0), (1e12, retry.MAX_RETRY_AFTER_S)]
)
def test_retry_after_is_honoured_within_limits(asked_s: float | None, delay_s: float) -> None:
    """Never sooner than the schedule, never later than a day."""
    error = errors.CallbackFailed("503", status=503, retry_after_s=asked_s)
    assert decide(error, stage=Stage.CALLBACK) == retry.Retry(delay_s)


@given(st.floats(0, 1), st.sampled_from(Stage), st.integers(1, 4), st.none() | st.floats(0, 1e9))
def test_jitter_only_ever_adds_and_never_more_than_a_fifth(
    random: float, stage: Stage, attempt: int, asked_s: float | None
) -> None:
    """What failed together does not come back together, nor earlier than it should."""
    error = errors.Transient("x", retry_after_s=asked_s)
    steady = retry.decide(error, stage=stage, attempt=attempt, random=lambda: 0.0)
    spread = retry.decide(error, stage=stage, attempt=attempt, random=lambda: random)
    assert isinstance(steady, retry.Retry)
    assert isinstance(spread, retry.Retry)
    assert steady.delay_s <= spread.delay_s <= steady.delay_s * (1 + retry.JITTER) + 1e-9


NOW_S = 1_795_348_800.0  # Sun, 22 Nov 2026 12:00:00 GMT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        ("17", 17.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\u00b2", None),
        ("\u0663", None),
        ("999999", retry.MAX_RETRY_AFTER_S),
        ("9" * 5000, retry.MAX_RETRY_AFTER_S),
        ("Sun, 22 Nov 2026 12:01:00 GMT", 60.0),
        ("Sun, 22 Nov 2026 13:01:00 +0100", 60.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 12:01:00 -0000", 60.0),
        ("Sun, 22 Nov 2026 12:01:00", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", retry.MAX_RETRY_AFTER_S),
        ("Fri, 31 Foo 2026 23:59:59 GMT", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    """A date in the past is now, one far away a day; what is neither is ignored."""
    assert retry.retry_after_s(value, now_s=NOW_S) == seconds


@given(st.text(max_size=40) | st.from_regex(r"\w{3}, \d+ [A-Z][a-z]{2} \d+ [\d:]+ \S*"))
def test_no_retry_after_breaks_anything(value: str) -> None:
    """Whatever a server writes there, the answer is a bounded number of seconds or none."""
    seconds = retry.retry_after_s(value, now_s=NOW_S)
    assert seconds is None or 0 <= seconds <= retry.MAX_RETRY_AFTER_S
