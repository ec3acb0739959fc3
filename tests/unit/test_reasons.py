"""Why a picture is not shown: a closed list, with words for its owner in every language."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from producer import reasons
from producer.contract import AvatarState
from producer.errors import InvalidUpload
from producer.record.decisions import RETRYABLE

CATALOGUES = sorted((Path(reasons.__file__).parent / "locale").glob("*.toml"))


def words(path: Path) -> dict[str, dict[str, str]]:
    return {k: v for k, v in tomllib.loads(path.read_text("utf-8")).items() if k != "name"}


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_every_language_says_the_same_things(path: Path) -> None:
    """The closed list, the states that are not shown, and what makes a file unusable."""
    english, found = words(CATALOGUES[0]), words(path)
    assert {part: set(texts) for part, texts in found.items()} == {
        part: set(texts) for part, texts in english.items()
    }
    assert all(text.strip() for texts in found.values() for text in texts.values())
    assert set(found["block"]) == set(reasons.BLOCK_REASONS)
    assert set(found["state"]) == set(AvatarState) - {AvatarState.APPROVED}
    assert set(found["rejected"]) >= RETRYABLE


def test_a_text_fits_what_happened() -> None:
    """A moderator's reason, the machine's own, an unusable file, and nothing where it is shown."""
    text = reasons.public_text
    assert (
        text("blocked", "overruled", "hate", "en")
        == "Your picture shows a symbol or words of hate."
    )
    assert "explicit" in text("blocked", "explicit", "", "en")
    assert "damaged" in text("rejected", "damaged", "", "en")
    assert text("rejected", "of a newer version", "", "en") == "Your picture could not be used."
    assert text("approved", "clear", "", "en") == ""
    assert text("blocked", "overruled", "nudity", "zh-CN") == "您的图片含有裸露内容。"


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("", ""),
        ("en", "en"),
        ("en-GB", "en"),
        ("zh", "zh-CN"),
        ("zh_Hans", "zh-CN"),
        ("ZH-tw", "zh-CN"),
    ],
)
def test_a_language_is_answered_by_its_nearest_catalogue(asked: str, answered: str) -> None:
    assert reasons.check_language(asked) == answered


def test_what_is_not_known_is_refused_by_name() -> None:
    """The error names the value and what would be right."""
    with pytest.raises(InvalidUpload, match=r"'tlh'.*en, zh-CN") as error:
        reasons.check_language("tlh")
    assert error.value.field == "language"
    with pytest.raises(InvalidUpload, match=r"'boring'.*nudity, sexual_act"):
        reasons.check_block_reason("boring")


def test_the_list_is_published_with_all_its_words() -> None:
    found = reasons.published()
    assert [one["reason"] for one in found["reasons"]] == list(reasons.BLOCK_REASONS)
    assert all(set(one["text"]) == set(found["languages"]) for one in found["reasons"])
