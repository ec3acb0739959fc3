"""Debian's Chromium through Playwright, on the running instance of the integration tests.

Screenshots are kept under artifacts/; look at them after a change.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.integration.web.conftest import Stack, stack, valkey_server

__all__ = ["stack", "valkey_server"]

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "artifacts" / "console"

# What must come, comes; how long it takes on a busy machine is no fault.
expect.set_options(timeout=20_000)

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        message = "chromium is not installed; on Debian: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    SHOTS.mkdir(parents=True, exist_ok=True)
    with launched(chromium) as running:
        yield running


@contextlib.contextmanager
def launched(chromium: str) -> Iterator[Browser]:
    """A browser, to be used in the thread that it was started in."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def signed_in_state(browser: Browser, stack: Stack) -> Any:
    """The cookies of one sign-in, for every browser that starts signed in."""
    context = browser.new_context(base_url=stack.url)
    page = context.new_page()
    page.goto("/console")
    page.fill("input[name=name]", "admin")
    page.fill("input[name=password]", stack.password)
    page.click("button.primary")
    page.wait_for_url("**/console")
    state = context.storage_state()
    context.close()
    return state


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, stack: Stack, signed_in_state: Any) -> Iterator[Open]:
    """Opens a clean browser, signed in unless told otherwise; any script error fails the test."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def start(*, signed_in: bool = True, **options: object) -> Page:
        context = browser.new_context(
            base_url=stack.url,
            storage_state=signed_in_state if signed_in else None,
            **{"viewport": {"width": 1280, "height": 840}, "locale": "en-GB", **options},  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: (
                problems.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )
        if signed_in:
            page.goto("/console")
        return page

    yield start
    for context in contexts:
        context.close()
    assert problems == []


def shoot(page: Page, name: str, *, full: bool = True) -> None:
    """Keep what is shown."""
    page.screenshot(path=SHOTS / f"{name}.png", full_page=full)
