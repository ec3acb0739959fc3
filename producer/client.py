"""The only way into the queue: check what the caller gave, write the record, ring the doorbell."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import redis

from producer.connect import connect_store
from producer.contract import (
    NO_CALLBACK,
    Avatar,
    AvatarState,
    Enqueued,
    Priority,
    Region,
    Stage,
    Upload,
    check_subject,
    check_upload_id,
    is_web_address,
    public_url,
)
from producer.doorbell import Bells
from producer.errors import (
    BrokerUnavailable,
    InvalidUpload,
    ModerationError,
    QueueFull,
    StorageFull,
    StorageUnavailable,
)
from producer.image_references import check_image_reference
from producer.networks import parse_networks
from producer.reasons import DEFAULT_LANGUAGE, check_language
from producer.record.store import Store
from producer.settings import Settings, load_settings
from producer.tracing import span

log = logging.getLogger(__name__)

ChoiceT = TypeVar("ChoiceT", bound=enum.StrEnum)

#: Seconds after which a caller that met a full queue should try again.
FULL_RETRY_AFTER_S = 30.0


class Producer:
    """Enqueues uploads. Safe to share between threads; one per process is enough."""

    def __init__(self, store: Store, bells: Bells, settings: Settings) -> None:
        self.store = store
        self._bells = bells
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
        return cls(store, Bells.connect(store, settings), settings)

    def enqueue(
        self,
        upload_id: str,
        image: str | None = None,
        *,
        region: Region | str | None = None,
        priority: Priority | str = Priority.NORMAL,
        callback_url: str | None = None,
        subject: str | None = None,
        language: str | None = None,
    ) -> Enqueued:
        """Accept one upload; the same id again changes nothing and returns its present state.

        Args:
            upload_id: the caller's id of this picture, 1 to 200 of `A-Z a-z 0-9 . _ : @ / -`,
                no part between slashes being `.` or `..`; a new picture is a new id. An id with
                other characters can be given as a hash of it.
            image: where the bytes are (see images.py); None: the default store, under the id.
            region: which providers may see it; None: `AVATARMOD_DEFAULT_REGION`.
            priority: high while somebody waits for the answer, low for a backfill.
            callback_url: hears of this upload, whoever decides and whatever is configured then;
                must be covered by `AVATARMOD_CALLBACK_ALLOWED_URLS`; "none": nobody, the caller
                polls; None: `AVATARMOD_CALLBACK_URL` of this host, or else of the workers.
            subject: whose upload it is: your id of the person, at most 200 printable characters.
                Kept as a keyed hash unless `AVATARMOD_SUBJECTS_IN_CLEAR` is set; all of a person's
                uploads can be found and forgotten by it.
            language: what its owner reads, such as `zh-CN`: of the reason in callbacks; None:
                `AVATARMOD_LANGUAGE`.

        Raises:
            InvalidUpload: an argument is malformed; `field` names it.
            QueueFull: the backlog is at its limit; nothing was accepted.
            StorageFull: Redis' memory is; nothing was accepted.
            StorageUnavailable: Redis did not answer; whether it was accepted is not known, and
                enqueueing the same id again is safe.
        """
        upload = Upload(upload_id, image, region, priority, callback_url, subject, language)
        [answer] = self.enqueue_many([upload])
        if isinstance(answer, ModerationError):
            raise answer
        return answer

    def get(self, upload_id: str) -> Avatar | None:
        """The record of an upload as it stands; None when it is unknown or has expired.

        Raises:
            StorageUnavailable: Redis did not answer.
        """
        try:
            return self.store.get(check_upload_id(upload_id))
        except redis.RedisError as error:
            raise StorageUnavailable(f"Redis did not answer ({type(error).__name__})") from error

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
            subject=check_subject(upload.subject or ""),
            language=self._language(upload.language),
        )

    def _language(self, asked: str | None) -> str:
        """As it is kept: nothing where it is what everybody is told in."""
        language = check_language(asked or self._settings.language)
        return "" if language == DEFAULT_LANGUAGE else language

    def _submit(self, avatars: Sequence[Avatar]) -> list[Enqueued | ModerationError]:
        max_backlog = self._settings.max_backlog
        try:
            avatars = [self._with_subject(avatar) for avatar in avatars]
            with span("enqueue", upload_id=[avatar.upload_id for avatar in avatars]):
                found = self.store.submit_many(avatars, max_backlog=max_backlog)
        except redis.OutOfMemoryError as error:
            return [_storage_full(f"Redis is full ({error})") for _ in avatars]
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
            if outcome == "no_room":
                answers.append(_storage_full(self.store.room.lack()))
                continue
            if outcome == "created":
                log.debug("upload_enqueued", extra={"upload_id": avatar.upload_id})
            answers.append(Enqueued(avatar, outcome == "created"))
        return answers

    def _with_subject(self, avatar: Avatar) -> Avatar:
        """The record with whose it is as it is kept."""
        if not avatar.subject or self._settings.subjects_in_clear:
            return avatar
        return dataclasses.replace(avatar, subject=self.store.subjects.hashed(avatar.subject))

    def _ring(self) -> None:
        try:
            self._bells.ring(Stage.MODERATE)
        except BrokerUnavailable as error:
            # The record stands; the ticker of any worker rings for it within a second or two.
            log.warning("doorbell_failed", extra={"error": str(error)})

    def _check_callback(self, url: str) -> str:
        url = url or self._settings.callback_url
        if url in ("", NO_CALLBACK, self._settings.callback_url):
            return url
        if not is_web_address(url) or not any(
            is_under(url, allowed) for allowed in self._settings.callback_allowed_urls
        ):
            raise InvalidUpload(
                f"callback {public_url(url)[:80]!r} is not under an address in "
                "AVATARMOD_CALLBACK_ALLOWED_URLS",
                field="callback_url",
            )
        return url


def _storage_full(why: str) -> StorageFull:
    return StorageFull(why, retry_after_s=FULL_RETRY_AFTER_S)


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
