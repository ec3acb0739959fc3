"""The words both sides of the queue share: states, the record, queue and task names.

Pure data: no I/O, no clock, no settings. What crosses a process boundary is encoded here and
decoded strictly; a reader accepts unknown fields, so old and new versions can run side by side.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from urllib.parse import SplitResult, urlsplit

from producer.errors import InvalidUpload
from producer.findings import LooksLike, SafeCopy, Seen

#: Grows when the meaning of a stored field changes; readers accept their own and older ones.
SCHEMA_VERSION = 1

#: What an upload id may look like, but for parts `.` and `..`, which `is_upload_id` refuses too. It
#: becomes part of a Redis key, of a callback body and of a URL.
UPLOAD_ID_PATTERN = re.compile(r"[A-Za-z0-9._:@/-]{1,200}")

#: Event type of every callback, and of the same document when it is polled.
EVENT_TYPE = "avatar.moderated"

#: `type` of a callback that only asks whether anybody reads callbacks; its data is `{nonce}`.
PING_TYPE = "avatar.ping"

#: Header by which a receiver that answers a ping with 204 says that it is one.
RECEIVER_HEADER = "Avatarmod-Receiver"

#: Callback address of an upload that nobody shall hear of; its caller polls.
NO_CALLBACK = "none"

#: Reason of an upload whose content an audit found explicit, after it was approved.
AUDIT_EXPLICIT = "audit_explicit"

#: Reason of an upload whose decision was taken back; the ledger's labels know it by this.
UNDONE = "undone"

#: Bytes; long enough for a presigned S3 URL.
MAX_IMAGE_REFERENCE_BYTES = 2000

#: Characters of the id of a person.
MAX_SUBJECT_CHARS = 200


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
    #: Writes the safe copy of what is about to be approved, removes that of what no longer is.
    COPY = "copy"
    CALLBACK = "callback"
    #: Looks once more at approvals drawn at random, when no gray upload waits.
    AUDIT = "audit"


#: Celery task name of each stage; the queue has the stage's own name.
TASK_NAMES = {stage: f"avatarmod.{stage}" for stage in Stage}


#: Fields of a record that need no place in Redis while they are 0.
_ZERO_BY_DEFAULT = frozenset({"frame", "attempts", "first_failed_at", "subject_blocked"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Avatar:
    """The record of one upload, as read from Redis.

    Times are seconds since the epoch by the Redis server's clock. `probability` is calibrated,
    `raw_score` is the model's own number; both are None until a model has looked. The same of a
    second model, where one looked too, is in `second_probability` and `second_raw`.
    """

    upload_id: str
    state: AvatarState
    #: Grows by one with every transition, and begins higher than that of any record of this id
    #: before; a receiver drops callbacks that are older.
    seq: int
    image: str = ""
    region: Region = Region.DOMESTIC
    priority: Priority = Priority.NORMAL
    callback_url: str = ""
    #: Whose upload it is, see `Producer.enqueue`; a keyed hash unless configured otherwise.
    subject: str = ""
    sha256: str = ""
    raw_score: float | None = None
    probability: float | None = None
    style: str = ""
    #: Index of the animation frame that scored worst; 0 for a still picture.
    frame: int = 0
    #: What its transparency was put over when it scored worst; empty for an opaque picture.
    background: str = ""
    bundle: str = ""
    second_bundle: str = ""
    second_raw: float | None = None
    second_probability: float | None = None
    policy: str = ""
    decided_by: str = ""
    reason: str = ""
    #: What a moderator blocked it for, of `producer.reasons.BLOCK_REASONS`; empty: not said.
    block_reason: str = ""
    #: What a moderator noted beside a decision; for moderators only.
    note: str = ""
    #: What the person had seen who decided about it last; None: they did not say.
    decided_on: Seen | None = None
    #: The language its owner is told reasons in; empty: `AVATARMOD_LANGUAGE`.
    language: str = ""
    #: How many pictures of the same person were blocked, this one too; 0 where nobody counted.
    subject_blocked: int = 0
    #: What its owner wrote against a block; and who had blocked it.
    appeal: str = ""
    appealed_from: str = ""
    #: What it was before a decision about the same picture changed it (JSON); for an undo.
    before: str = ""
    #: Failed attempts at the stage it is in, of all kinds.
    attempts: int = 0
    #: The same by kind, `kind=count`, comma-separated: each kind has its own patience.
    failures: str = ""
    #: When the first of these attempts failed, seconds since the epoch; 0 while none has.
    first_failed_at: float = 0.0
    #: Review providers asked so far and what they did, `provider:outcome`, comma-separated.
    tried: str = ""
    #: Where the picture that was scored lies, encoded anew; only while it is approved.
    safe_copy: SafeCopy | None = None
    #: The blocked picture that it looked like when it was scored.
    looks_like: LooksLike | None = None
    #: An approval that waits for the safe copy, see `Store.approval_of`; empty where none does.
    approval: str = ""
    #: Of an approval that was drawn for a second look: `due`, or `person` while one must look; then
    #: what came of it: `harmless`, `explicit` or `unanswered`.
    audit: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    schema: int = SCHEMA_VERSION

    @property
    def is_final(self) -> bool:
        """Whether nobody acts on it any more."""
        return self.state in FINAL_STATES

    @property
    def shown_sha256(self) -> str:
        """Names what a provider sees of it: its content, or one frame or background of it."""
        if not self.frame and not self.background:
            return self.sha256
        shown = f"{self.sha256} {self.frame} {self.background}"
        return hashlib.sha256(shown.encode()).hexdigest()

    def failures_of(self, kind: str) -> int:
        """How many attempts at this stage failed in one way; a record without kinds says of all."""
        return self._failures().get(kind, 0) if self.failures else self.attempts

    def after_failure(self, kind: str, now: float) -> dict[str, str]:
        """Record fields after one more attempt that failed in this way."""
        counts = {**self._failures(), kind: self.failures_of(kind) + 1}
        return {
            "attempts": str(self.attempts + 1),
            "failures": ",".join(f"{name}={count}" for name, count in counts.items()),
            "first_failed_at": str(self.first_failed_at or now),
        }

    def _failures(self) -> dict[str, int]:
        pairs = (entry.partition("=") for entry in self.failures.split(",") if entry)
        return {name: int(count or 0) for name, _, count in pairs}

    def to_hash(self) -> dict[str, str]:
        """Redis hash fields; empty ones are left out to keep the record small."""
        fields: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value in (None, "") or (not value and field.name in _ZERO_BY_DEFAULT):
                continue
            if field.name != "upload_id":
                is_json = isinstance(value, SafeCopy | LooksLike | Seen)
                fields[field.name] = value.to_json() if is_json else str(value)
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
            subject=fields.get("subject", ""),
            sha256=fields.get("sha256", ""),
            raw_score=_optional_float(fields.get("raw_score")),
            probability=_optional_float(fields.get("probability")),
            style=fields.get("style", ""),
            frame=int(fields.get("frame", 0)),
            background=fields.get("background", ""),
            bundle=fields.get("bundle", ""),
            second_bundle=fields.get("second_bundle", ""),
            second_raw=_optional_float(fields.get("second_raw")),
            second_probability=_optional_float(fields.get("second_probability")),
            policy=fields.get("policy", ""),
            decided_by=fields.get("decided_by", ""),
            reason=fields.get("reason", ""),
            block_reason=fields.get("block_reason", ""),
            note=fields.get("note", ""),
            decided_on=Seen.from_json(seen) if (seen := fields.get("decided_on")) else None,
            language=fields.get("language", ""),
            subject_blocked=int(fields.get("subject_blocked") or 0),
            appeal=fields.get("appeal", ""),
            appealed_from=fields.get("appealed_from", ""),
            before=fields.get("before", ""),
            attempts=int(fields.get("attempts", 0)),
            failures=fields.get("failures", ""),
            first_failed_at=float(fields.get("first_failed_at") or 0),
            tried=fields.get("tried", ""),
            safe_copy=SafeCopy.from_json(copy) if (copy := fields.get("safe_copy")) else None,
            looks_like=LooksLike.from_json(like) if (like := fields.get("looks_like")) else None,
            approval=fields.get("approval", ""),
            audit=fields.get("audit", ""),
            created_at=float(fields.get("created_at", 0)),
            updated_at=float(fields.get("updated_at", 0)),
            schema=int(fields.get("schema", SCHEMA_VERSION)),
        )


@dataclasses.dataclass(frozen=True)
class Upload:
    """One upload as a caller gives it; see `Producer.enqueue` for what each field may hold."""

    upload_id: str
    image: str | None = None
    region: Region | str | None = None
    priority: Priority | str = Priority.NORMAL
    callback_url: str | None = None
    subject: str | None = None
    language: str | None = None


@dataclasses.dataclass(frozen=True)
class Enqueued:
    """What enqueue found or made: `created` is False when the id was already known."""

    avatar: Avatar
    created: bool


def callback_url_of(avatar: Avatar, default: str) -> str:
    """Who hears of this upload; empty for nobody."""
    return "" if avatar.callback_url == NO_CALLBACK else avatar.callback_url or default


def is_digest(text: str) -> bool:
    """Whether a text is 256 bits in hex, as SHA-256 and perceptual hashes are written."""
    return re.fullmatch(r"[0-9a-fA-F]{64}", text) is not None


def is_web_address(text: str) -> bool:
    """Whether a text is a whole address with http:// or https:// and a host."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and has_host(parts)


def has_host(parts: SplitResult) -> bool:
    """Whether an address names a host, and no port or one that exists."""
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def public_url(url: str) -> str:
    """A reference or address without what may be secret: user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    if not parts.netloc:
        return url.partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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


def check_subject(subject: str) -> str:
    """Return the id of a person unchanged; an empty one says nothing.

    Raises:
        InvalidUpload: it is too long or cannot be printed.
    """
    if (
        not isinstance(subject, str)
        or len(subject) > MAX_SUBJECT_CHARS
        or (subject and not subject.isprintable())
    ):
        raise InvalidUpload(
            f"subject {str(subject)[:80]!r} must be printable and at most {MAX_SUBJECT_CHARS} "
            "characters",
            field="subject",
        )
    return subject
