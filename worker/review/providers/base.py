"""One interface for every review provider, and what they share: size floors, latency, cost.

An adapter turns one normalised JPEG into an `Opinion` or raises a typed failure; it knows its wire
protocol and a table from the provider's terms to ours, and nothing of queues, limits or retries.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable
from typing import Any, ClassVar, Self

from producer.contract import Region
from producer.errors import ProviderAnswerUnknown, ProviderRejectedImage
from producer.findings import Decision, Opinion
from producer.texts import say
from worker.review.providers.fields import ProviderSettings
from worker.review.providers.wire import Call, http_client


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

    def __init__(self, settings: ProviderSettings) -> None:
        self.timeout_s = settings.review_timeout_s
        self.connect_timeout_s = settings.review_connect_timeout_s
        self._client = http_client(self.connect_timeout_s, self.timeout_s)
        self._call_yuan = settings.limits_of(self.name).call_microyuan / 1e6

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        """Build the adapter and its client from its own settings; no network is touched.

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
        """Send one picture through `wire.send` and read the reply.

        May block longer than the deadline. Whatever it raises that is no `ModerationError` counts
        as an answer that was not understood.
        """

    def review(
        self, jpeg: bytes, *, data_id: str, place_s: Callable[[], float] = lambda: 0.0
    ) -> Opinion:
        """Ask once; never retries.

        Args:
            jpeg: the normalised picture: sRGB, no alpha, short side 256 px or more.
            data_id: up to 64 of `[A-Za-z0-9_-]`, sent along so that both sides can trace the call.
            place_s: asked before a request is written: 0 when it may go out, else the seconds after
                which to ask again.

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
        call = Call(self.name, self._client, self.timeout_s, place_s)
        reply = call.run(functools.partial(self._ask, jpeg, data_id))
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

    def close(self) -> None:
        """End the client; the provider is not used after it."""
        self._client.close()

    def _check_image(self, jpeg: bytes) -> None:
        if len(jpeg) > self.max_image_bytes:
            raise ProviderRejectedImage(
                say(
                    "the picture has {size} bytes, {provider} takes at most {limit}",
                    size=len(jpeg),
                    provider=self.name,
                    limit=self.max_image_bytes,
                )
            )
        width_px, height_px = jpeg_size(jpeg)
        if min(width_px, height_px) < self.min_side_px:
            raise ProviderRejectedImage(
                say(
                    "the picture is {width_px}x{height_px} px, {provider} takes no side "
                    "shorter than {min_side_px} px",
                    width_px=width_px,
                    height_px=height_px,
                    provider=self.name,
                    min_side_px=self.min_side_px,
                )
            )


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
    raise ProviderRejectedImage(say("the normalised picture is not a JPEG file"))


def by_cut_offs(score: float, approve_to: float, block_from: float) -> Decision:
    """Block from `block_from` on, approve up to `approve_to`, uncertain between; scores 0..1."""
    if score >= block_from:
        return Decision.BLOCK
    return Decision.APPROVE if score <= approve_to else Decision.UNCERTAIN


def check_id(provider: str, given: object, data_id: str) -> None:
    """Refuse an answer to another picture; not every answer repeats the id that we sent.

    Raises:
        ProviderAnswerUnknown: it is about another picture.
    """
    if given not in (None, "", data_id):
        raise ProviderAnswerUnknown(
            say("{provider} answered for another picture than ours", provider=provider)
        )
