"""Why a picture is not shown, in words for its owner: a closed list, one catalogue a language.

A moderator's block carries one of `BLOCK_REASONS`; verdicts of the machine and states that wait
have a sentence too. The words lie in `locale/<language>.toml`.
"""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Any, Literal, get_args

from producer.errors import InvalidUpload

#: What a person may block a picture for; published at `/v1/reasons`.
BlockReason = Literal[
    "nudity",
    "sexual_act",
    "minor",
    "violence",
    "hate",
    "advertising",
    "impersonation",
    "other",
]
BLOCK_REASONS: tuple[str, ...] = get_args(BlockReason)

#: The language of whoever names none, and of what a catalogue lacks.
DEFAULT_LANGUAGE = "en"


def languages() -> list[str]:
    """Languages there is a catalogue of, as RFC 5646 writes them."""
    return sorted(_catalogues())


def check_language(language: str) -> str:
    """The language that `language` will be answered in; an empty one stays empty.

    A script or region that there is no catalogue of is answered by its language: `zh-TW` and
    `zh_Hans` by `zh-CN`, `en-GB` by `en`.

    Raises:
        InvalidUpload: there is no catalogue of this language.
    """
    if not language:
        return ""
    found = {tag.lower(): tag for tag in _catalogues()}
    wanted = language.replace("_", "-").lower()
    if wanted in found:
        return found[wanted]
    for tag in sorted(_catalogues()):
        if tag.partition("-")[0].lower() == wanted.partition("-")[0]:
            return tag
    raise InvalidUpload(
        f"language {language[:40]!r} is not known: {', '.join(languages())}", field="language"
    )


def check_block_reason(reason: str) -> str:
    """A reason of the closed list unchanged; an empty one says nothing.

    Raises:
        InvalidUpload: it is not in the list.
    """
    if reason and reason not in BLOCK_REASONS:
        raise InvalidUpload(
            f"reason {reason[:40]!r} is not one of {', '.join(BLOCK_REASONS)}", field="reason"
        )
    return reason


def public_text(state: str, reason: str, block_reason: str, language: str) -> str:
    """What the owner of a picture is told; empty where it is shown.

    Args:
        state: of the record.
        reason: code of the record.
        block_reason: of the closed list, or empty.
        language: one of `languages()`; any other is answered in English.
    """
    words = _catalogues().get(language) or _catalogues()[DEFAULT_LANGUAGE]
    if state == "blocked" and block_reason in words["block"]:
        return str(words["block"][block_reason])
    if state == "rejected" and reason in words["rejected"]:
        return str(words["rejected"][reason])
    return str(words["state"].get(state, ""))


def published() -> dict[str, Any]:
    """The closed list with its words in every language, JSON-ready."""
    return {
        "languages": {tag: words["name"] for tag, words in sorted(_catalogues().items())},
        "reasons": [
            {"reason": one, "text": {tag: w["block"][one] for tag, w in _catalogues().items()}}
            for one in BLOCK_REASONS
        ],
    }


@functools.cache
def _catalogues() -> dict[str, dict[str, Any]]:
    folder = resources.files("producer") / "locale"
    files = (f for f in folder.iterdir() if f.name.endswith(".toml"))
    return {f.name.removesuffix(".toml"): tomllib.loads(f.read_text("utf-8")) for f in files}
