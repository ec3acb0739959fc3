"""What people do in the console, done by a browser: by keyboard, on a phone, in two languages."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from producer.connect import redis_client
from producer.record.store import Store
from tests.browser.conftest import ROOT, SHOTS, Open, shoot
from tests.integration.web.conftest import Stack
from tests.support import wait_until
from worker.demo.pictures import (
    cartoon_face,
    demo_files,
    encode,
    identicon,
    landscape,
    transparent_badge,
)

pytestmark = pytest.mark.browser

PAGES = [
    "",
    "/grid",
    "/review",
    "/uploads",
    "/dead-letters",
    "/providers",
    "/thresholds",
    "/activity",
]


def gray_picture(number: int) -> bytes:
    """The badge that the stack's policy calls gray, a little different every time."""
    import io

    image = Image.open(io.BytesIO(transparent_badge())).convert("RGBA")
    ImageDraw.Draw(image).point((number % 200, 100 + number // 200), fill=(200, 100, 30, 255))
    return encode(image, "PNG")


def upload(
    stack: Stack, upload_id: str, data: bytes, *, wait: bool = True, **fields: str
) -> dict[str, Any]:
    """Send a picture and wait for what comes of it."""
    with stack.http() as http:
        answer = http.post(
            "/v1/uploads", data={"upload_id": upload_id, **fields}, files={"image": ("x", data)}
        )
        assert answer.status_code in (200, 202)
        if not wait:
            return {}
        found: dict[str, Any] = http.get(f"/v1/avatars/{upload_id}?wait=30").json()["data"]
        return found


def store_of(stack: Stack) -> Store:
    return Store(redis_client(stack.supervisor.redis_url))


@pytest.fixture(scope="session")
def life(stack: Stack) -> None:
    """An instance that has seen something: every sample, several times over."""
    for name, data in demo_files().items():
        upload(stack, f"site-a/{name}", data)
    for number in range(18):
        upload(stack, f"site-a/user-{number:03d}", encode(cartoon_face(number), "PNG"), wait=False)
        upload(stack, f"site-a/photo-{number:03d}", encode(landscape(number), "JPEG"), wait=False)
    for number in range(8):
        assert upload(stack, f"site-a/badge-{number}", gray_picture(number))["state"] == "held"


def test_sign_in_by_keyboard(open_page: Open, stack: Stack) -> None:
    """A wrong password is refused in words, the right one leads to the page that was asked for."""
    page = open_page(signed_in=False)
    page.goto("/console/thresholds")
    shoot(page, "sign-in", full=False)
    page.keyboard.type("admin")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Name or password is wrong")
    page.fill("input[name=name]", "admin")
    page.fill("input[name=password]", stack.password)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/thresholds")


def test_a_held_picture_is_moderated_by_keyboard(open_page: Open, stack: Stack, life: None) -> None:
    """Show, block, undo, approve, next by single keys; the web tier hears of every decision."""
    page = open_page()
    page.goto("/console/review")
    upload_id = page.locator(".column h2.id").inner_text()
    expect(page.locator("#lost")).to_be_hidden()  # nobody else has it
    picture = page.locator(".picture.big")
    expect(picture.locator("img")).to_have_js_property("complete", True)
    assert page.evaluate("document.querySelector('.picture.big img').naturalWidth") > 100
    assert "blur" in picture.locator("img").evaluate("e => getComputedStyle(e).filter")
    shoot(page, "review")
    page.keyboard.press(" ")
    expect(picture.locator("img")).to_have_css("filter", "none")
    for key, state in (("b", "blocked"), ("u", "held"), ("a", "approved")):
        page.keyboard.press(key)
        page.wait_for_url(re.compile(r"\?done=" if key != "u" else r"\?at="))
        assert stack.receiver.wait_for({upload_id}, {upload_id: state}, 30), (key, state)
    expect(page.get_by_role("status")).to_contain_text(f"{upload_id} is now approved")
    shoot(page, "review-decided")
    before = page.locator(".column h2.id").inner_text()
    page.keyboard.press("n")
    expect(page.locator(".column h2.id")).not_to_have_text(before)
    assert all(received.verified for received in stack.receiver.received)
    page.goto("/console/activity")
    expect(page.locator("tbody tr").first).to_contain_text(upload_id)
    shoot(page, "activity")


def test_a_decision_sticks_to_the_content(open_page: Open, stack: Stack, life: None) -> None:
    """The same bytes under a new id get the person's answer at once."""
    data = gray_picture(150)
    assert upload(stack, "sticky-1", data)["state"] == "held"
    page = open_page()
    page.goto("/console/uploads/sticky-1")
    page.get_by_role("button", name="Block").click()
    expect(page.locator("h1 .badge")).to_have_text("blocked")
    again = upload(stack, "sticky-2", data)
    assert (again["state"], again["decided_by"]) == ("blocked", "operator:admin")


def test_a_dead_letter_is_replayed(open_page: Open, stack: Stack, life: None) -> None:
    """Filter, select, replay: the upload is decided after all and its callback arrives."""
    images = stack.settings.data_folder / "images"
    store = store_of(stack)
    with stack.http() as http:
        # A picture whose host refuses connections, with its tries nearly used up.
        store.redis.set(store.key("sweeper"), "held by the test", ex=5)
        body = {"upload_id": "letter-1", "image": "http://127.0.0.1:9/x.png"}
        assert http.post("/v1/uploads", json=body).status_code == 202
    used_up = {"attempts": "999", "failures": ""}
    store.redis.hset(store.key("avatar", "letter-1"), mapping=used_up)
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        avatar = store.get("letter-1")
        assert avatar is not None
        if avatar.state == "dead":
            break
        store.redis.hset(store.key("avatar", "letter-1"), mapping=used_up)
        time.sleep(0.2)
    assert avatar.state == "dead"
    (images / "letter-1.png").write_bytes(encode(identicon(77), "PNG"))
    store.redis.hset(store.key("avatar", "letter-1"), "image", "letter-1.png")
    page = open_page()
    page.goto("/console/dead-letters?error=storage")
    shoot(page, "dead-letters")
    replay = page.get_by_role("button", name="Replay selected")
    expect(replay).to_be_disabled()
    page.get_by_label("select letter-1").check()
    replay.click()
    expect(page.get_by_role("status")).to_contain_text("1 of 1 replayed")
    assert stack.receiver.wait_for({"letter-1"}, {"letter-1": "approved"}, 30)
    store.redis.close()


def test_the_story_tells_everything(open_page: Open, stack: Stack, life: None) -> None:
    """One upload's page has its score between the cut-offs, its views and each transition."""
    page = open_page()
    page.goto("/console/uploads")
    shoot(page, "uploads")
    page.fill("input[name=q]", "site-a/badge-7")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="site-a/badge-7").click()
    expect(page.locator(".timeline > li").first).to_contain_text("waits for the model")
    expect(page.locator(".timeline")).to_contain_text("waits for a moderator")
    expect(page.locator("svg.scale .marker")).to_have_count(1)
    page.locator("details.card summary", has_text="Details").click()
    sha256 = page.locator("dd code").first.inner_text()
    shoot(page, "story")
    page.goto(f"/console/uploads?q={sha256}")
    expect(page.get_by_role("link", name="site-a/badge-7")).to_have_count(1)


def test_thresholds_answer_what_if(open_page: Open, stack: Stack, life: None) -> None:
    """Other cut-offs change the proposed shares; nonsense is refused in words."""
    page = open_page()
    page.goto("/console/thresholds")
    # What was counted before there was anything is kept for a while.
    is_counted = lambda: page.reload() and page.locator("table.compare").count()  # noqa: E731
    wait_until(is_counted, 60, "pictures in the ledger")
    expect(page.get_by_role("button", name="Put in force")).to_have_count(0)
    for name, value in (("approve_below", "0"), ("block_from", "1")):
        page.fill(f"input[name={name}]", value)
        page.fill(f"input[name=drawn_{name}]", value)
    page.get_by_role("button", name="Calculate").click()
    expect(page.locator("table.compare tr", has_text="gray").first).to_contain_text("100.0%")
    expect(page.get_by_role("heading", name="Newly gray")).to_be_visible()
    expect(page.locator(".thumbs img").first).to_be_visible()
    page.get_by_role("button", name="Put in force").click()
    # It asks why, and does nothing before it is told.
    expect(page.locator("input[name=note]:invalid")).to_have_count(1)
    shoot(page, "thresholds")
    page.goto("/console/thresholds?approve_below=0.9&block_from=0.1")
    expect(page.get_by_role("alert")).to_contain_text("Use numbers from 0 to 1")


def test_language_and_colours_are_chosen_and_kept(
    open_page: Open, stack: Stack, life: None
) -> None:
    """中文 and dark stay chosen on the next page; the text is Chinese, the background dark."""
    page = open_page()
    page.goto("/console/review")
    page.get_by_role("link", name="中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("h1")).to_have_text("人工审核")
    shoot(page, "review-zh")
    page.goto("/console")
    page.get_by_role("link", name=re.compile("深色")).click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert _brightness(page) < 60
    shoot(page, "overview-zh-dark")
    page.goto("/console/review")
    assert _brightness(page) < 60
    expect(page.locator("h1")).to_have_text("人工审核")


def test_dark_follows_the_system(open_page: Open, stack: Stack, life: None) -> None:
    """Without a choice the system's colours count, and a Chinese browser is served Chinese."""
    page = open_page(color_scheme="dark", locale="zh-CN")
    assert _brightness(page) < 60
    expect(page.locator("h1")).to_have_text("概览")
    for path in ("/review", "/thresholds", "/dead-letters", "/uploads/site-a%2Fbadge-7"):
        page.goto("/console" + path)
        shoot(page, f"dark{path.replace('/', '-').replace('%2F', '-')}")


def _brightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


#: Tiles of the overview.
FIGURES = 9


@pytest.mark.parametrize("width", [1440, 1200, 1000, 800, 390])
def test_the_figures_fill_their_rows(open_page: Open, stack: Stack, life: None, width: int) -> None:
    """Every row of the overview's figures ends at the same edge, and no text is cut."""
    page = open_page(viewport={"width": width, "height": 900})
    tiles = page.locator(".figures .tile")
    expect(tiles).to_have_count(FIGURES)
    boxes = [tiles.nth(n).bounding_box() for n in range(FIGURES)]
    rows: dict[int, float] = {}
    for box in boxes:
        assert box is not None
        rows[round(box["y"])] = box["x"] + box["width"]
    assert max(rows.values()) - min(rows.values()) < 1
    for n in range(FIGURES):
        assert tiles.nth(n).evaluate("tile => tile.scrollWidth <= tile.clientWidth")


def test_a_phone_shows_every_page_without_sideways_scrolling(
    open_page: Open, stack: Stack, life: None
) -> None:
    """At 390 px no page is wider than the screen, and what is touched is large enough."""
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True)
    for path in [*PAGES, "/uploads/site-a%2Fbadge-7"]:
        page.goto("/console" + path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, (path, width)
        small = page.evaluate(
            "[...document.querySelectorAll('main button, main a.button')]"
            ".filter(e => e.offsetParent)"
            ".map(e => e.getBoundingClientRect()).filter(r => r.height < 34).length"
        )
        assert small == 0, path
        shoot(page, "phone" + (path.replace("/", "-").replace("%2F", "-") or "-overview"))


def test_it_works_without_script(open_page: Open, stack: Stack, life: None) -> None:
    """With JavaScript off a picture can still be decided by its buttons."""
    upload(stack, "no-script", gray_picture(160))
    page = open_page(java_script_enabled=False)
    page.goto("/console/review?at=no-script")
    page.get_by_role("button", name="Block").click()
    expect(page.get_by_role("status")).to_contain_text("no-script is now blocked")


def test_the_screenshot_of_the_readme(open_page: Open, stack: Stack, life: None) -> None:
    """The picture in README.md is this console's own, made here where README_PICTURE is set."""
    page = open_page(viewport={"width": 1280, "height": 800})
    page.goto("/console/review")
    page.locator('.strip a[aria-label^="site-a/user"]').first.click()
    expect(page.locator(".column h2.id")).to_contain_text("site-a/user")
    for picture in page.locator(".picture img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", True)
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press(" ")
    page.wait_for_timeout(400)
    shoot(page, "readme", full=False)
    is_asked_for = bool(os.environ.get("README_PICTURE"))
    target = (ROOT / "docs" / "images" if is_asked_for else SHOTS) / "console.png"
    Image.open(SHOTS / "readme.png").convert("RGB").save(target, optimize=True)
    assert 20_000 < target.stat().st_size < 400_000


def test_stats_are_the_same_numbers(open_page: Open, stack: Stack, life: None) -> None:
    """/console/stats gives the overview's figures as JSON."""
    page = open_page()
    answer = page.request.get("/console/stats")
    figures = json.loads(answer.text())["figures"]
    page.goto("/console")
    shoot(page, "overview")
    shown = page.locator(".figures .tile").first.locator("strong").inner_text()
    assert int(shown.replace(",", "")) == pytest.approx(figures["decided"], abs=5)
