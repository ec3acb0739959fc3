"""What was found out about a picture, as its record holds it."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from producer.fields import known_fields


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
        reused: it was on file: no call was made for it now, and its price is counted elsewhere.
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
    reused: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**dataclasses.asdict(self), "decision": str(self.decision)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Opinion:
        """Read what `to_dict` wrote; unknown fields of a newer version are ignored."""
        values = known_fields(cls, data)
        values["decision"] = Decision(values["decision"])
        values["labels"] = tuple(values.get("labels") or ())
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafeCopy:
    """What was scored of an approved upload, encoded anew.

    Attributes:
        name: in the store for safe copies.
        sha256: of the copy's bytes, in hex.
        media_type: `image/jpeg` or `image/webp`.
        width_px: of the copy.
        height_px: of the copy.
    """

    name: str
    sha256: str
    media_type: str
    width_px: int
    height_px: int

    def to_json(self) -> str:
        """As the record keeps it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SafeCopy:
        """Read what `to_json` wrote; unknown fields of a newer version are ignored."""
        return cls(**known_fields(cls, json.loads(text)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LooksLike:
    """What was decided of an earlier picture that one looks like.

    Attributes:
        sha256: of the earlier content; `list:` and a hash where it is on a list of hashes.
        upload_id: of the upload that was decided; empty for a list, in events, and once that upload
            is forgotten.
        state: what was decided.
        decided_by: by whom.
        distance: bits by which the pictures' hashes differ, 0 to 31 of 256.
    """

    sha256: str
    upload_id: str
    state: str
    decided_by: str
    distance: int

    def to_json(self) -> str:
        """As the record keeps it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LooksLike:
        """Read what `to_json` wrote; unknown fields of a newer version are ignored."""
        return cls(**known_fields(cls, json.loads(text)))


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a person had in front of them when they decided; what is not known is left out.

    Attributes:
        seq: of the record; None also where another upload with the same picture was decided.
        sha256: of the picture that was shown.
        approved_by: whose approval waited for its safe copy, which no seq tells; not kept.
    """

    seq: int | None = None
    sha256: str = ""
    approved_by: str = ""

    def __bool__(self) -> bool:
        return self.seq is not None or bool(self.sha256)

    def to_json(self) -> str:
        """As the record keeps it; empty where nothing is known."""
        return json.dumps({"seq": self.seq, "sha256": self.sha256}) if self else ""

    @classmethod
    def from_json(cls, text: str) -> Seen:
        """Read what `to_json` wrote; unknown fields of a newer version are ignored."""
        said = json.loads(text or "{}")
        return cls(said.get("seq"), said.get("sha256", ""))
