"""The API's page at /docs: every operation, from this server alone."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, shoot
from tests.integration.web.conftest import Stack

pytestmark = pytest.mark.browser


def test_every_operation_is_shown_and_nothing_is_asked_of_others(
    open_page: Open, stack: Stack
) -> None:
    """No request leaves for another host, and no policy is broken (the fixture would see it)."""
    page = open_page(signed_in=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/docs")
    paths = httpx.get(f"{stack.url}/openapi.json", trust_env=False).json()["paths"]
    expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))
    for path, methods in paths.items():
        for method in methods:
            block = page.locator(f'.opblock-{method} .opblock-summary-path[data-path="{path}"]')
            expect(block).to_be_visible()
    shoot(page, "docs")
    assert len(asked) >= 5
    assert all(url.startswith((stack.url, "data:")) for url in asked)


def test_a_call_can_be_tried_out(open_page: Open) -> None:
    """From the page, on the running instance, with a wrong key too."""
    page = open_page(signed_in=False)
    page.goto("/docs")
    alive = page.locator(".opblock", has=page.locator('[data-path="/healthz"]'))
    alive.locator(".opblock-summary-control").click()
    alive.get_by_role("button", name="Try it out").click()
    alive.get_by_role("button", name="Execute").click()
    expect(alive.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    page.get_by_role("button", name="Authorize").click()
    expect(page.locator(".auth-container").first).to_be_visible()
