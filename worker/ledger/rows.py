"""From an event of the stream to a row of the ledger."""

from __future__ import annotations

import json
import math
from typing import Any

import sqlalchemy as sa

from worker.ledger.counts import MICRO
from worker.ledger.schema import MARK, events

#: Seconds since the epoch that are no time any more (the year 2242).
LATEST_S = 2.0**33

#: Yuan that no call costs.
MOST_YUAN = 1e9


def _most(kind: sa.types.TypeEngine[Any]) -> int:
    """The highest number, or the most characters, that a column of this type takes."""
    if isinstance(kind, sa.Integer):
        return 2**63 - 1 if isinstance(kind, sa.BigInteger) else 2**31 - 1
    return getattr(kind, "length", None) or 2**31 - 1


_MOST = {column.name: _most(column.type) for column in events.c}


def event_key(stream_id: str, mark: str) -> str:
    """What makes an event one in the ledger: a new set of data may give an old id again."""
    return f"{stream_id}{MARK}{mark}" if mark else stream_id


def is_known(row: dict[str, Any], found: dict[str, tuple[str, int, str]]) -> bool:
    """Whether it is in the ledger, maybe under its bare id: the first version kept no mark."""
    old = found.get(row["stream_id"].partition(MARK)[0])
    return row["stream_id"] in found or old == (row["upload_id"], row["seq"], row["to_state"])


def to_row(namespace: str, stream_id: str, fields: dict[str, str]) -> dict[str, Any]:
    """One event of the stream as a row; what is unreadable stays in `detail`, never refused.

    One event that SQL did not take would hold up every later one for good.
    """
    text = fields.get("detail") or "{}"
    try:
        row = _read(namespace, stream_id, fields, json.loads(text))
    except (ValueError, TypeError, ArithmeticError, RecursionError):
        row = _read(namespace, stream_id, fields, {"unreadable": text})
    return {name: _fitting(name, value) for name, value in row.items()}


def _read(
    namespace: str, stream_id: str, fields: dict[str, str], detail: Any
) -> dict[str, str | int | float | None]:
    if not isinstance(detail, dict):
        detail = {"value": detail}
    if fields.get("tells"):
        # Whom a callback of this transition goes to; what was delivered has an event of its own.
        detail["tells"] = fields["tells"]
    paid = [o for o in detail.get("opinions") or [] if _is_paid(o, detail)]
    at = _number(fields.get("at"), LATEST_S) or int(stream_id.partition("-")[0]) / 1000
    created_at = _number(fields.get("created_at"), LATEST_S)
    decided_by = str(detail.get("decided_by", ""))
    return {
        "namespace": namespace,
        "stream_id": stream_id,
        "kind": fields.get("kind", "unknown"),
        "upload_id": fields.get("upload_id", ""),
        "seq": int(_number(fields.get("seq")) or 0),
        "from_state": fields.get("from", ""),
        "to_state": fields.get("to", ""),
        "at": at,
        "created_at": created_at,
        "region": fields.get("region") or str(detail.get("region", "")),
        "sha256": fields.get("sha256") or str(detail.get("sha256", "")),
        "probability": _number(detail.get("probability")),
        "raw_score": _number(detail.get("raw_score")),
        "style": str(detail.get("style", "")),
        "bundle": str(detail.get("bundle", "")),
        "policy": str(detail.get("policy", "")),
        "decided_by": decided_by,
        "tier": decided_by.partition(":")[0],
        "reason": str(detail.get("reason", "")),
        "provider": str(paid[-1].get("provider", "")) if paid else "",
        "provider_calls": len(paid),
        "cost_microyuan": sum(_microyuan(opinion) for opinion in paid),
        "latency_s": None if created_at is None else round(at - created_at, 6),
        "step_s": _number(detail.get("waited_s"), LATEST_S),
        "detail": json.dumps(detail),
    }


def _microyuan(opinion: dict[str, Any]) -> int:
    return round((_number(opinion.get("cost_yuan"), MOST_YUAN) or 0) * MICRO)


def _is_paid(opinion: Any, detail: dict[str, Any]) -> bool:
    return isinstance(opinion, dict) and not (detail.get("reused") or opinion.get("reused"))


def _number(value: Any, most: float = math.inf) -> float | None:
    """None for what is no number, or further from zero than `most`: sums over rows must fit."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and abs(number) <= most else None


def _fitting(name: str, value: Any) -> Any:
    """As the column takes it: cut to its width or range, without NUL and halves of characters."""
    most = _MOST[name]
    if isinstance(value, int):
        return max(-most, min(value, most))
    if not isinstance(value, str):
        return value
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode("utf-8")
    return value.replace("\x00", "")[:most]
