"""Two people decide at once, as fast as their keyboards allow: nothing twice, nothing lost."""

from __future__ import annotations

import collections
import concurrent.futures
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from producer.contract import AvatarState
from producer.record.store import Store
from producer.web.users import Role, Users
from tests.browser.conftest import launched
from tests.browser.test_console import gray_picture, store_of
from tests.integration.web.conftest import Stack, run_stack
from tests.support import wait_until

pytestmark = pytest.mark.browser

#: Pictures; the whole proof is `HELD_PICTURES=200 pytest -s tests/browser/test_two_moderators.py`.
HELD = int(os.environ.get("HELD_PICTURES", "40"))
PEOPLE = {"ann": "a", "bob": "b"}
PASSWORD = "correct horse battery"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """An instance whose held pictures no other test waits for."""
    with run_stack(tmp_path / "data") as stack:
        yield stack


@pytest.fixture
def held(own: Stack) -> list[str]:
    """Different pictures that wait for a person."""
    ids = [f"two/{number:03d}" for number in range(HELD)]
    with own.http() as http:
        for number, upload_id in enumerate(ids):
            files = {"image": ("x", gray_picture(1000 + number))}
            assert http.post("/v1/uploads", data={"upload_id": upload_id}, files=files).is_success
    store = store_of(own)
    wait_until(lambda: set(states(store, ids)) == {AvatarState.HELD}, 120, "all are held")
    return ids


def states(store: Store, ids: list[str]) -> list[AvatarState | None]:
    return [avatar.state if avatar else None for avatar in store.get_many(ids)]


def sign_in(browser: Browser, stack: Stack, name: str) -> Page:
    context: BrowserContext = browser.new_context(base_url=stack.url, locale="en-GB")
    page = context.new_page()
    page.goto("/console/review")
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", PASSWORD)
    page.click("button.primary")
    page.wait_for_url("**/console/review*")
    return page


def decide_all(stack: Stack, name: str, start: threading.Barrier) -> list[str]:
    """In a browser of their own, as fast as it goes, until nothing is left for them."""
    decided: list[str] = []
    with launched(str(shutil.which("chromium") or shutil.which("chromium-browser"))) as browser:
        page = sign_in(browser, stack, name)
        field = page.locator("form.buttons input[name=upload_id]")
        start.wait(60)
        while True:
            if not field.count():
                page.goto("/console/review")
                if not field.count():
                    return decided
            upload_id = field.first.input_value()
            with page.expect_navigation():
                page.keyboard.press(PEOPLE[name])
            assert "is now" in page.content(), f"{name}: {upload_id}: {page.title()}"
            decided.append(upload_id)


def test_two_people_decide_all_that_is_held(browser: Browser, own: Stack, held: list[str]) -> None:
    """Each picture once, by one of them; the web tier hears of each once."""
    store = store_of(own)
    users = Users(store)
    for name in PEOPLE:
        users.save(name, Role.MODERATOR, PASSWORD)
    start = threading.Barrier(len(PEOPLE))
    began_s = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(PEOPLE)) as hands:
        work = {name: hands.submit(decide_all, own, name, start) for name in PEOPLE}
        decided = {name: done.result() for name, done in work.items()}
    took_s = time.monotonic() - began_s
    assert sorted(decided["ann"] + decided["bob"]) == held, "each once, none lost"
    assert min(map(len, decided.values())) > HELD // 4, "both had work"
    for name, verdict in (("ann", AvatarState.APPROVED), ("bob", AvatarState.BLOCKED)):
        records = [avatar for avatar in store.get_many(decided[name]) if avatar]
        assert {(a.state, a.decided_by) for a in records} == {(verdict, f"operator:{name}")}
    wait_until(lambda: len(told(own, held)) == HELD, 60, "all are told")
    assert set(told(own, held).values()) == {1}
    print(f"{HELD} pictures by two people in {took_s:.0f} s: {HELD / took_s * 60:.0f} a minute")


def told(stack: Stack, ids: list[str]) -> collections.Counter[str]:
    """How many messages told the web tier a final state of each; one repeated counts once."""
    final = {
        (one.webhook_id, one.data["upload_id"])
        for one in list(stack.receiver.received)
        if one.data.get("upload_id") in set(ids) and one.data["state"] in ("approved", "blocked")
    }
    return collections.Counter(upload_id for _, upload_id in final)
