"""Lists with pictures that stay true while they are open, without a jump."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from producer.record.decisions import Decisions
from tests.browser.conftest import Open, shoot
from tests.browser.test_console import gray_picture, life, store_of, upload
from tests.browser.test_grid import MOST_SHIFT, WATCH_SHIFTS
from tests.integration.web.conftest import Stack
from tests.support import wait_until
from worker.demo.pictures import cartoon_face, encode

__all__ = ["life"]

pytestmark = pytest.mark.browser


def look_again(page: Page) -> None:
    """What the page does every ten seconds, now."""
    with page.expect_response(lambda answer: answer.request.resource_type == "fetch"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_an_open_list_is_brought_up_to_date(open_page: Open, stack: Stack, life: None) -> None:
    """A row changes in its place; what is new is said, and comes when it is asked for."""
    upload(stack, "fresh/1", gray_picture(410))
    page = open_page()
    page.add_init_script(WATCH_SHIFTS)
    row = page.locator("tr[data-key='fresh/1']")

    def is_listed() -> bool:
        page.goto("/console/uploads")
        return row.count() == 1

    wait_until(is_listed, 60, "the ledger has it")
    expect(row.locator(".badge")).to_have_text("held")
    row.scroll_into_view_if_needed()
    expect(row.locator("img")).to_have_js_property("complete", True)
    Decisions(store_of(stack)).decide("fresh/1", "blocked", by="ann")
    upload(stack, "fresh/2", encode(cartoon_face(300), "PNG"))

    def is_said() -> bool:
        look_again(page)
        return page.locator("#news").is_visible()

    wait_until(is_said, 60, "there is something new")
    expect(row.locator(".badge")).to_have_text("blocked")
    assert page.locator("tr[data-key='fresh/2']").count() == 0
    assert page.evaluate("window.shift") <= MOST_SHIFT, page.evaluate("window.moved")
    shoot(page, "lists-news", full=False)
    page.get_by_role("button", name="Show it").click()
    expect(page.locator("tr[data-key='fresh/2'] img")).to_have_count(1)
    expect(page.locator("#news")).to_be_hidden()


def test_an_open_upload_tells_that_it_changed(open_page: Open, stack: Stack, life: None) -> None:
    """Its state at once; the rest of the page when the reader wants it."""
    upload(stack, "fresh/3", gray_picture(411))
    page = open_page()
    page.add_init_script(WATCH_SHIFTS)
    page.goto("/console/uploads/fresh%2F3")
    entries = page.locator(".timeline > li")
    wait_until(lambda: bool(page.reload()) and entries.count() > 1, 30, "its story is there")
    before = entries.count()
    Decisions(store_of(stack)).decide("fresh/3", "approved", by="ann")
    look_again(page)
    expect(page.locator("h1 .badge")).to_have_text("approved")
    expect(page.locator("#news")).to_be_visible()
    assert page.evaluate("window.shift") <= MOST_SHIFT, page.evaluate("window.moved")
    page.get_by_role("button", name="Show it").click()
    expect(entries.nth(before)).to_contain_text("ann approved it.")


def test_nothing_new_says_nothing(open_page: Open, stack: Stack, life: None) -> None:
    """Times that grow and pictures that are missing are no news."""
    page = open_page()
    for path in ("/uploads/site-a%2Fbadge-7", "/dead-letters", "/activity", "/providers"):
        page.goto("/console" + path)
        look_again(page)
        page.wait_for_timeout(300)
        assert page.locator("#news").is_hidden(), path


def test_a_person_and_a_look_alike_are_found(open_page: Open, stack: Stack, life: None) -> None:
    """By the site's own id of the person, and by a picture from the moderator's machine."""
    upload(stack, "mine/1", encode(cartoon_face(310), "PNG"), subject="user-1")
    upload(stack, "mine/2", gray_picture(412), subject="user-1")
    page = open_page()
    page.goto("/console/uploads")
    page.fill("input[name=q]", "user-1")
    page.select_option("select[name=kind]", "person")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".pictures li")).to_have_count(2)
    assert "user-1" not in page.url
    for image in page.locator(".pictures img").all():
        assert "blur" in image.evaluate("e => getComputedStyle(e).filter")
    page.get_by_role("link", name="As they are").click()
    expect(page.locator(".pictures img").first).to_have_css("filter", "none")
    shoot(page, "person")
    page.goto("/console/uploads")
    file = {"name": "x.png", "mimeType": "image/png", "buffer": gray_picture(412)}
    page.set_input_files("input[type=file]", file)  # type: ignore[arg-type]
    page.get_by_role("button", name="Look it up").click()
    page.wait_for_url("**/console/look-alikes", timeout=90_000)
    expect(page.get_by_role("link", name="mine/2").first).to_be_visible()
    shoot(page, "look-alikes")


def test_times_are_the_readers(open_page: Open, stack: Stack, life: None) -> None:
    """How long ago, and on hover exactly when, in the zone of the browser."""
    page = open_page(timezone_id="America/New_York")
    for path in ("/uploads", "/uploads/site-a%2Fbadge-7", "/grid", "/review"):
        page.goto("/console" + path)
        times = page.locator("main time[datetime]")
        assert times.count(), path
        for time in times.all():
            assert re.search(r"GMT-[45]|E[SD]T", time.get_attribute("title") or ""), path
            assert "ago" in time.inner_text(), path
