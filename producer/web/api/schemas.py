"""What the API takes and gives, as it stands in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from producer import Upload
from producer.contract import EVENT_TYPE, MAX_SUBJECT_CHARS, AvatarState, Priority, Region
from producer.web.problems import ProblemBody

#: Uploads in one request.
MAX_BATCH = 100

_REF = "#/components/schemas/"

ID_PATTERN = r"^[A-Za-z0-9._:@/-]{1,200}$"

EXAMPLE = {
    "upload_id": "user-17@2026-11-22T10:00",
    "image": "https://example.org/avatars/17.png",
    "region": "overseas",
}


class UploadIn(BaseModel):
    """One upload to moderate."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": dict[str, Any](EXAMPLE)}
    )

    upload_id: str = Field(
        pattern=ID_PATTERN,
        description="Your id of this picture; a new picture is a new id. No part between slashes "
        "may be `.` or `..`.",
    )
    image: str = Field(
        "",
        max_length=2000,
        description="Where the picture is: a name in the image store, s3://bucket/key or https://; "
        "empty: in the store, under the upload id. Private addresses are refused.",
    )
    region: Literal["domestic", "overseas"] | None = Field(
        None, description="Which review providers may see it; empty: the configured region."
    )
    priority: Literal["high", "normal", "low"] = Field(
        "normal", description="high while somebody waits for the answer, low for a backfill."
    )
    callback_url: str = Field(
        "",
        max_length=2000,
        description="Hears of this upload instead of the configured address; must be allowed by "
        "AVATARMOD_CALLBACK_ALLOWED_URLS. `none`: nobody.",
    )

    subject: str = Field(
        "",
        max_length=MAX_SUBJECT_CHARS,
        description="Your id of the person whose picture it is; kept as a keyed hash, and found "
        "again when the person is to be forgotten.",
    )

    language: str = Field(
        "",
        max_length=40,
        description="What the owner reads, as RFC 5646 writes it: `reason_text` is in it. Empty: "
        "the configured language.",
    )

    def to_upload(self, image: str | None = None) -> Upload:
        """What the producer takes."""
        return Upload(
            upload_id=self.upload_id,
            image=image or self.image,
            region=self.region,
            priority=self.priority,
            callback_url=self.callback_url,
            subject=self.subject,
            language=self.language,
        )


class BatchIn(BaseModel):
    """Up to 100 uploads, each accepted or refused on its own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    uploads: list[Any] = Field(min_length=1, max_length=MAX_BATCH)


class Accepted(BaseModel):
    """What became of one upload."""

    upload_id: str | None = Field(description="Null where the refused item has none to repeat.")
    status: int = Field(description="202 accepted, 200 known already, 4xx or 503 refused.")
    state: AvatarState | None = Field(None, description="Where it stands now; null when refused.")
    seq: int | None = Field(None, description="Grows with every change of state.")
    sha256: str | None = Field(
        None, description="Of the bytes that were looked at under this id; null: none yet."
    )
    created: bool = Field(False, description="False when the id was known already.")
    href: str | None = Field(None, description="Where to read its verdict.")
    error: ProblemBody | None = Field(None, description="Why it was refused.")


class BatchOut(BaseModel):
    """One answer for each upload, in order."""

    results: list[Accepted]


class SecondData(BaseModel):
    """What a second model said of the same picture."""

    bundle: str
    probability: float | None = Field(description="Calibrated probability of nudity, 0 to 1.")
    raw_score: float | None = Field(description="The model's own number, 0 to 1.")


class SafeCopyOut(BaseModel):
    """What was scored, encoded anew without metadata: serve this file instead of the original."""

    name: str = Field(description="In AVATARMOD_SAFE_COPIES.")
    sha256: str = Field(description="Of the copy's bytes.")
    media_type: str = Field(examples=["image/jpeg"])
    width_px: int
    height_px: int


class AvatarData(BaseModel):
    """The public part of a record; a callback carries the same."""

    upload_id: str
    state: AvatarState
    seq: int = Field(description="Grows with every change; drop what is older than you have.")
    final: bool = Field(description="Whether only an operator can still change it.")
    probability: float | None = Field(description="Calibrated probability of nudity, 0 to 1.")
    raw_score: float | None = Field(description="The model's own number, 0 to 1.")
    style: str | None = Field(description="drawn or photo, where it mattered.")
    reason: str = Field(description="A code such as clear, explicit, damaged, overruled.")
    reason_text: str = Field(
        "", description="The same for the owner of the picture, in their language; empty: shown."
    )
    block_reason: str | None = Field(
        None, description="What a moderator blocked it for, see /v1/reasons; null: not said."
    )
    subject_blocked: int | None = Field(
        None,
        description="Of a blocked picture that came with a subject: how many pictures of the same "
        "person are blocked, this one too.",
    )
    decided_by: str = Field(description="model, cache, rule, review:<provider>, operator:<name>.")
    region: Region
    bundle: str | None = Field(description="The model bundle that looked.")
    second: SecondData | None = Field(
        None, description="The second model's word; null where none looked."
    )
    policy: str | None = Field(description="The version of the cut-offs that applied.")
    sha256: str | None = Field(description="Of the picture's bytes.")
    safe_copy: SafeCopyOut | None = Field(
        None, description="While it is approved and AVATARMOD_SAFE_COPIES is set."
    )


class AvatarOut(BaseModel):
    """Where one upload stands; the same document as a callback's body."""

    type: str = Field(description="Always avatar.moderated.", examples=[EVENT_TYPE])
    timestamp: str = Field(description="When it changed last, UTC.")
    data: AvatarData


class ChangesOut(BaseModel):
    """What became of uploads, the oldest change first."""

    changes: list[AvatarOut]
    cursor: str = Field(description="Send it as `since` the next time; opaque.")
    more: bool = Field(description="Whether more follow at once.")


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemBody, "description": text}
    for status, text in {
        400: "The body cannot be read.",
        401: "No valid key.",
        403: "The key lacks the scope.",
        404: "Never enqueued, or its record has expired.",
        408: "The request arrived too slowly.",
        409: "What is known of the upload does not allow this.",
        410: "The cursor is too old: begin again without it.",
        413: "Too many bytes.",
        415: "Not a media type or picture format that is accepted.",
        422: "A field is wrong; `field` names it.",
        429: "Too many calls; see Retry-After.",
        503: "Not now; see Retry-After. Sending the same again is safe.",
    }.items()
}


def problem_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented errors of a route."""
    return {
        status: {
            "description": ERRORS[status]["description"],
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
            },
        }
        for status in statuses
    }


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The documented body of a route that reads it itself; see app.py for the schema."""
    schema = {"$ref": _REF + model.__name__}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _one_or_many(item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form field that may be repeated."""
    many = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_BATCH}
    return {"anyOf": [item, many]}


#: The schema of one of `BatchIn.uploads`, which is validated by itself.
BATCH_ITEM = {
    "anyOf": [
        {"$ref": _REF + "UploadIn"},
        {"description": "Anything else is refused alone, with its own problem."},
    ]
}


def form_docs(**schema: Any) -> dict[str, Any]:
    """What OpenAPI is told of a route that reads a form itself: the form's JSON schema."""
    form = {"multipart/form-data": {"schema": {"type": "object", **schema}}}
    return {"requestBody": {"required": True, "content": form}}


#: The body of `POST /v1/uploads`.
UPLOADS_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [{"$ref": _REF + "UploadIn"}, {"$ref": _REF + "BatchIn"}]},
            "examples": {
                "one": {"summary": "one upload", "value": EXAMPLE},
                "several": {
                    "summary": "several at once",
                    "value": {"uploads": [EXAMPLE, {"upload_id": "user-18", "image": "18.png"}]},
                },
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "description": "Pictures with their bytes. Repeat `upload_id` and `image` in the "
                "same order for several; the other fields hold for all.",
                "required": ["upload_id", "image"],
                "additionalProperties": False,
                "properties": {
                    "upload_id": _one_or_many({"type": "string", "pattern": ID_PATTERN}),
                    "image": _one_or_many({"type": "string", "format": "binary"}),
                    "region": {"type": "string", "enum": list(Region)},
                    "priority": {"type": "string", "enum": list(Priority)},
                    "callback_url": {"type": "string", "maxLength": 2000},
                    "subject": {"type": "string", "maxLength": MAX_SUBJECT_CHARS},
                    "language": {"type": "string", "maxLength": 40},
                },
            },
        },
    },
}
