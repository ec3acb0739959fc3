"""One interface for every review provider, and what they share: the deadline, size floors, cost.

An adapter turns one normalised JPEG into an `Opinion` or raises a typed failure; it knows its wire
protocol and a table from the provider's terms to ours, and nothing of queues, limits or retries.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import queue
import threading
import time
from collections.abc import Callable
from typing import ClassVar, Self, TypeVar

from pydantic import SecretStr

from producer.contract import Decision, Opinion, Region
from producer.errors import ConfigurationError, ProviderRejectedImage, ProviderSilent
from worker.review.settings import ReviewSettings

ResultT = TypeVar("ResultT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """What an adapter read from one reply; `ReviewProvider.review` makes the opinion of it.

    Args:
        decision: the reply in our words; never approve unless the provider said so explicitly.
        score: 0..1, how sure it is of explicit content; None where it gives none.
        labels: its own terms, most important first.
        request_id: its id of this call.
        model_version: its model, where it says.
        raw: the reply as parsed JSON.
    """

    decision: Decision
    score: float | None = None
    labels: tuple[str, ...] = ()
    request_id: str = ""
    model_version: str = ""
    raw: object = None


class ReviewProvider(abc.ABC):
    """A cloud service that gives a second opinion; one object a process, used by many threads."""

    #: Our name of it, as in settings, limits, `decided_by`.
    name: ClassVar[str]
    #: Pixels; the provider refuses pictures with a shorter side.
    min_side_px: ClassVar[int] = 1
    #: The provider refuses larger files.
    max_image_bytes: ClassVar[int] = 10 * 2**20
    #: Grows when the tables or rules of the adapter change: older opinions are not reused then.
    rules_version: ClassVar[int] = 1

    def __init__(self, settings: ReviewSettings) -> None:
        self.timeout_s = settings.review_timeout_s
        self.connect_timeout_s = settings.review_connect_timeout_s
        self._call_yuan = settings.limits_of(self.name).yuan_per_1000 / 1000

    @classmethod
    def from_settings(cls, settings: ReviewSettings) -> Self:
        """Build the adapter and its client; no network is touched.

        Raises:
            ConfigurationError: a key is missing or a value cannot work; says which and why.
        """
        return cls(settings)

    @property
    @abc.abstractmethod
    def home(self) -> Region | None:
        """The region whose pictures it may see without crossing a border; None: both."""

    @property
    def rules(self) -> str:
        """Short hash of all that shapes its opinion; opinions under other rules are not reused."""
        text = "\n".join((str(self.rules_version), *self._rules()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _rules(self) -> tuple[str, ...]:
        """The settings that shape this provider's opinion: model, service, cut-offs."""
        return ()

    @abc.abstractmethod
    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        """Send one picture and read the reply; may block longer than the deadline."""

    def review(self, jpeg: bytes, *, data_id: str) -> Opinion:
        """Ask once; never retries.

        Args:
            jpeg: the normalised picture: sRGB, no alpha, short side 256 px or more.
            data_id: up to 64 of `[A-Za-z0-9_-]`, sent along so that both sides can trace the call.

        Raises:
            ProviderRejectedImage: it will never judge this picture.
            ProviderMisconfigured: it refuses our key or account, or we speak its API wrongly.
            ProviderRateLimited: it asks for fewer calls.
            ProviderSilent: no whole answer before the deadline; the call may be billed.
            ProviderUnavailable: it is down or overloaded; nothing was billed.
            ProviderAnswerUnknown: it answered what the adapter does not understand.
        """
        self._check_image(jpeg)
        started_s = time.monotonic()
        reply = call_with_deadline(functools.partial(self._ask, jpeg, data_id), self.timeout_s)
        return Opinion(
            provider=self.name,
            decision=reply.decision,
            score=reply.score,
            labels=reply.labels,
            request_id=reply.request_id,
            model_version=reply.model_version,
            raw=reply.raw,
            latency_s=time.monotonic() - started_s,
            cost_yuan=self._call_yuan,
        )

    def close(self) -> None:  # noqa: B027 - most SDKs have nothing to close
        """Close connections that are kept open, where the client can."""

    def _check_image(self, jpeg: bytes) -> None:
        if len(jpeg) > self.max_image_bytes:
            raise ProviderRejectedImage(
                f"the picture has {len(jpeg)} bytes, {self.name} takes at most "
                f"{self.max_image_bytes}"
            )
        width_px, height_px = jpeg_size(jpeg)
        if min(width_px, height_px) < self.min_side_px:
            raise ProviderRejectedImage(
                f"the picture is {width_px}x{height_px} px, {self.name} takes no side shorter "
                f"than {self.min_side_px} px"
            )


def call_with_deadline(call: Callable[[], ResultT], deadline_s: float) -> ResultT:
    """Run `call` and return its result, or give up on it after `deadline_s` seconds.

    SDK time-outs act on each socket read, so a reply that drips byte by byte outlives them all.
    The call runs in a daemon thread of its own; one that is given up on ends with its socket.

    Raises:
        ProviderSilent: the deadline passed.
    """
    outcome: queue.SimpleQueue[tuple[bool, ResultT | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((True, call()))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.put((False, error))

    threading.Thread(target=run, name="review-call", daemon=True).start()
    try:
        succeeded, value = outcome.get(timeout=deadline_s)
    except queue.Empty:
        raise ProviderSilent(f"no whole answer within {deadline_s:g} s") from None
    if not succeeded:
        assert isinstance(value, BaseException)
        raise value
    return value  # type: ignore[return-value]


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """(width, height) in pixels from the frame header; no decoding, no Pillow.

    Source: ITU-T T.81, B.2.2 (frame header) and table B.1 (markers).

    Raises:
        ProviderRejectedImage: these bytes are not a JPEG file.
    """
    at = 2
    while jpeg[:2] == b"\xff\xd8" and at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height_px = int.from_bytes(jpeg[at + 5 : at + 7], "big")
            width_px = int.from_bytes(jpeg[at + 7 : at + 9], "big")
            return width_px, height_px
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    raise ProviderRejectedImage("the normalised picture is not a JPEG file")


def needed(settings: ReviewSettings, *fields: str) -> list[str]:
    """The texts of settings that must not be empty.

    Raises:
        ConfigurationError: names every variable that is missing.
    """
    values: dict[str, str] = {}
    for field in fields:
        value = getattr(settings, field)
        text = value.get_secret_value() if isinstance(value, SecretStr) else (value or "")
        values[f"AVATARMOD_{field.upper()}"] = text
    missing = [name for name, text in values.items() if not text]
    if missing:
        provider = fields[0].partition("_")[0]
        raise ConfigurationError(
            f"{provider} is named as a review provider: set {', '.join(missing)}"
        )
    return list(values.values())


def check_region(variable: str, value: str, known: tuple[str, ...], endpoint: str) -> None:
    """Refuse a region that the provider does not have; an endpoint of the operator's frees it.

    Raises:
        ConfigurationError: the region is unknown.
    """
    if value not in known and not endpoint:
        raise ConfigurationError(
            f"{variable}={value!r} is not a region of this service; use one of {', '.join(known)}"
        )


def check_cut_offs(provider: str, approve_to: float, block_from: float) -> None:
    """Refuse cut-offs that overlap.

    Raises:
        ConfigurationError: a score could both approve and block.
    """
    if approve_to >= block_from:
        raise ConfigurationError(
            f"AVATARMOD_{provider.upper()}_APPROVE_TO={approve_to:g} is not below "
            f"AVATARMOD_{provider.upper()}_BLOCK_FROM={block_from:g}; the scores between them are "
            "the uncertain ones"
        )


def by_cut_offs(score: float, approve_to: float, block_from: float) -> Decision:
    """Block from `block_from` on, approve up to `approve_to`, uncertain between; scores 0..1."""
    if score >= block_from:
        return Decision.BLOCK
    return Decision.APPROVE if score <= approve_to else Decision.UNCERTAIN
