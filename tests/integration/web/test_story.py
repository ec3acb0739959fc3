"""An upload's page tells what happened: in order of time, in sentences, in the reader's words."""

from __future__ import annotations

import dataclasses
import html
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from producer.contract import AvatarState, Stage
from producer.record.decisions import Decisions, Why
from producer.record.store import Store, Transition
from producer.texts import say
from producer.texts import told as as_event
from producer.web.console.dependencies import CutOffs
from tests.integration.web.conftest import avatar_of, decide, store_of
from tests.integration.web.test_console import console, hold, sign_in

__all__ = ["console"]


def told(client: TestClient, upload_id: str) -> list[str]:
    """The entries of the story, each as one text without its details."""
    page = client.get(f"/console/uploads/{upload_id}").text
    timeline = re.findall(r'<ol class="timeline">(.*?)</ol>', page, re.DOTALL)[0]
    entries = re.findall(r"<li[^>]*>(.*?)</li>", timeline, re.DOTALL)
    plain = [
        re.sub(r"<details.*?</details>|<time.*?</time>", "", e, flags=re.DOTALL) for e in entries
    ]
    return [re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", e))).strip() for e in plain]


def review(store: Store, upload_id: str, to: AvatarState, **detail: Any) -> None:
    """A provider's answer."""
    fields = {"decided_by": "review:acme", "reason": "porn"}
    avatar = avatar_of(store, upload_id)
    change = Transition(
        avatar=avatar, to=to, fields=fields, leaves=Stage.REVIEW, detail={**fields, **detail}
    )
    [result] = store.advance([change])
    assert result.applied


def test_the_story_is_told_in_order(console: TestClient) -> None:
    """The model with its cut-offs, the provider, people, their words, and who took it back."""
    store = store_of(console)
    console.app.state.services.producer.enqueue("a")  # type: ignore[attr-defined]
    decide(store, "a", AvatarState.REVIEWING, 0.26, decided_by="", reason="gray", sha256="ab" * 32)
    opinions = [
        {
            "provider": "acme",
            "decision": "block",
            "labels": ["porn", "nude"],
            "score": 0.9,
            "latency_s": 0.3,
            "cost_yuan": 0.01,
        },
    ]
    review(store, "a", AvatarState.BLOCKED, opinions=opinions)
    decisions = Decisions(store)
    decisions.decide("a", "approved", by="ann", why=Why(note="a statue"))
    decisions.undo("a", by="bob")
    decisions.decide("a", "blocked", by="cid", why=Why("nudity"))
    sign_in(console, "viewer")
    story = told(console, "a")
    expected = [
        "It was accepted and waits for the model.",
        "The model is 26% sure that this is explicit; below 5% is approved, from 95% blocked.",
        "acme found it explicit. (porn, nude) It was blocked: porn.",
        "ann approved it. Note: a statue",
        "bob took a decision back",
        "cid blocked it. Reason: nudity.",
    ]
    for said, words in zip(story, expected, strict=True):
        assert words in said
    assert "It goes to a review provider: the model is not sure." in story[1]


def test_what_came_late_stands_where_it_happened(console: TestClient) -> None:
    """An audit's answer has no number of its own; it is told at its time, not at the beginning."""
    store = store_of(console)
    console.app.state.services.producer.enqueue("a")  # type: ignore[attr-defined]
    decide(store, "a", sha256="ab" * 32)
    store.events.note("label", "a", 0, "harmless", {"decided_by": "operator:ann"})
    sign_in(console, "viewer")
    assert told(console, "a")[-1] == "An audit found the approved picture harmless."


def test_a_copy_and_a_known_picture_say_why(console: TestClient) -> None:
    """What followed a decision about another upload says so, and names no other upload."""
    store = store_of(console)
    hold(store, console, "one")
    hold(store, console, "two")
    Decisions(store).decide("one", "blocked", by="ann", why=Why("hate"))
    console.app.state.services.producer.enqueue("three")  # type: ignore[attr-defined]
    said = {"decided_by": "operator:ann", "reason": "overruled", "block_reason": "hate"}
    decide(store, "three", AvatarState.BLOCKED, **said)
    console.app.state.services.producer.enqueue("four")  # type: ignore[attr-defined]
    decide(store, "four", AvatarState.APPROVED, decided_by="cache")
    sign_in(console, "viewer")
    assert "It followed what ann decided about the same picture." in told(console, "two")[-1]
    assert "ann had decided about the same picture. It was blocked" in told(console, "three")[-1]
    assert "The same picture was scored before. It was approved" in told(console, "four")[-1]


def test_both_models_speak(console: TestClient) -> None:
    """Each with its own cut-offs, for drawings those of drawings."""
    store = store_of(console)
    app: Any = console.app
    seconds = (CutOffs(0.05, 0.35), CutOffs(0.05, 0.6))
    parts = dataclasses.replace(app.state.console.parts, second_cut_offs=lambda: seconds)
    app.state.console = dataclasses.replace(app.state.console, parts=parts)
    app.state.services.producer.enqueue("a")
    decide(store, "a", style="drawn", second_probability="0.25", second_bundle="s@1")
    sign_in(console, "viewer")
    said = told(console, "a")[1]
    assert "The model is 1% sure" in said
    assert "These are the cut-offs for drawings." in said
    assert "The second model is 25% sure that this is explicit; it clears below 5%" in said
    assert "objects from 60%" in said


def test_callbacks_and_failures_are_told(console: TestClient) -> None:
    """In words, with the error's own message."""
    store = store_of(console)
    console.app.state.services.producer.enqueue("a")  # type: ignore[attr-defined]
    [change] = [
        Transition(
            avatar=avatar_of(store, "a"),
            to=AvatarState.DEAD,
            fields={"reason": "attempts_exhausted"},
            leaves=Stage.MODERATE,
            detail={"reason": "attempts_exhausted", "message": "the disk is <full>"},
        )
    ]
    store.advance([change])
    store.events.note("callback", "a", 2, "delivered", {"attempts": 3})
    store.events.audit(by="ann", action="resend", item="a", outcome="done", address="")
    store.events.note("shadow", "a", 2, "blocked", {})
    sign_in(console, "viewer")
    story = told(console, "a")
    assert story[1] == "It could not be finished: failed too often. the disk is <full>"
    assert story[2] == "The web tier was told. It took 3 attempts."
    assert story[3] == "ann: resend, done"
    assert story[4] == "shadow: blocked"


def test_only_what_people_read_is_told(console: TestClient) -> None:
    """What is remembered follows from the decisions; hashes are no details for people."""
    store = store_of(console)
    hold(store, console, "a")
    Decisions(store).decide("a", "blocked", by="ann")
    store.events.note("memory", "a", 0, "blocked", {"seen": "AAAA" * 50})
    sign_in(console, "viewer")
    assert told(console, "a")[-1] == "ann blocked it."
    store.events.note("memory", "a", 0, "forgotten", {"seen": "AAAA" * 50})
    assert told(console, "a")[-1] == "What people decided about this picture was forgotten."
    assert "AAAA" not in console.get("/console/uploads/a").text


@pytest.mark.parametrize("language", ["zh-CN"])
def test_it_is_told_in_the_readers_language(console: TestClient, language: str) -> None:
    store = store_of(console)
    hold(store, console, "a")
    Decisions(store).decide("a", "blocked", by="ann", why=Why("nudity"))
    sign_in(console, "viewer")
    console.cookies.set("avatarmod_language", language)
    story = told(console, "a")
    assert story[0] == "已接收，等待模型处理。"
    assert "模型" in story[1]
    assert story[2].startswith("ann 拦截了它。")


def test_what_an_error_said_is_told_in_the_readers_words(console: TestClient) -> None:
    """Of what we say the parts are kept; what a decoder or an old version said stands as it is."""
    store = store_of(console)
    console.app.state.services.producer.enqueue("a")  # type: ignore[attr-defined]
    decide(store, "a", AvatarState.REVIEWING, 0.26, decided_by="", reason="gray", sha256="ab" * 32)
    why = say("{provider} cannot be reached", provider="acme")
    review(store, "a", AvatarState.HELD, **as_event(why))
    console.app.state.services.producer.enqueue("b")  # type: ignore[attr-defined]
    decide(store, "b", AvatarState.REVIEWING, 0.26, decided_by="", reason="gray", sha256="cd" * 32)
    review(store, "b", AvatarState.HELD, message="acme cannot be reached")
    sign_in(console, "viewer")
    assert "acme cannot be reached" in told(console, "a")[-1]
    console.headers["accept-language"] = "zh-CN"
    console.cookies.delete("avatarmod_language")
    assert "无法连接 acme" in told(console, "a")[-1]
    assert "acme cannot be reached" in told(console, "b")[-1]
