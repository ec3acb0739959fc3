"""Takes over uploads of programs that speak only Redis; a thread of each io worker.

An entry names an upload as `enqueue` takes it, or holds a bucket event. It is settled once every
upload of it is accepted or refused: until then it comes again, which changes nothing for an upload
that is accepted already. The protocol is written down in docs/integration/redis.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote_plus

import redis
import structlog

from producer.client import Producer
from producer.contract import Upload, is_upload_id
from producer.doorbell import Bells
from producer.errors import InvalidInput, InvalidUpload, ModerationError
from producer.images import BACKFILL, RECEIVED
from producer.record.intake import IntakeEntry
from producer.record.store import Store
from producer.settings import Settings

log = structlog.get_logger()

#: Entries taken in one round trip.
PAGE = 100

#: Seconds that one look waits for an entry; also how long a stop waits for this thread.
LOOK_S = 1.0

#: Seconds without another try after Redis failed, or would take no more uploads.
PAUSE_S = 5.0

#: Characters of a refused id that are repeated.
MAX_ID_CHARS = 200

#: What an entry may say of its upload; with `event`, of all its uploads.
_FIELDS = frozenset(field.name for field in dataclasses.fields(Upload))
_SHARED = _FIELDS - {"upload_id", "image"}

Item = Upload | tuple[str, InvalidUpload]


class IntakeThread(threading.Thread):
    """Runs until `stop` is set.

    Args:
        store: where the stream is.
        producer: accepts or refuses.
        ours: beginnings of s3:// addresses that we write to ourselves; events of these are passed
            over, or each safe copy would become an upload.
        stop: ends it.
    """

    def __init__(
        self, store: Store, producer: Producer, *, ours: Sequence[str], stop: threading.Event
    ) -> None:
        super().__init__(name="intake", daemon=True)
        self._store = store
        self._producer = producer
        self._ours = tuple(ours)
        self._stop_event = stop

    def run(self) -> None:
        """Look until stopped; Redis being away is waited out."""
        while not self._stop_event.is_set():
            try:
                is_settled = self.look(wait_s=LOOK_S)
            except redis.RedisError as error:
                log.warning("intake_waits", error=type(error).__name__)
                is_settled = False
            except Exception:  # one entry must not end the intake of all others
                log.exception("intake_failed")
                is_settled = False
            if not is_settled:
                self._stop_event.wait(PAUSE_S)

    def look(self, *, wait_s: float) -> bool:
        """Take what waits and settle it; False where uploads are not accepted now."""
        self._store.intake.adopt_events(PAGE)
        entries = self._store.intake.take(PAGE, wait_s=wait_s)
        items = [self._items_of(entry) for entry in entries]
        uploads = [item for one in items for item in one if isinstance(item, Upload)]
        answers = iter(self._producer.enqueue_many(uploads) if uploads else ())
        settled: dict[str, list[dict[str, str]]] = {}
        for entry, one in zip(entries, items, strict=True):
            found = [
                (item.upload_id, next(answers)) if isinstance(item, Upload) else item
                for item in one
            ]
            refused = [(who, what) for who, what in found if isinstance(what, ModerationError)]
            if all(isinstance(error, InvalidInput) for _, error in refused):
                settled[entry.place] = [_refusal(who, error) for who, error in refused]
        self._store.intake.settle(settled)
        return len(settled) == len(entries)

    def _items_of(self, entry: IntakeEntry) -> list[Item]:
        given = (entry.fields or {}).get("upload_id", "")[:MAX_ID_CHARS]
        try:
            return [upload for upload in uploads_of(entry.fields) if not self._is_ours(upload)]
        except InvalidUpload as error:
            return [(given, error)]

    def _is_ours(self, upload: Upload) -> bool:
        return (upload.image or "").startswith(self._ours)


def make_intake(
    settings: Settings, store: Store, bells: Bells, stop: threading.Event
) -> IntakeThread:
    """The thread of one worker, not started yet."""
    images = settings.image_folder.rstrip("/")
    ours = [f"{images}/{RECEIVED}/", f"{images}/{BACKFILL}/"]
    if settings.safe_copies:
        ours.append(f"{settings.safe_copies.rstrip('/')}/")
    return IntakeThread(store, Producer(store, bells, settings), ours=ours, stop=stop)


def _refusal(upload_id: str, error: ModerationError) -> dict[str, str]:
    log.warning("intake_refused", upload_id=upload_id, code=error.code, error=str(error))
    field = error.field if isinstance(error, InvalidUpload) else ""
    return {"upload_id": upload_id, "code": error.code, "field": field, "detail": str(error)}


def uploads_of(fields: dict[str, str] | None) -> list[Upload]:
    """The uploads that an entry of the stream names.

    Raises:
        InvalidUpload: a field is missing, unknown or cannot be read.
    """
    if fields is None:
        raise InvalidUpload("the entry is no text in UTF-8", field="")
    fields = {name: value for name, value in fields.items() if value}
    event = fields.pop("event", None)
    allowed = _FIELDS if event is None else _SHARED
    if unknown := sorted(set(fields) - allowed):
        raise InvalidUpload(f"the field {unknown[0][:60]!r} is not known", field=unknown[0][:60])
    if event is None:
        return [Upload(**{"upload_id": "", **fields})]
    shared: dict[str, Any] = fields
    return [Upload(upload_id, image, **shared) for upload_id, image in pictures_of(event)]


def pictures_of(event: str) -> Iterator[tuple[str, str]]:
    """(upload id, s3:// address) of every object that a bucket event says was created.

    The id is `bucket/key@etag`, so that other bytes under the same key are another upload; a key
    that cannot stand in an id is replaced by `sha256:` and its hash.

    Source: S3's Event message structure 2.x; MinIO's target for Redis in the format `access` puts
    the same records into `[{"Event": [...], "EventTime": ...}]`.

    Raises:
        InvalidUpload: it is no such event.
    """
    try:
        for record in _records(json.loads(event)):
            if not re.match(r"(s3:)?ObjectCreated:", str(record["eventName"])):
                continue
            bucket, found = str(record["s3"]["bucket"]["name"]), record["s3"]["object"]
            key = unquote_plus(str(found["key"]))
            image = f"s3://{bucket}/{key}"
            image.encode()  # half a character names nothing
            version = str(found.get("eTag") or found.get("sequencer") or "").strip('"')
            upload_id = f"{bucket}/{key}@{version}"
            if not is_upload_id(upload_id):
                digest = hashlib.sha256(key.encode()).hexdigest()
                upload_id = f"{bucket}/sha256:{digest}@{version}"
            yield upload_id, image
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidUpload(
            f"the event is none of a bucket ({type(error).__name__})", field="event"
        ) from error


def _records(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, list):
        return [record for one in document for record in one["Event"]]
    if "Records" not in document and document.get("Event") == "s3:TestEvent":
        return []  # S3 sends one when the notification is configured
    return list(document["Records"])
