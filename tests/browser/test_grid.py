"""The grid: hundreds of pictures by keyboard, none lost, none decided twice, nothing that jumps."""

from __future__ import annotations

import collections
import hashlib
import itertools
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from producer.contract import AvatarState
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.web.users import Role, Users
from tests.browser.conftest import shoot
from tests.browser.test_console import gray_picture, store_of
from tests.browser.test_two_moderators import PASSWORD, sign_in, told
from tests.integration.web.conftest import Stack, run_stack
from tests.support import wait_until
from worker.demo.pictures import animation, cartoon_face

pytestmark = pytest.mark.browser

#: Pictures that are decided in one go.
HELD = int(os.environ.get("HELD_PICTURES", "60"))

#: A folder of pictures to be decided by keyboard instead of drawn ones; subfolders count.
FROM = os.environ.get("HELD_PICTURES_FROM", "")

IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}

#: Under this policy whatever a model looks at waits for a person.
HOLD_ALL = "".join(f"[{name}]\napprove_below = 0\nblock_from = 1\n" for name in ("photo", "drawn"))

#: Layout shift of a whole session, of which nobody sees anything. What moves after a key counts as
#: well, which browsers leave out of their own sum.
MOST_SHIFT = 0.02

WATCH_SHIFTS = """
window.shift = 0;
window.moved = [];
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) {
    window.shift += entry.value;
    const what = entry.sources.map(({node, previousRect: was, currentRect: is}) =>
      `${node?.id || node?.className || node?.nodeName} ` +
      `${was.y},${was.height}>${is.y},${is.height}`);
    window.moved.push(`${entry.value.toFixed(4)}: ${what}`);
  }
}).observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder, changes = tmp_path_factory.mktemp("grid"), {}
    if FROM:
        (folder / "all.toml").write_text(HOLD_ALL)
        changes["AVATARMOD_POLICY_FILE"] = str(folder / "all.toml")
    with run_stack(folder, **changes) as stack:
        for name in ("ann", "bob"):
            Users(store_of(stack)).save(name, Role.MODERATOR, PASSWORD)
        yield stack


def hold(stack: Stack, name: str, count: int, first: int, twins: int = 1) -> list[str]:
    """Pictures that wait for a person, each `twins` times."""
    ids = [f"{name}/{n:03d}.{m}" for n in range(count) for m in range(twins)]
    with stack.http() as http:
        for place, upload_id in enumerate(ids):
            files = {"image": ("x", gray_picture(first + place // twins))}
            assert http.post("/v1/uploads", data={"upload_id": upload_id}, files=files).is_success
    wait_until(lambda: states(store_of(stack), ids) == {AvatarState.HELD: len(ids)}, 240, "held")
    return ids


def hold_real(stack: Stack, name: str, count: int) -> list[str]:
    """Pictures of the folder that wait for a person; what is refused or approved is left out."""
    store, files = store_of(stack), contents_of(Path(FROM))
    held: list[str] = []
    with stack.http() as http:
        while len(held) < count:
            some = list(itertools.islice(files, count - len(held)))
            assert some, f"the folder holds no more than {len(held)} such pictures"
            ids = [f"{name}/{hashlib.sha256(data).hexdigest()}" for data in some]
            for upload_id, data in zip(ids, some, strict=True):
                http.post(
                    "/v1/uploads", data={"upload_id": upload_id}, files={"image": ("x", data)}
                )
            wait_until(lambda ids=ids: not states(store, ids).get("queued"), 600, "looked at")
            held += [a.upload_id for a in store.get_many(ids) if a and a.state == AvatarState.HELD]
    return held


def contents_of(folder: Path) -> Iterator[bytes]:
    """Each picture once, in an order drawn at random, which is always the same."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGES]
    random.Random(1).shuffle(files)
    seen: set[bytes] = set()
    for path in files:
        data = path.read_bytes()
        if (digest := hashlib.sha256(data).digest()) not in seen:
            seen.add(digest)
            yield data


def nothing_else_waits(own: Stack) -> None:
    """What a test before this one left is decided."""
    store = store_of(own)
    for upload_id in store.open_ids("held", 0, 1000):
        Decisions(store).decide(upload_id, "approved", by="bob")


def states(store: Store, ids: list[str]) -> dict[str, int]:
    return dict(collections.Counter(str(a.state) for a in store.get_many(ids) if a))


def open_grid(page: Page) -> Page:
    page.goto("/console/grid")
    expect(page.locator(".shot.focus")).to_have_count(1)
    return page


@pytest.fixture
def ann(browser: Browser, own: Stack) -> Iterator[Page]:
    page = sign_in(browser, own, "ann")
    page.add_init_script(WATCH_SHIFTS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.context.close()
    assert problems == []


def sent(page: Page) -> None:
    """Wait until nothing is on its way any more."""
    expect(page.locator("#progress")).not_to_contain_text("being sent", timeout=120_000)


def test_all_that_is_held_is_decided_by_keyboard(own: Stack, ann: Page) -> None:
    """As fast as keys can be pressed: each picture once, as its key said, each told once."""
    ids = hold_real(own, "fast", HELD) if FROM else hold(own, "fast", HELD, 2000)
    posts: list[str] = []
    ann.on("request", lambda request: posts.append(request.url))
    open_grid(ann)
    # A picture of the whole page makes the window 1 px wide for a moment, and all of it moves.
    shoot(ann, "grid", full=False)
    began_s, keys = time.monotonic(), 0
    wanted: dict[str, str] = {}
    while len(wanted) < HELD:
        focus = ann.locator(".shot.focus")
        expect(focus, f"after {len(wanted)}").to_have_class("shot focus", timeout=20_000)
        upload_id = focus.get_attribute("data-id") or ""
        key = "b" if len(wanted) % 5 == 0 else "a"
        ann.keyboard.press(key)
        wanted[upload_id] = {"a": "approved", "b": "blocked"}[key]
        keys += 1
        if key == "b" and len(wanted) % 2:
            ann.keyboard.press("4")
            keys += 1
    ann.keyboard.press("Escape")
    sent(ann)
    took_s = time.monotonic() - began_s
    assert sorted(wanted) == sorted(ids)
    store = store_of(own)
    found = {avatar.upload_id: avatar for avatar in store.get_many(ids) if avatar}
    assert {one: str(avatar.state) for one, avatar in found.items()} == wanted
    assert {avatar.decided_by for avatar in found.values()} == {"operator:ann"}
    assert "violence" in {avatar.block_reason for avatar in found.values()}
    decided = [url for url in posts if url.endswith("/grid/decide")]
    assert len(decided) == HELD, "one request a decision"
    expect(ann.locator("#session h2 b")).to_have_text(str(HELD))
    wait_until(lambda: len(told(own, ids)) == HELD, 60, "all are told")
    assert set(told(own, ids).values()) == {1}
    shift = ann.evaluate("window.shift")
    assert shift <= MOST_SHIFT, ann.evaluate("window.moved")
    shoot(ann, "grid-decided")
    print(
        f"{HELD} pictures, {keys} keys in {took_s:.1f} s: {HELD / took_s * 60:.0f} a minute, "
        f"{len(posts)} requests, layout shift {shift:.4f}"
    )


def test_undo_takes_back_any_of_the_session(own: Stack, ann: Page) -> None:
    """Before it is sent, after it was sent, and by the list after a reload."""
    ids = hold(own, "undo", 6, 3000)
    store = store_of(own)
    open_grid(ann)
    ann.keyboard.press("b")
    ann.keyboard.press("u")
    sent(ann)
    assert states(store, ids) == {"held": 6}, "it never left the page"
    ann.keyboard.press("a")
    sent(ann)
    wait_until(lambda: states(store, ids) == {"approved": 1, "held": 5}, 30, "approved")
    ann.keyboard.press("u")
    wait_until(lambda: states(store, ids) == {"held": 6}, 30, "taken back")
    # The next key may come before the answer.
    ann.keyboard.press("a")
    sent(ann)
    ann.evaluate(
        "for (const key of 'ua')"
        " document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
    )
    for _ in range(2):
        ann.keyboard.press("a")
    sent(ann)
    assert states(store, ids) == {"approved": 3, "held": 3}
    open_grid(ann)
    rows = ann.locator("#session li")
    rows.nth(2).get_by_role("button", name="Undo").click()
    wait_until(lambda: states(store, ids) == {"approved": 2, "held": 4}, 30, "one of them")
    expect(rows.nth(2)).to_contain_text("taken back")
    for _ in range(4):
        ann.keyboard.press("a")
    sent(ann)
    assert states(store, ids) == {"approved": 6}


def test_a_conflict_shows_on_its_tile(own: Stack, ann: Page) -> None:
    """Somebody was faster: the tile says who, and nothing is overturned."""
    ids = hold(own, "late", 3, 3100)
    open_grid(ann)
    first = ann.locator(".shot.focus").get_attribute("data-id") or ""
    Decisions(store_of(own)).decide(first, "blocked", by="bob")
    ann.keyboard.press("a")
    tile = ann.locator(f'.shot[data-id="{first}"]')
    expect(tile.locator(".mark")).to_contain_text("blocked, by bob")
    expect(ann.locator("#session li").first.locator(".fate")).to_contain_text("by bob")
    shoot(ann, "grid-conflict")
    sent(ann)
    assert states(store_of(own), ids) == {"blocked": 1, "held": 2}
    ann.keyboard.press("a")
    ann.keyboard.press("a")
    sent(ann)
    assert states(store_of(own), ids) == {"blocked": 1, "approved": 2}


def test_what_cannot_be_sent_is_kept(own: Stack, ann: Page) -> None:
    """Through an outage and through a reload of the page."""
    ids = hold(own, "kept", 4, 3200)
    open_grid(ann)
    ann.route("**/grid/decide", lambda route: route.abort())
    for _ in range(4):
        ann.keyboard.press("a")
    expect(ann.get_by_role("alert")).to_contain_text("does not answer")
    assert states(store_of(own), ids) == {"held": 4}
    ann.on("dialog", lambda dialog: dialog.accept())
    ann.unroute("**/grid/decide")
    ann.reload()
    wait_until(lambda: states(store_of(own), ids) == {"approved": 4}, 30, "sent after all")


def test_twins_are_one_tile_and_several_are_selected(own: Stack, ann: Page) -> None:
    """Shift selects, one key decides them; the rest is approved at once, after a question."""
    ids = hold(own, "many", 8, 3300, twins=2)
    open_grid(ann)
    tiles = ann.locator(".shot")
    expect(tiles).to_have_count(8)
    expect(tiles.first.locator(".twins")).to_contain_text("×2")
    ann.keyboard.press("1")
    ann.keyboard.press("Shift+ArrowRight")
    ann.keyboard.press("Shift+ArrowRight")
    expect(ann.locator(".shot.selected")).to_have_count(3)
    ann.keyboard.press("b")
    ann.keyboard.press("1")
    sent(ann)
    found = [a for a in store_of(own).get_many(ids) if a and a.state == AvatarState.BLOCKED]
    assert len(found) == 6, "with their twins"
    assert {avatar.block_reason for avatar in found} == {"nudity"}
    expect(ann.locator(".shot.focus img").first).to_have_js_property("complete", True)
    ann.keyboard.press("n")
    expect(ann.locator(".shot.later")).to_have_count(1)
    for image in ann.locator(".shot > a > .picture:first-child img").all():
        expect(image).to_have_js_property("complete", True)
    ann.keyboard.press("Shift+A")
    expect(ann.locator("#ask")).to_contain_text("Approve the 4 pictures")
    ann.keyboard.press("Enter")
    sent(ann)
    wait_until(lambda: states(store_of(own), ids)["approved"] == 8, 30, "the rest")
    expect(ann.locator(".shot")).to_have_count(1, timeout=30_000)
    ann.keyboard.press("a")
    sent(ann)
    assert states(store_of(own), ids) == {"approved": 10, "blocked": 6}


def test_two_people_have_other_tiles_and_hear_of_each_other(
    browser: Browser, own: Stack, ann: Page
) -> None:
    """New pictures come by themselves, and what a colleague decided is marked."""
    open_grid_or_empty(ann)
    expect(ann.locator("#nothing")).to_be_visible()
    hold(own, "shared", 4, 3400)
    expect(ann.locator(".shot")).to_have_count(4, timeout=30_000)
    expect(ann).to_have_title(re.compile(r"^\(4\)"))
    expect(ann.locator("nav [data-count=held]").first).to_have_text("4")
    bob = sign_in(browser, own, "bob")
    bob.goto("/console/grid")
    expect(bob.locator("#nothing")).to_contain_text("in front of other moderators")
    theirs = ann.locator(".shot").nth(2).get_attribute("data-id") or ""
    Decisions(store_of(own)).decide(theirs, "approved", by="bob")
    mark = ann.locator(f'.shot[data-id="{theirs}"] .mark')
    expect(mark).to_contain_text("approved by bob", timeout=30_000)
    bob.context.close()
    for _ in range(3):
        ann.keyboard.press("a")
    sent(ann)


def open_grid_or_empty(page: Page) -> None:
    page.goto("/console/grid")


def test_an_animation_plays_in_focus(own: Stack, ann: Page) -> None:
    """Its frames stand in a row; bare pictures stay chosen for the session, on every page."""
    upload_id = "moving/1"
    with own.http() as http:
        files = {"image": ("x", animation(*map(cartoon_face, range(4))))}
        assert http.post("/v1/uploads", data={"upload_id": upload_id}, files=files).is_success
        http.get(f"/v1/avatars/{upload_id}?wait=30")
    avatar = store_of(own).get(upload_id)
    assert avatar is not None
    if avatar.state != AvatarState.HELD:
        Decisions(store_of(own)).decide(upload_id, "blocked", by="bob")
        Decisions(store_of(own)).undo(upload_id, by="bob")
    open_grid(ann)
    expect(ann.locator(".film")).to_be_visible()
    expect(ann.locator(".zoom canvas")).to_be_visible()
    before = ann.locator(".zoom canvas").evaluate("c => c.toDataURL()")
    wait_until(
        lambda: ann.locator(".zoom canvas").evaluate("c => c.toDataURL()") != before, 30, "it moves"
    )
    image = ann.locator(".shot img").first
    assert "blur" in image.evaluate("e => getComputedStyle(e).filter")
    ann.keyboard.press(" ")
    expect(image).to_have_css("filter", "none")
    with ann.expect_response(re.compile("/choose[?]look=shown")):
        ann.get_by_role("link", name="As they are").click()
    expect(ann.locator("html")).to_have_attribute("data-look", "shown")
    ann.keyboard.press("Enter")
    ann.goto("/console/uploads")
    expect(ann.locator("html")).to_have_attribute("data-look", "shown")
    ann.goto("/console/grid")
    shoot(ann, "grid-animation")
    ann.keyboard.press("a")
    sent(ann)


def test_a_phone_decides_with_large_buttons(browser: Browser, own: Stack) -> None:
    """At 390 px: three tiles a row, the picture in focus and the buttons at the bottom."""
    ids = hold(own, "phone", 5, 3500)
    page = sign_in(browser, own, "ann")
    page.set_viewport_size({"width": 390, "height": 844})
    open_grid(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".shot").nth(1).click()
    shoot(page, "grid-phone", full=False)
    page.get_by_role("button", name="Approve", exact=True).click()
    page.get_by_role("button", name="Block").click()
    page.get_by_role("button", name="minor").click()
    sent(page)
    assert states(store_of(own), ids) == {"approved": 1, "blocked": 1, "held": 3}
    page.context.close()
