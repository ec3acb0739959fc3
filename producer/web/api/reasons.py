"""`GET /v1/reasons`: what a picture may be blocked for, in words for its owner."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from producer import reasons

router = APIRouter(prefix="/v1", tags=["reference"])


class ReasonOut(BaseModel):
    """One entry of the closed list."""

    reason: str = Field(description="The code, as `block_reason` has it.")
    text: dict[str, str] = Field(description="What its owner is told, by language.")


class ReasonsOut(BaseModel):
    """The whole list."""

    languages: dict[str, str] = Field(description="RFC 5646 tag to the language's own name.")
    reasons: list[ReasonOut]


@router.get("/reasons", response_model=ReasonsOut, summary="Why a picture may be blocked")
def list_reasons() -> dict[str, Any]:
    """The reasons of moderators with their public texts in every language; needs no key."""
    return reasons.published()
