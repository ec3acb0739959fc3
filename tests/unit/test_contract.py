"""What both sides of the queue agree on survives the way through Redis and JSON."""

from __future__ import annotations

import dataclasses
import json
import string

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.commands.status import _status_line
from producer.contract import (
    FINAL_STATES,
    NO_CALLBACK,
    Avatar,
    AvatarState,
    Priority,
    Region,
    callback_url_of,
    check_upload_id,
)
from producer.errors import InvalidUpload
from producer.findings import Decision, LooksLike, Opinion, SafeCopy, Seen

texts = st.text(max_size=30)
numbers = st.floats(0, 1) | st.none()

avatars = st.builds(
    Avatar,
    upload_id=st.just("a"),
    state=st.sampled_from(AvatarState),
    seq=st.integers(1, 10**6),
    image=texts,
    region=st.sampled_from(Region),
    priority=st.sampled_from(Priority),
    callback_url=texts,
    sha256=texts,
    raw_score=numbers,
    probability=numbers,
    style=texts,
    frame=st.integers(0, 999),
    background=texts,
    bundle=texts,
    second_bundle=texts,
    second_raw=numbers,
    second_probability=numbers,
    policy=texts,
    decided_by=texts,
    reason=texts,
    block_reason=texts,
    note=texts,
    language=texts,
    subject_blocked=st.integers(0, 99),
    appeal=texts,
    appealed_from=texts,
    before=texts,
    attempts=st.integers(0, 99),
    failures=texts,
    first_failed_at=st.floats(0, 2e9),
    tried=texts,
    safe_copy=st.none()
    | st.builds(
        SafeCopy,
        name=texts,
        sha256=texts,
        media_type=texts,
        width_px=st.integers(1, 2048),
        height_px=st.integers(1, 2048),
    ),
    approval=texts,
    audit=texts,
    decided_on=st.none() | st.builds(Seen, st.integers(1, 99), st.just("ab" * 32)),
    looks_like=st.none()
    | st.builds(
        LooksLike,
        sha256=texts,
        upload_id=texts,
        state=texts,
        decided_by=texts,
        distance=st.integers(0, 31),
    ),
    subject=texts,
    created_at=st.floats(0, 4e9),
    updated_at=st.floats(0, 4e9),
)


@given(avatars)
def test_a_record_survives_its_hash(avatar: Avatar) -> None:
    """What was written is read."""
    assert Avatar.from_hash("a", avatar.to_hash()) == avatar


def test_the_strategy_covers_every_field() -> None:
    """A field that is added must be added to the round trip above."""
    covered = set(avatars.wrapped_strategy.kwargs)  # type: ignore[attr-defined]
    assert covered | {"schema"} == {field.name for field in dataclasses.fields(Avatar)}


def test_a_record_of_a_newer_version_is_read() -> None:
    """Unknown fields are ignored, missing ones have their defaults."""
    avatar = Avatar.from_hash("a", {"state": "held", "seq": "3", "hologram": "yes", "schema": "2"})
    assert (avatar.state, avatar.seq, avatar.schema) == (AvatarState.HELD, 3, 2)
    assert (avatar.region, avatar.priority, avatar.probability) == ("domestic", "normal", None)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "quarantined", "seq": "1"},
        {"state": "held", "seq": "x"},
        {"state": "held", "seq": "1", "probability": "high"},
        {"state": "held", "seq": "1", "region": "moon"},
    ],
)
def test_a_field_that_cannot_be_read_is_an_error(fields: dict[str, str]) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r".+"):
        Avatar.from_hash("a", fields)


def test_empty_fields_are_not_stored() -> None:
    """A record stays small."""
    fields = Avatar(upload_id="a", state=AvatarState.QUEUED, seq=1).to_hash()
    assert "" not in fields.values()
    assert "upload_id" not in fields
    assert "probability" not in fields


@pytest.mark.parametrize("state", AvatarState)
def test_final_means_that_nobody_acts(state: AvatarState) -> None:
    """Approved, blocked and rejected are final; dead never is."""
    avatar = Avatar(upload_id="a", state=state, seq=1)
    assert avatar.is_final == (state in FINAL_STATES)
    assert avatar.is_final == (state in ("approved", "blocked", "rejected"))


opinions = st.builds(
    Opinion,
    provider=texts,
    decision=st.sampled_from(Decision),
    score=numbers,
    labels=st.lists(texts, max_size=3).map(tuple),
    request_id=texts,
    model_version=texts,
    raw=st.none() | st.dictionaries(texts, texts, max_size=2),
    latency_s=st.floats(0, 100),
    cost_yuan=st.floats(0, 1),
)


@given(opinions)
def test_an_opinion_survives_json(opinion: Opinion) -> None:
    """What was written is read, also beside fields of a newer version."""
    data = json.loads(json.dumps(opinion.to_dict()))
    assert Opinion.from_dict(data) == opinion
    assert Opinion.from_dict({**data, "mood": "sure"}) == opinion


def test_an_opinion_without_labels_is_read() -> None:
    """Missing and null labels are no labels."""
    for data in ({}, {"labels": None}):
        opinion = Opinion.from_dict({"provider": "p", "decision": "approve", **data})
        assert opinion.labels == ()


ALLOWED = string.ascii_letters + string.digits + "._:@/-"


@given(
    st.text(ALLOWED, min_size=1, max_size=200).filter(
        lambda text: not {".", ".."} & set(text.split("/"))
    )
)
def test_a_good_id_is_returned_unchanged(upload_id: str) -> None:
    """Every string of 1 to 200 allowed characters is an id, and so is the path of its verdict."""
    assert check_upload_id(upload_id) == upload_id
    path = f"/v1/avatars/{upload_id}"
    assert httpx.URL("http://api.example").join(path).path == path


@pytest.mark.parametrize(
    "upload_id", [".", "..", "../etc/passwd", "../../x", "a/../b", "a/..", "./a", "a/./b", "/.."]
)
def test_an_id_that_http_clients_would_fold_is_refused(upload_id: str) -> None:
    """`/v1/avatars/../../x` would reach the server as `/x`."""
    with pytest.raises(InvalidUpload, match="no part between slashes may be") as caught:
        check_upload_id(upload_id)
    assert caught.value.field == "upload_id"


@pytest.mark.parametrize("upload_id", ["...", ".a", "a..b", "..a/b..", "a/.b", "/a", "a//b/"])
def test_other_dots_and_slashes_stay_allowed(upload_id: str) -> None:
    """Only a whole part of one or two dots has a meaning of its own."""
    assert check_upload_id(upload_id) == upload_id


@given(st.text(min_size=1, max_size=200).filter(lambda text: set(text) - set(ALLOWED)))
def test_any_other_character_is_refused(upload_id: str) -> None:
    """Also a line end at the end, which a careless pattern lets through."""
    for bad in (upload_id, upload_id + "\n"):
        with pytest.raises(InvalidUpload, match=r"is not valid: (use 1 to 200|no part)") as caught:
            check_upload_id(bad)
        assert caught.value.field == "upload_id"


@pytest.mark.parametrize("upload_id", ["", "a" * 201, "a\n", None, 17, b"a", "ü", "a b", "a#2"])
def test_what_is_no_id_is_refused(upload_id: object) -> None:
    """Neither empty nor long, and text only; a # would be taken for a callback's number."""
    with pytest.raises(InvalidUpload):
        check_upload_id(upload_id)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "hears"),
    [
        ("", "https://default.example/"),
        ("https://own.example/", "https://own.example/"),
        (NO_CALLBACK, ""),
    ],
)
def test_an_upload_may_name_who_hears_of_it(named: str, hears: str) -> None:
    """Its own address, the configured one, or nobody."""
    avatar = Avatar(upload_id="a", state=AvatarState.QUEUED, seq=1, callback_url=named)
    assert callback_url_of(avatar, "https://default.example/") == hears


def test_a_status_line_says_what_each_model_said() -> None:
    """One number where one model judged alone."""
    one = Avatar(upload_id="a", state=AvatarState.APPROVED, seq=2, probability=0.01)
    both = dataclasses.replace(one, second_probability=0.25)
    assert "probability 0.010" in _status_line("a", one)
    assert "second model" not in _status_line("a", one)
    assert "probability 0.010  second model 0.250" in _status_line("a", both)
