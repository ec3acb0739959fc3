"""The only way into the queue: check what the caller gave, write the record, ring the doorbell.

from producer.enqueue import enqueue
enqueue("user-17@2026-11-22T10:00", image="https://example.org/a/17.png", region="overseas")
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from producer.connect import connect_store, find_redis_url, make_celery, ring
from producer.contract import (
    NO_CALLBACK,
    Avatar,
    AvatarState,
    Priority,
    Region,
    Stage,
    check_upload_id,
)
from producer.errors import InvalidUpload, ModerationError, QueueFull, StorageUnavailable
from producer.http_guard import parse_networks
from producer.images import check_image_reference
from producer.settings import Settings, load_settings
from producer.store import Store
from producer.tracing import span

log = structlog.get_logger()

ChoiceT = TypeVar("ChoiceT", bound=enum.StrEnum)

#: Seconds after which a caller that met a full queue should try again.
FULL_RETRY_AFTER_S = 30.0


@dataclasses.dataclass(frozen=True)
class Enqueued:
    """What enqueue found or made: `created` is False when the id was already known."""

    avatar: Avatar
    created: bool


@dataclasses.dataclass(frozen=True)
class Upload:
    """One upload as a caller gives it; see `Producer.enqueue` for what each field may hold."""

    upload_id: str
    image: str | None = None
    region: Region | str | None = None
    priority: Priority | str = Priority.NORMAL
    callback_url: str | None = None


class Producer:
    """Enqueues uploads. Safe to share between threads; one per process is enough."""

    def __init__(self, store: Store, celery: Celery, settings: Settings) -> None:
        self.store = store
        self._celery = celery
        self._settings = settings
        self._private_networks = parse_networks(settings.private_networks)

    @classmethod
    def connect(cls, settings: Settings | None = None) -> Producer:
        """A producer on the configured Redis.

        Raises:
            ConfigurationError: a setting is unusable or Redis does not answer.
        """
        settings = settings or load_settings(Settings)
        store = connect_store(settings)
        return cls(store, make_celery(settings, find_redis_url(settings)), settings)

    def enqueue(
        self,
        upload_id: str,
        image: str | None = None,
        *,
        region: Region | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        callback_url: str | None = None,
    ) -> Enqueued:
        """Accept one upload; the same id again changes nothing and returns its present state.

        Args:
            upload_id: the caller's id of this picture, 1 to 200 of `A-Z a-z 0-9 . _ : @ / -`,
                no part between slashes being `.` or `..`; a new picture is a new id.
            image: where the bytes are (see images.py); None: the default store, under the id.
            region: which providers may see it; None: `AVATARMOD_DEFAULT_REGION`.
            priority: high while somebody waits for the answer, low for a backfill.
            callback_url: hears of this upload instead of `AVATARMOD_CALLBACK_URL`; must be
                covered by `AVATARMOD_CALLBACK_ALLOWED_URLS`; "none": nobody, the caller polls.

        Raises:
            InvalidUpload: an argument is malformed; `field` names it.
            QueueFull: the backlog is at its limit; nothing was accepted.
            StorageUnavailable: Redis did not answer; whether it was accepted is not known, and
                enqueueing the same id again is safe.
        """
        upload = Upload(upload_id, image, region, priority, callback_url)
        [answer] = self.enqueue_many([upload])
        if isinstance(answer, ModerationError):
            raise answer
        return answer

    def enqueue_many(self, uploads: Sequence[Upload]) -> list[Enqueued | ModerationError]:
        """`enqueue` for several in one round trip; each has its own answer, in order.

        Where one upload would raise, its error takes the place of its answer.
        """
        answers: list[Enqueued | ModerationError] = []
        places: list[int] = []
        avatars: list[Avatar] = []
        for place, upload in enumerate(uploads):
            try:
                avatars.append(self._record_of(upload))
                places.append(place)
            except InvalidUpload as error:
                answers.append(error)
                continue
            answers.append(Enqueued(avatars[-1], created=False))
        for place, answer in zip(places, self._submit(avatars), strict=True):
            answers[place] = answer
        if any(isinstance(answer, Enqueued) and answer.created for answer in answers):
            self._ring()
        return answers

    def _record_of(self, upload: Upload) -> Avatar:
        return Avatar(
            upload_id=check_upload_id(upload.upload_id),
            state=AvatarState.QUEUED,
            seq=1,
            image=check_image_reference(upload.image or "", self._private_networks),
            region=_one_of(Region, upload.region or self._settings.default_region, "region"),
            priority=_one_of(Priority, upload.priority, "priority"),
            callback_url=self._check_callback(upload.callback_url or ""),
        )

    def _submit(self, avatars: Sequence[Avatar]) -> list[Enqueued | ModerationError]:
        max_backlog = self._settings.max_backlog
        try:
            with span("enqueue", upload_id=[avatar.upload_id for avatar in avatars]):
                found = self.store.submit_many(avatars, max_backlog=max_backlog)
        except redis.RedisError as error:
            problem = f"Redis did not answer ({type(error).__name__}); enqueue"
            return [StorageUnavailable(f"{problem} {a.upload_id!r} again") for a in avatars]
        answers: list[Enqueued | ModerationError] = []
        for outcome, avatar in found:
            if outcome == "full":
                answers.append(
                    QueueFull(
                        f"{max_backlog} uploads are waiting already; try again later",
                        retry_after_s=FULL_RETRY_AFTER_S,
                    )
                )
                continue
            if outcome == "created":
                log.debug("upload_enqueued", upload_id=avatar.upload_id)
            answers.append(Enqueued(avatar, outcome == "created"))
        return answers

    def _ring(self) -> None:
        try:
            ring(self.store, self._celery, Stage.MODERATE)
        except (OperationalError, redis.RedisError, OSError) as error:
            # The record stands; the ticker of any worker rings for it within a second or two.
            log.warning("doorbell_failed", error=type(error).__name__)

    def _check_callback(self, url: str) -> str:
        if not url or url == self._settings.callback_url:
            return ""
        if url == NO_CALLBACK:
            return url
        if urlsplit(url).scheme not in ("http", "https") or not any(
            is_under(url, allowed) for allowed in self._settings.callback_allowed_urls
        ):
            raise InvalidUpload(
                f"callback {url[:80]!r} is not under an address in AVATARMOD_CALLBACK_ALLOWED_URLS",
                field="callback_url",
            )
        return url


def is_under(url: str, allowed: str) -> bool:
    """Whether a URL has the scheme, host and port of an allowed one, and a path at or below it."""
    mine, theirs = urlsplit(url), urlsplit(allowed)
    path = theirs.path.rstrip("/")
    return (
        (mine.scheme, mine.netloc) == (theirs.scheme, theirs.netloc)
        and (mine.path == path or mine.path.startswith(path + "/"))
        and ".." not in unquote(mine.path)
        and url.isprintable()
        and " " not in url
    )


def _one_of(kind: type[ChoiceT], value: str, field: str) -> ChoiceT:
    try:
        return kind(value)
    except ValueError:
        raise InvalidUpload(
            f"{field} {str(value)[:40]!r} is not known; use one of: {', '.join(kind)}", field=field
        ) from None


@functools.cache
def _shared_producer() -> Producer:
    return Producer.connect()


def enqueue(upload_id: str, image: str | None = None, **options: str | None) -> Enqueued:
    """`Producer.enqueue` on a producer made from the environment once per process."""
    return _shared_producer().enqueue(upload_id, image, **options)  # type: ignore[arg-type]
