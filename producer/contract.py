"""The words both sides of the queue share: states, the record, opinions, queue and task names.

Pure data: no I/O, no clock, no settings. What crosses a process boundary is encoded here and
decoded strictly; a reader accepts unknown fields, so old and new versions can run side by side.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Any

from producer.errors import InvalidUpload

#: Grows when the meaning of a stored field changes; readers accept their own and older ones.
SCHEMA_VERSION = 1

#: What an upload id may look like, but for parts `.` and `..`, which `is_upload_id` refuses too. It
#: becomes part of a Redis key, of a callback body and of a URL.
UPLOAD_ID_PATTERN = re.compile(r"[A-Za-z0-9._:@/-]{1,200}")

#: Event type of every callback, and of the same document when it is polled.
EVENT_TYPE = "avatar.moderated"

#: Callback address of an upload that nobody shall hear of; its caller polls.
NO_CALLBACK = "none"

#: Bytes; long enough for a presigned S3 URL.
MAX_IMAGE_REFERENCE_BYTES = 2000


class AvatarState(enum.StrEnum):
    """Where one upload stands."""

    #: Accepted, not looked at yet.
    QUEUED = "queued"
    #: Gray: waits for, or is with, a cloud provider.
    REVIEWING = "reviewing"
    #: A person must decide.
    HELD = "held"
    #: Final: may be shown.
    APPROVED = "approved"
    #: Final: must not be shown.
    BLOCKED = "blocked"
    #: Final: not a usable picture; the reason says why.
    REJECTED = "rejected"
    #: Operations failed for good; waits in the dead letters. Not decided, never safe.
    DEAD = "dead"


#: States that end an upload; only an operator may overrule approved and blocked.
FINAL_STATES = frozenset({AvatarState.APPROVED, AvatarState.BLOCKED, AvatarState.REJECTED})


class Verdict(enum.StrEnum):
    """The policy's answer to one probability."""

    APPROVED = "approved"
    BLOCKED = "blocked"
    #: Not clear: a second opinion decides.
    GRAY = "gray"


class Region(enum.StrEnum):
    """Which providers may see a picture; it never crosses without the operator's word."""

    DOMESTIC = "domestic"
    OVERSEAS = "overseas"


class Priority(enum.StrEnum):
    """The lane an upload waits in; a higher lane is always emptied first."""

    #: Somebody waits for the answer on an open connection.
    HIGH = "high"
    NORMAL = "normal"
    #: Backfill: only when nothing else is due.
    LOW = "low"


class Stage(enum.StrEnum):
    """A step that can be waited for, leased, retried and dead-lettered; also its queue."""

    MODERATE = "moderate"
    REVIEW = "review"
    CALLBACK = "callback"


#: Celery task name of each stage; the queue has the stage's own name.
TASK_NAMES = {stage: f"avatarmod.{stage}" for stage in Stage}


class Decision(enum.StrEnum):
    """A review provider's answer in our words."""

    APPROVE = "approve"
    BLOCK = "block"
    #: The provider looked and could not say: the next provider or a person decides.
    UNCERTAIN = "uncertain"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opinion:
    """What a review provider said of one picture.

    Args:
        provider: our name of the provider, for example `tencent`.
        decision: its answer in our words.
        score: 0..1, how sure it is of explicit content; None where it gives none.
        labels: its own terms, most important first.
        request_id: the provider's id of the call, for its support desk.
        model_version: the provider's model, where it says.
        raw: the reply as received (already JSON), kept for audit.
        latency_s: seconds from request to reply.
        cost_yuan: the price of this call by the configured price list.
    """

    provider: str
    decision: Decision
    score: float | None = None
    labels: tuple[str, ...] = ()
    request_id: str = ""
    model_version: str = ""
    raw: Any = None
    latency_s: float = 0.0
    cost_yuan: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**dataclasses.asdict(self), "decision": str(self.decision)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Opinion:
        """Read what `to_dict` wrote; unknown fields of a newer version are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        values["decision"] = Decision(values["decision"])
        values["labels"] = tuple(values.get("labels") or ())
        return cls(**values)


#: Fields of a record that need no place in Redis while they are 0.
_ZERO_BY_DEFAULT = frozenset({"frame", "attempts", "first_failed_at"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Avatar:
    """The record of one upload, as read from Redis.

    Times are seconds since the epoch by the Redis server's clock. `probability` is calibrated,
    `raw_score` is the model's own number; both are None until a model has looked.
    """

    upload_id: str
    state: AvatarState
    #: Grows by one with every transition; a receiver drops callbacks that are older.
    seq: int
    image: str = ""
    region: Region = Region.DOMESTIC
    priority: Priority = Priority.NORMAL
    callback_url: str = ""
    sha256: str = ""
    raw_score: float | None = None
    probability: float | None = None
    style: str = ""
    #: Index of the animation frame that scored worst; 0 for a still picture.
    frame: int = 0
    #: What its transparency was put over when it scored worst; empty for an opaque picture.
    background: str = ""
    bundle: str = ""
    policy: str = ""
    decided_by: str = ""
    reason: str = ""
    attempts: int = 0
    #: When the first of these attempts failed, seconds since the epoch; 0 while none has.
    first_failed_at: float = 0.0
    #: Review providers asked so far and what they did, `provider:outcome`, comma-separated.
    tried: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    schema: int = SCHEMA_VERSION

    @property
    def is_final(self) -> bool:
        """Whether nobody acts on it any more."""
        return self.state in FINAL_STATES

    def to_hash(self) -> dict[str, str]:
        """Redis hash fields; empty ones are left out to keep the record small."""
        fields: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value in (None, "") or (not value and field.name in _ZERO_BY_DEFAULT):
                continue
            if field.name != "upload_id":
                fields[field.name] = str(value)
        return fields

    @classmethod
    def from_hash(cls, upload_id: str, fields: dict[str, str]) -> Avatar:
        """Read a Redis hash; fields of a newer schema are ignored.

        Raises:
            ValueError: a field that this version knows holds what it cannot read.
        """
        return cls(
            upload_id=upload_id,
            state=AvatarState(fields["state"]),
            seq=int(fields["seq"]),
            image=fields.get("image", ""),
            region=Region(fields.get("region", Region.DOMESTIC)),
            priority=Priority(fields.get("priority", Priority.NORMAL)),
            callback_url=fields.get("callback_url", ""),
            sha256=fields.get("sha256", ""),
            raw_score=_optional_float(fields.get("raw_score")),
            probability=_optional_float(fields.get("probability")),
            style=fields.get("style", ""),
            frame=int(fields.get("frame", 0)),
            background=fields.get("background", ""),
            bundle=fields.get("bundle", ""),
            policy=fields.get("policy", ""),
            decided_by=fields.get("decided_by", ""),
            reason=fields.get("reason", ""),
            attempts=int(fields.get("attempts", 0)),
            first_failed_at=float(fields.get("first_failed_at") or 0),
            tried=fields.get("tried", ""),
            created_at=float(fields.get("created_at", 0)),
            updated_at=float(fields.get("updated_at", 0)),
            schema=int(fields.get("schema", SCHEMA_VERSION)),
        )


def callback_url_of(avatar: Avatar, default: str) -> str:
    """Who hears of this upload; empty for nobody."""
    return "" if avatar.callback_url == NO_CALLBACK else avatar.callback_url or default


def _optional_float(text: str | None) -> float | None:
    return float(text) if text else None


def is_upload_id(text: str) -> bool:
    """Whether a text may be an upload id.

    HTTP clients fold `.` and `..` between slashes before they send a URL, so the verdict of such an
    id could not be read under its own address.
    Source: RFC 3986, section 5.2.4 (remove dot segments).
    """
    return bool(UPLOAD_ID_PATTERN.fullmatch(text)) and not {".", ".."} & set(text.split("/"))


def check_upload_id(upload_id: str) -> str:
    """Return the id unchanged.

    Raises:
        InvalidUpload: it is empty, too long, has a character outside the allowed set, or `.` or
            `..` stands between its slashes.
    """
    if isinstance(upload_id, str) and {".", ".."} & set(upload_id.split("/")):
        raise InvalidUpload(
            f"upload id {upload_id[:80]!r} is not valid: no part between slashes may be . or ..",
            field="upload_id",
        )
    if not isinstance(upload_id, str) or not is_upload_id(upload_id):
        raise InvalidUpload(
            f"upload id {str(upload_id)[:80]!r} is not valid: use 1 to 200 characters of "
            "A-Z a-z 0-9 . _ : @ / -",
            field="upload_id",
        )
    return upload_id
